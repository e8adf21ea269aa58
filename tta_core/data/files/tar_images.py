"""Images in tar archives, read in any order without unpacking. Imports no torch.

An archive is gone through once; where each member begins is kept in the cache, by the archive's path, size and time of
change. Two layouts are known: class folders, and WebDataset's pairs `<key>.jpg` and `<key>.cls`.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path, PurePosixPath

from tta_core.cache import cache_root, locked, write_whole
from tta_core.data.files.encoded import EncodedImages, is_image
from tta_core.data.spec import Crop
from tta_core.errors import InputError

LABEL_SUFFIX = ".cls"
INDEX_FOLDER = "tar-index"
INDEX_VERSION = 1


@dataclass(frozen=True)
class TarIndex:
    """Where the regular files of an archive begin.

    Attributes:
        path: the archive.
        state: its size and time of change in ns.
        names: names of the members, as they are in the archive but without a leading `./`.
        offsets, sizes: first byte and number of bytes of each.
    """

    path: Path
    state: tuple[int, int]
    names: list[str]
    offsets: list[int]
    sizes: list[int]


@dataclass(frozen=True)
class Member:
    """An image in an archive.

    Attributes:
        index: the archive.
        number: its number in the index.
        label: name or number of its class.
        file: name of the file, without folders.
    """

    index: TarIndex
    number: int
    label: str
    file: str


class TarImages(EncodedImages):
    """Images in one or more archives."""

    kind = "tar"

    def __init__(self, folder: Path, names: Sequence[str], crop: Crop, size: int, *, members: Sequence[Member]) -> None:
        super().__init__(folder, names, crop, size)
        self._members = members
        self._open: dict[Path, int] = {}
        weakref.finalize(self, _close, self._open)

    def place(self, number: int) -> str:
        """The archive and the member in it."""
        member = self._members[number]
        return f"{member.index.path}:{member.index.names[member.number]}"

    def encoded(self, numbers: Sequence[int]) -> Iterable[bytes]:
        """Reads the members' bytes."""
        for number in numbers:
            index, place = self._members[number].index, self._members[number].number
            # Unlike seek and read, pread lets threads share the file.
            yield os.pread(self._file(index.path), index.sizes[place], index.offsets[place])

    def listing(self) -> Iterable[str]:
        """Name and place of each image, and size and time of change of the archives."""
        archives = {member.index.path: member.index.state for member in self._members}
        yield from (f"{path.name} {state}" for path, state in sorted(archives.items()))
        yield from (
            f"{name} {one.index.offsets[one.number]}" for name, one in zip(self.names, self._members, strict=True)
        )

    def _file(self, path: Path) -> int:
        if path not in self._open:
            opened = os.open(path, os.O_RDONLY)
            if self._open.setdefault(path, opened) != opened:  # Another thread was first.
                os.close(opened)
        return self._open[path]

    def chosen(self, numbers: Sequence[int]) -> TarImages:
        """Some of the images, in this order."""
        names, members = [self.names[n] for n in numbers], [self._members[n] for n in numbers]
        return TarImages(self.folder, names, self.crop, self.size, members=members)


def _close(opened: Mapping[Path, int]) -> None:
    for descriptor in opened.values():
        os.close(descriptor)


def find_members(index: TarIndex, below: Sequence[str], classes: Iterable[str]) -> list[Member]:
    """The images of one domain in an archive.

    Args:
        index: the archive.
        below: names of the folders in the archive that the images lie below, such as `fog` and `5`; others may be
            above them.
        classes: names of the classes' folders.
    """
    wanted, known = tuple(below), set(classes)
    images: dict[str, int] = {}
    labels: dict[str, int] = {}
    members: dict[str, Member] = {}  # Of a file that was added again the last one counts, as where tar unpacks.
    for number, name in enumerate(index.names):
        parts = PurePosixPath(name).parts
        suffix = PurePosixPath(name).suffix.lower()
        if suffix == LABEL_SUFFIX and _lies_below(parts[:-1], wanted):
            labels[name[: -len(suffix)]] = number
        elif is_image(parts[-1] if parts else ""):
            if len(parts) > 1 and parts[-2] in known and parts[max(0, len(parts) - 2 - len(wanted)) : -2] == wanted:
                members[name] = Member(index, number, parts[-2], parts[-1])
            if _lies_below(parts[:-1], wanted):
                images[name[: -len(suffix)]] = number
    if not labels:
        return list(members.values())
    texts = _contents(index, labels.values())
    return [
        Member(index, number, texts[labels[key]].strip(), PurePosixPath(index.names[number]).name)
        for key, number in images.items()
        if key in labels
    ]


def _lies_below(folders: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return any(folders[start : start + len(wanted)] == wanted for start in range(len(folders) - len(wanted) + 1))


def _contents(index: TarIndex, numbers: Iterable[int]) -> dict[int, str]:
    """Texts of some members, in one pass through the archive."""
    texts = {}
    with index.path.open("rb") as file:
        for number in sorted(numbers, key=lambda one: index.offsets[one]):
            file.seek(index.offsets[number])
            texts[number] = file.read(index.sizes[number]).decode("utf-8", "replace")
    return texts


def tar_index(path: Path) -> TarIndex:
    """The index of an archive, from the cache if it is there.

    Raises:
        InputError: if the archive cannot be read, is cut short, or is compressed.
    """
    try:
        found = path.stat()
        return _index(path, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise InputError(f"the archive {path} cannot be read ({error.strerror or error})") from None


@lru_cache(maxsize=64)
def _index(path: Path, size: int, changed: int) -> TarIndex:
    name = sha256(f"{INDEX_VERSION} {path} {size} {changed}".encode()).hexdigest()[:16]
    kept = cache_root() / INDEX_FOLDER / f"{path.stem[:40]}-{name}.json"
    index = _kept(kept, path, (size, changed))
    if index is not None:
        return index
    index = _scanned(path, (size, changed))
    content = json.dumps({"names": index.names, "offsets": index.offsets, "sizes": index.sizes}).encode()
    try:
        with locked(kept):
            write_whole(kept, lambda file: file.write(content))
    except InputError:
        pass  # Without a cache the next process goes through the archive again.
    return index


def _kept(file: Path, path: Path, state: tuple[int, int]) -> TarIndex | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        names = [sys.intern(name) for name in content["names"]]
        return TarIndex(path, state, names, content["offsets"], content["sizes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _scanned(path: Path, state: tuple[int, int]) -> TarIndex:
    index = TarIndex(path, state, [], [], [])
    try:
        # "r:" takes no compressed archive, in which nothing can be read without all that is before it.
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isreg():
                    if member.offset_data + member.size > state[0]:
                        raise InputError(f"the archive {path} is cut short in {member.name}: get it again")
                    index.names.append(sys.intern(member.name.removeprefix("./")))
                    index.offsets.append(member.offset_data)
                    index.sizes.append(member.size)
                archive.members.clear()  # type: ignore[attr-defined]  # Else tarfile remembers every member.
            stopped = archive.offset
    except tarfile.ReadError as error:
        raise InputError(
            f"the archive {path} cannot be read ({error}): allowed are whole tar archives that are not compressed; "
            "unpack a .tar.gz with gunzip first, or get the archive again"
        ) from None
    with path.open("rb") as file:
        file.seek(stopped)
        # tarfile takes a member whose header is cut short or damaged for the end.
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise InputError(f"the archive {path} is cut short or damaged after byte {stopped}: get it again")
    return index
