"""Downloads files of known checksum into the cache: once for all processes, never half a file. Imports no torch."""

from __future__ import annotations

import hashlib
import http.client
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from tta_core.backbones.own_weights import file_sha256
from tta_core.cache import cache_root, locked, write_whole
from tta_core.errors import InputError

FOLDER = "weights"

LOCK_SECONDS = 4 * 3600.0
"""How long to wait for another process that downloads the same file; a dead one frees the lock."""

TIMEOUT_SECONDS = 60.0
"""How long a server may say nothing."""

BLOCK_BYTES = 2**20

log = logging.getLogger(__name__)


def downloaded(url: str, sha256: str) -> Path:
    """The file of an address in the cache, downloaded if it is not there or not whole.

    Args:
        url: `https://`, `http://` or `file://`.
        sha256: checksum that it must have.

    Raises:
        InputError: if it cannot be had, has another checksum, or the cache cannot be written to.
    """
    if (found := downloaded_file(url, sha256)) is not None:
        return found
    if problem := offline_problem(url):
        raise InputError(problem)
    path = _path(url, sha256)
    with locked(path, seconds=LOCK_SECONDS):
        # Another process may have been first.
        if downloaded_file(url, sha256) is None:
            log.info("downloading %s to %s", shown(url), path)
            write_whole(path, lambda file: _write(file, url, sha256))
    return path


def downloaded_file(url: str, sha256: str) -> Path | None:
    """The file of an address in the cache; None if it is not there or not whole.

    Raises:
        InputError: if there is no folder for the cache.
    """
    path = _path(url, sha256)
    try:
        return path if file_sha256(path) == sha256 else None
    except InputError:
        return None


def offline_problem(url: str) -> str | None:
    """Why an address may not be asked; None if it may."""
    if url.startswith("file:") or not hub_is_offline():
        return None
    return (
        f"HF_HUB_OFFLINE is set, and {shown(url)} is not in the cache ({cache_root() / FOLDER}): unset it, or download "
        "the file elsewhere and give it as file"
    )


def hub_is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids downloads; it holds for all addresses, not only the hub's."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def shown(url: str) -> str:
    """An address for people: without user, password and what signs it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _path(url: str, sha256: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(unquote(urlsplit(url).path)).name)[-80:].lstrip(".-")
    return cache_root() / FOLDER / f"{sha256[:16]}-{name or 'weights'}"


def _write(file: BinaryIO, url: str, sha256: str) -> None:
    """Writes what an address holds, and looks whether it is that.

    Raises:
        InputError: if it is not.
    """
    digest, beginning = hashlib.sha256(), b""
    for block in _blocks(url):
        beginning = beginning or block[:200]
        digest.update(block)
        file.write(block)
    if digest.hexdigest() != sha256:
        page = ", and looks like a web page: the address must be that of the file itself" if b"<" in beginning else ""
        raise InputError(
            f"what {shown(url)} holds has sha256 {digest.hexdigest()[:12]}..., not {sha256[:12]}... as given{page}. "
            "Nothing of it is kept: correct the address or the checksum"
        )


def _blocks(url: str) -> Iterator[bytes]:
    """What an address holds, block by block.

    Raises:
        InputError: if it cannot be had, or breaks off.
    """
    done = 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            total = int(answer.headers.get("Content-Length") or 0)
            while block := answer.read(BLOCK_BYTES):
                done += len(block)
                yield block
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", None) or error
        raise InputError(
            f"{shown(url)} cannot be downloaded ({reason}): look at the address and the network, or give the weights "
            "as file"
        ) from None
    if done < total:
        raise InputError(f"{shown(url)} broke off after {done} of {total} bytes: run again")
