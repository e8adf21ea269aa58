"""Images in tar archives, read in any order without unpacking. Imports no torch.

An archive is gone through once; where each member begins is kept in the cache, by the archive's path, size and time of
change. Two layouts are known: class folders, and WebDataset's samples `<key>.jpg`, `<key>.cls` and `<key>.json`, where
a key ends at the first dot of the file's name.
"""

from __future__ import annotations

import json
import os
import posixpath
import sys
import tarfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path, PurePosixPath

from tta_core.cache import cache_root, locked, write_whole
from tta_core.data.files.classes import NAME_COLUMNS, Label, follow_names
from tta_core.data.files.encoded import EncodedImages, is_image
from tta_core.data.spec import BenchmarkSpec, Crop
from tta_core.errors import InputError, first_names

LABEL_SUFFIXES = ("cls", *NAME_COLUMNS)
"""Last part of the name of a file that holds a sample's class, as number or name."""

LABEL_KEYS = ("label", "cls", *NAME_COLUMNS)
"""Likewise, of an entry in a sample's file `.json`."""

INDEX_FOLDER = "tar-index"
INDEX_VERSION = 2


@dataclass(frozen=True)
class TarIndex:
    """Where the regular files of an archive begin; a link is the file that it names.

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

    def add(self, name: str, offset: int, size: int) -> None:
        """Adds a file."""
        self.names.append(sys.intern(name))
        self.offsets.append(offset)
        self.sizes.append(size)


@dataclass(frozen=True)
class Member:
    """An image in an archive.

    Attributes:
        index: the archive.
        number: its number in the index.
        label: name or number of its class.
    """

    index: TarIndex
    number: int
    label: Label

    @property
    def path(self) -> str:
        """Its path in the archive."""
        return self.index.names[self.number]

    @property
    def file(self) -> str:
        """Name of the file, without folders."""
        return PurePosixPath(self.path).name


class TarImages(EncodedImages):
    """Images in one or more archives."""

    kind = "tar"

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        crop: Crop,
        size: int,
        *,
        members: Sequence[Member],
        proven: bool = True,
    ) -> None:
        super().__init__(folder, names, crop, size, proven=proven)
        self._members = members
        self._open: dict[Path, int] = {}
        weakref.finalize(self, _close, self._open)

    def place(self, number: int) -> str:
        """The archive and the member in it."""
        member = self._members[number]
        return f"{member.index.path}:{member.path}"

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
        return TarImages(self.folder, names, self.crop, self.size, members=members, proven=self.proven)


def _close(opened: Mapping[Path, int]) -> None:
    for descriptor in opened.values():
        os.close(descriptor)


def find_members(index: TarIndex, below: Sequence[str], spec: BenchmarkSpec) -> list[Member]:
    """The images of one domain in an archive.

    Args:
        index: the archive.
        below: names of the folders in the archive that the images lie below, such as `fog` and `5`; others may be
            above them.
        spec: the benchmark.

    Raises:
        InputError: if an image has no class or several, or a sample several images.
    """
    wanted, known = tuple(below), set(spec.class_names)
    members: dict[str, Member] = {}  # Of a file that was added again the last one counts, as where tar unpacks.
    samples: dict[str, dict[str, int]] = {}
    for number, name in enumerate(index.names):
        *folders, file = PurePosixPath(name).parts or ("",)
        if file.startswith("."):
            continue
        in_class = is_image(file) and bool(folders) and folders[-1] in known
        if in_class and tuple(folders[max(0, len(folders) - 1 - len(wanted)) : -1]) == wanted:
            members[name] = Member(index, number, folders[-1])
        if _lies_below(tuple(folders), wanted):
            key, dot, part = file.partition(".")
            samples.setdefault("/".join((*folders, key)), {})[dot + part] = number
    samples = {key: parts for key, parts in samples.items() if _images(parts)}
    said = _said(index, samples)
    return _labelled(index, spec, samples, said) if any(map(_label, said.values())) else list(members.values())


def _images(parts: Mapping[str, int]) -> dict[str, int]:
    return {part: number for part, number in parts.items() if is_image(f"x{part}")}


def _said(index: TarIndex, samples: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, object]]:
    """What the files of each sample say of its class, such as `{"cls": "3"}`."""
    files = {
        key: {part.rpartition(".")[2].lower(): number for part, number in each.items()} for key, each in samples.items()
    }
    kinds = (*LABEL_SUFFIXES, "json")
    files = {key: {kind: number for kind, number in each.items() if kind in kinds} for key, each in files.items()}
    texts = _contents(index, (number for each in files.values() for number in each.values()))
    said = {key: {kind: texts[number].strip() for kind, number in each.items()} for key, each in files.items()}
    return {key: _entries(each.pop("json", "")) | each for key, each in said.items()}


def _labelled(
    index: TarIndex,
    spec: BenchmarkSpec,
    samples: Mapping[str, Mapping[str, int]],
    said: Mapping[str, Mapping[str, object]],
) -> list[Member]:
    """The images of a WebDataset, each with its class."""
    images = [(key, [f"{key}{part}" for part in _images(parts)]) for key, parts in samples.items()]
    if several := [names for _, names in images if len(names) > 1]:
        raise InputError(
            f"{index.path} has {len(several)} samples with several images, such as {first_names(several[0])}: leave "
            "one in each; what is the same up to the first dot is one sample"
        )
    if unlabelled := [names[0] for key, names in images if _label(said[key]) is None]:
        raise InputError(
            f"{index.path} has {len(unlabelled)} images without a class: {first_names(unlabelled)}. Each needs a file "
            "with its class, of the same name up to the first dot, ending in .cls"
        )
    columns = {kind: [each.get(kind) for each in said.values()] for kind in NAME_COLUMNS}
    names = follow_names(spec, index.path, [_label(each) or "" for each in said.values()], texts=columns)
    numbers = [next(iter(_images(parts).values())) for parts in samples.values()]
    return [Member(index, number, name) for number, name in zip(numbers, names, strict=True)]


def _entries(text: str) -> dict[str, object]:
    """What a sample's file `.json` says of its class."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return {key: found[key] for key in LABEL_KEYS if key in found} if isinstance(found, dict) else {}


