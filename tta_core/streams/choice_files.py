"""The files that a stream's fields may name: an order, or a list of images. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tta_core.data.benchmarks import CLEAN, owner
from tta_core.data.spec import BenchmarkSpec
from tta_core.errors import InputError, unknown_name
from tta_core.streams.order import IMPORTED, StreamOrder
from tta_core.streams.order_files import read_order
from tta_core.streams.subsets import read_subset

FILES = {"order_file": "order_hash", "subset_file": "subset_hash"}
"""Fields that name a file -> fields with the hash of its content: the path is no part of a cell's id."""


def resolved_files(given: Mapping[str, Any], benchmark: BenchmarkSpec, *, domains_given: bool) -> dict[str, Any]:
    """Reads the files that a stream's fields name.

    Nothing is read where what follows from them is all there: so a resolved configuration reads back after its files
    are gone.

    Args:
        given: the fields; `domains` is a list already.
        benchmark: the benchmark.
        domains_given: whether the domains are the user's choice.

    Returns:
        The fields that name files, with the hashes of these, and what else follows from them.

    Raises:
        InputError: if a file cannot be used, is not the one of the hash that is given, or contradicts other fields.
    """
    values: dict[str, Any] = {}
    for field, hashed in FILES.items():
        path = given.get(field)
        if path is not None:
            if not isinstance(path, str | Path) or not str(path):
                raise InputError(f"{field} = {path!r} is no path of a file: give one, or leave it out")
            values[field] = str(Path(str(given[field])).expanduser().absolute())
        elif given.get(hashed):
            raise InputError(f"{hashed} = {given[hashed]!r}, but there is no {field}: give it, or leave {hashed} out")
        else:
            values[field], values[hashed] = None, None
    if values["order_file"] is None:
        if given.get("stream") == IMPORTED:
            raise InputError(f"the stream {IMPORTED!r} takes its order from a file: give order_file")
    elif values["subset_file"] is not None:
        raise InputError("order_file says which images come, and subset_file does too: leave one out")
    elif not (given.get("order_hash") and given.get("samples_per_domain") and given.get("stream") == IMPORTED):
        values |= _resolved_order(given, Path(values["order_file"]), benchmark, domains_given)
    if values["subset_file"] is not None and not (given.get("subset_hash") and given.get("samples_per_domain")):
        content = read_subset(Path(values["subset_file"])).content_hash()
        values["subset_hash"] = check_hash("subset_file", values["subset_file"], given.get("subset_hash"), content)
    return values


def check_hash(field: str, path: object, given: str | None, content: str) -> str:
    """Returns the hash of a file's content.

    Raises:
        InputError: if another is given.
    """
    hashed = FILES[field]
    if given not in (None, content):
        raise InputError(
            f"{field} = {path} has the hash {content}, not {hashed} = {given!r}: restore the file, "
            f"or leave {hashed} out to use what it holds now"
        )
    return content


def _resolved_order(
    given: Mapping[str, Any], path: Path, benchmark: BenchmarkSpec, domains_given: bool
) -> dict[str, Any]:
    found, stream = read_order(path), given.get("stream")
    made_by = (found.stream,) if found.order is not None else ("single", "label_shift")
    if stream is not None and stream not in (*made_by, IMPORTED):
        raise InputError(
            f"stream = {stream!r}, but order_file = {path} says the order"
            f"{f' (made as {found.stream!r})' if found.stream else ''}: leave stream out, or give {IMPORTED}"
        )
    domains = tuple(given["domains"])
    order = found.of(domains)
    if domains_given and set(domains) != set(order.domains):
        raise InputError(
            f"domains = {list(domains)}, but order_file = {path} has {list(order.domains)}: leave domains out"
        )
    _check_range(order, benchmark, path)
    samples = int(np.bincount(order.domain).max())
    if given.get("samples_per_domain") not in (None, samples):
        raise InputError(
            f"samples_per_domain = {given['samples_per_domain']!r}, but order_file = {path} has up to {samples} of a "
            "domain: leave samples_per_domain out; first_samples takes the first of the stream"
        )
    content = check_hash("order_file", path, given.get("order_hash"), order.order_hash())
    return {"order_hash": content, "stream": IMPORTED, "domains": order.domains, "samples_per_domain": samples}


def _check_range(order: StreamOrder, benchmark: BenchmarkSpec, path: Path) -> None:
    """Raises `InputError` if an order has domains or images that the benchmark lacks."""
    known = (*benchmark.domains, *benchmark.held_out_domains, CLEAN)
    for number, name in enumerate(order.domains):
        domain, at, severity = name.partition("@")
        if domain not in known:
            raise unknown_name(f"domain of {benchmark.name}", domain, known, f"(order_file = {path})")
        allowed = () if domain == CLEAN else owner(benchmark, domain).severities
        if at and severity not in map(str, allowed):
            raise InputError(
                f"order_file = {path} has the domain {name!r}, but {domain} of {benchmark.name} has the severities "
                f"{list(allowed)}"
            )
        most, images = int(order.index[order.domain == number].max(initial=-1)), benchmark.count(domain)
        if most >= images:
            raise InputError(
                f"order_file = {path} has the image {most} of {name}, but that has {images} in {benchmark.name}, "
                "counted from 0: choose the benchmark that the order was made for"
            )
