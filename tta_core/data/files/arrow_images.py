"""Images in Arrow or Parquet files, laid out as Hugging Face's data sets. Imports no torch.

A column holds the encoded images, as bytes or as a record of `bytes` and `path`; another the class, as number or name.
Only the images that are asked for are read: of Parquet their row groups, of Arrow their rows.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tta_core.data.files.classes import NAME_COLUMNS, Label, follow_names
from tta_core.data.files.encoded import EncodedImages
from tta_core.data.spec import BenchmarkSpec, Crop
from tta_core.errors import InputError, first_names

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls", *NAME_COLUMNS)

SHARD = re.compile(r"(.+?)-\d{5}-of-(\d{5})")
"""Name of one of several files that hold a set together."""

KEPT_GROUPS = 4
"""Row groups of Parquet files that stay in memory; usually a hundred images each."""


class ArrowImages(EncodedImages):
    """Images in the rows of one or more files."""

    kind = "arrow"

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        crop: Crop,
        size: int,
        *,
        tables: Sequence[ArrowTable],
        rows: Sequence[tuple[int, int]],
        proven: bool,
    ) -> None:
        """Takes the files, and for each image the number of its file and of its row."""
        super().__init__(folder, names, crop, size, proven=proven)
        self._tables = tables
        self._rows = rows

    def place(self, number: int) -> str:
        """The file, the row and the image's own name."""
        table, row = self._rows[number]
        return f"{self._tables[table].path}, row {row} ({self.names[number]})"

    def encoded(self, numbers: Sequence[int]) -> Iterable[bytes]:
        """Reads the bytes, those of one row group together."""
        found: dict[int, bytes] = {}
        for number in sorted(set(numbers), key=lambda one: self._rows[one]):
            table, row = self._rows[number]
            found[number] = self._tables[table].image(row)
        return (found[number] for number in numbers)

    def chosen(self, numbers: Sequence[int]) -> ArrowImages:
        """Some of the images, in this order."""
        names, rows = [self.names[n] for n in numbers], [self._rows[n] for n in numbers]
        return ArrowImages(self.folder, names, self.crop, self.size, tables=self._tables, rows=rows, proven=self.proven)

    def listing(self) -> Iterable[str]:
        """Name and row of each image, and size and time of change of the files."""
        for table in self._tables:
            state = table.path.stat()
            yield f"{table.path.name} {state.st_size} {state.st_mtime_ns}"
        yield from (f"{name} {row}" for name, row in zip(self.names, self._rows, strict=True))