def _label(said: Mapping[str, object]) -> Label | None:
    """What a sample says first of its class; None if it says nothing."""
    found = next((value for key in ("cls", *LABEL_KEYS) if (value := said.get(key)) not in (None, "")), None)
    return None if found is None else str(found)


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
    index, places, links = TarIndex(path, state, [], [], []), dict[str, int](), dict[str, str]()
    try:
        # "r:" takes no compressed archive, in which nothing can be read without all that is before it.
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if member.isreg():
                    if member.issparse():
                        raise InputError(f"the archive {path} has {name} with holes: make it without --sparse")
                    if member.offset_data + member.size > state[0]:
                        raise InputError(f"the archive {path} is cut short in {name}: get it again")
                    index.add(name, member.offset_data, member.size)
                    places[posixpath.normpath(name)] = len(index.names) - 1
                elif member.islnk() and (place := places.get(posixpath.normpath(member.linkname))) is not None:
                    # The file as it is so far: it may be added again later.
                    index.add(name, index.offsets[place], index.sizes[place])
                    places[posixpath.normpath(name)] = len(index.names) - 1
                elif member.islnk() or member.issym():
                    above = "" if member.islnk() else posixpath.dirname(name)
                    links[name] = posixpath.normpath(posixpath.join(above, member.linkname))
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
    for name, target in links.items():
        seen = {name}
        while target in links and target not in seen:
            seen.add(target)
            target = links[target]
        if (place := places.get(target)) is not None:
            index.add(name, index.offsets[place], index.sizes[place])
        elif is_image(posixpath.basename(name)):
            raise InputError(f"the archive {path} has {name} as a link to {target}, which it lacks: make it with -h")
    return index
