"""Files by name in a folder or in an object store: one row of pyarrow's file systems for both."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit, urlunsplit

from tta_core.errors import InputError

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo

PAUSES = (0.5, 3.0)
"""Seconds before each further try: object stores refuse a request now and then."""

DELAYED = "allow_delayed_open=true"
"""Option of pyarrow for S3: a small object is sent by one request, and a killed process leaves no part of it there."""

T = TypeVar("T")


def is_url(results: object) -> bool:
    """Whether results lie in an object store, and not in a folder."""
    return "://" in str(results)


def shown_place(results: str) -> str:
    """Where results are, for people: of a URL without password and options."""
    if not is_url(results):
        return str(results)
    parts = urlsplit(results)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


class Objects:
    """The objects below one place. Names are relative to it.

    All methods raise `OSError` if the place cannot be reached, or refuses.

    Attributes:
        url: a URL, or the absolute path of a folder.
        shown: the same for people: without password and options.
    """

    def __init__(self, url: str) -> None:
        """Names the place; nothing is asked of it, but perhaps in which region it is.

        Raises:
            InputError: if it is no URL that pyarrow reads.
        """
        from pyarrow import ArrowException
        from pyarrow.fs import FileSystem, LocalFileSystem

        self.url = url
        self.shown = shown_place(url)
        if not is_url(url):
            self._files, self._root = LocalFileSystem(), url
            return
        parts = urlsplit(url)
        if parts.scheme == "s3" and DELAYED.partition("=")[0] not in parts.query:
            url = urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, DELAYED)))))
        try:
            self._files, root = FileSystem.from_uri(url)
        except (ArrowException, ValueError, OSError) as error:
            raise InputError(f"results {self.shown!r} cannot be opened ({error_line(error)}): {ADVICE}") from None
        if not root.strip("/"):
            raise InputError(f"results {self.shown!r} name no bucket: {ADVICE}")
        self._root = root.rstrip("/")

    def below(self, name: str) -> str:
        """The URL of a place below this one."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))

    def read(self, name: str) -> bytes:
        """The content of an object.

        Raises:
            FileNotFoundError: if there is none.
        """

        def ask() -> bytes:
            with self._files.open_input_file(f"{self._root}/{name}") as opened:
                return bytes(opened.read())

        return _again(ask)

    def write(self, name: str, content: bytes) -> None:
        """Makes or replaces an object, as a whole."""

        def send() -> None:
            path = f"{self._root}/{name}"
            if self._files.type_name == "local":
                self._files.create_dir(path.rpartition("/")[0], recursive=True)
            stream = self._files.open_output_stream(path)
            stream.write(content)
            # Not in a `with` block: one that is left by an exception publishes the torn half.
            stream.close()

        _again(send)

    def listed(self, name: str) -> dict[str, FileInfo]:
        """Everything below a name: relative name -> size and time of its last change."""
        from pyarrow.fs import FileSelector

        place = FileSelector(f"{self._root}/{name}".rstrip("/"), recursive=True, allow_not_found=True)
        found = _again(lambda: self._files.get_file_info(place))
        return {each.path.removeprefix(f"{self._root}/"): each for each in found if each.is_file}

    def changed(self, name: str) -> FileInfo:
        """Size and time of the last change of one object; `is_file` is false if there is none."""
        return _again(lambda: self._files.get_file_info(f"{self._root}/{name}"))

    def delete(self, name: str) -> None:
        """Deletes an object, or all below a name; there need be none."""
        info = self.changed(name)
        if info.is_file:
            _again(lambda: self._files.delete_file(f"{self._root}/{name}"))
            return
        for each in self.listed(name):
            self._files.delete_file(f"{self._root}/{each}")
        if self._files.type_name == "local" and Path(self._root, name).is_dir():
            self._files.delete_dir(f"{self._root}/{name}")

    def move(self, name: str, target: str) -> None:
        """Moves an object, or all below a name."""
        for each in self.listed(name) or {name: None}:
            self.write(target + each.removeprefix(name), self.read(each))
        self.delete(name)


ADVICE = (
    "give a folder, or s3://BUCKET/PATH with credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
    "AWS_REGION), or gs://BUCKET/PATH; a server of your own is named by AWS_ENDPOINT_URL, or in the URL: "
    "s3://BUCKET/PATH?endpoint_override=HOST:PORT&scheme=http"
)


def _again(work: Callable[[], T]) -> T:
    for pause in PAUSES:
        try:
            return work()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            time.sleep(pause)
    return work()


def error_line(error: Exception) -> str:
    """The first line of what a file system says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