class ArrowTable:
    """One file.

    Attributes:
        path: the file.
        labels: number or name of each row's class.
        paths: each row's path when the file was made, empty where there is none.
        class_names: names of the classes by number, if the file has them.
        texts: what else stands in words in each row, by column; of a column of numbers with names these.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._groups: OrderedDict[int, Any] = OrderedDict()
        with _readable(path):
            if path.suffix == ".parquet":
                self._open_parquet()
            else:
                self._open_arrow()

    def named_labels(self, spec: BenchmarkSpec) -> list[Label]:
        """See `follow_names`."""
        return follow_names(spec, self.path, self.labels, self.class_names, self.texts)

    def _open_parquet(self) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(self.path)
        schema = self._file.schema_arrow
        words = self._read_schema(schema)
        groups = [self._file.metadata.row_group(number) for number in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *(group.num_rows for group in groups)])
        paths = [f"{self._image}.path"] if self._has_path else []
        self._read_rows(self._file.read([self._label, *words, *paths]), words)

    def _open_arrow(self) -> None:
        import pyarrow as pa

        source = pa.memory_map(str(self.path))
        try:
            reader = pa.ipc.open_file(source)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except pa.ArrowInvalid:
            source.seek(0)
            reader = pa.ipc.open_stream(source)  # As Hugging Face writes it.
            batches = list(reader)
        words = self._read_schema(reader.schema)
        self._batches = batches
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        self._read_rows(pa.Table.from_batches(batches, reader.schema), words)

    def _read_rows(self, table: Any, words: Sequence[str]) -> None:
        """Takes what stands beside the images."""
        import pyarrow.compute as pc

        self.labels = table[self._label].to_pylist()
        self.texts = {name: table[name].to_pylist() for name in words}
        for name, values in self.texts.items():
            if names := self._names_of[name]:
                known = range(len(names))
                self.texts[name] = [names[value] if value in known else None for value in values]
        self.paths = [""] * len(self.labels)
        if self._has_path:
            chunks = table[self._image].chunks
            self.paths = [path or "" for chunk in chunks for path in pc.struct_field(chunk, "path").to_pylist()]

    def _read_schema(self, schema: Any) -> list[str]:
        """Finds the columns; returns those that may name classes beside the label."""
        import pyarrow as pa

        def column(allowed: Sequence[str], what: str) -> str:
            for name in allowed:
                if name in schema.names:
                    return name
            raise InputError(
                f"{self.path} has the columns {', '.join(schema.names)}, none for the {what}: name it {allowed[0]}"
            )

        self._image, self._label = column(IMAGE_COLUMNS, "images"), column(LABEL_COLUMNS, "classes")
        kind = schema.field(self._image).type
        fields = [kind.field(number).name for number in range(kind.num_fields)] if pa.types.is_struct(kind) else []
        self._has_path = "path" in fields
        if "bytes" not in fields and not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise InputError(
                f"{self.path} has {kind} in the column {self._image!r}: allowed are encoded images, as binary or as a "
                "struct of bytes and path"
            )
        self._is_struct = bool(fields)
        features = _features(self.path, schema.metadata or {})
        self._names_of = {name: _class_names(features.get(name)) for name in schema.names}
        self.class_names = self._names_of[self._label]
        return [
            field.name
            for field in schema
            if field.name not in (self._image, self._label)
            and (_is_text(field.type) or (pa.types.is_integer(field.type) and self._names_of[field.name]))
        ]

    def image(self, row: int) -> bytes:
        """The encoded image in a row; empty if there is none.

        Raises:
            InputError: if only its path is there.
        """
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        with _readable(self.path):
            value = self._column(number)[row - int(self._starts[number])]
        found: bytes | None = (value["bytes"] if self._is_struct else value).as_py()
        if found is None and self.paths[row]:
            raise InputError(
                f"{self.path}, row {row} holds no image, only the path of one ({self.paths[row]}): take files that "
                "hold the images, as the save_to_disk of a newer version of `datasets` writes them"
            )
        return found or b""

    def _column(self, number: int) -> Any:
        if self.path.suffix != ".parquet":
            return self._batches[number].column(self._image)
        with self._lock:
            if number not in self._groups:
                columns = [f"{self._image}.bytes"] if self._is_struct else [self._image]
                table = self._file.read_row_group(number, columns=columns, use_threads=False)
                self._groups[number] = table[self._image].combine_chunks()
                while len(self._groups) > KEPT_GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(number)
            return self._groups[number]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what goes wrong in a file into one message."""
    try:
        import pyarrow as pa
    except ImportError:
        raise InputError(f"{path} is read with pyarrow, which is not installed: pip install pyarrow") from None
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"the file {path} cannot be read ({reason}): get it again, or mend its permissions") from None


def data_files(folder: Path, files: Sequence[Path]) -> list[Path]:
    """The files of a folder that hold its data, without what `datasets` leaves beside them.

    Args:
        folder: the folder.
        files: its Arrow or Parquet files.

    Raises:
        InputError: if the files are of several sets.
    """
    saved = _json(folder / "state.json").get("_data_files")
    names = {each.get("filename") for each in saved if isinstance(each, dict)} if isinstance(saved, list) else set()
    if found := [file for file in files if file.name in names]:
        return found
    found = [file for file in files if not file.name.startswith(("cache-", "tmp"))]
    sets = dict.fromkeys(f"{shard[1]}-...-of-{shard[2]}" for file in found if (shard := SHARD.match(file.stem)))
    if len(sets) > 1:
        raise InputError(f"{folder} holds several sets of images: {first_names(list(sets))}. Leave only the one meant")
    return found


def _features(path: Path, metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """What Hugging Face says of columns: in the schema of a file, or in a file beside it."""
    try:
        found = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        found = _json(path.with_name("dataset_info.json")).get("features")
    return found if isinstance(found, dict) else {}


def _class_names(feature: Any) -> tuple[str, ...]:
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
