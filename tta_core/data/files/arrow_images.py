"""Images in Arrow or Parquet files, laid out as Hugging Face's data sets. Imports no torch.

A column holds the encoded images, as bytes or as a record of `bytes` and `path`; another the class, as number or name.
Only the images that are asked for are read: of Parquet their row groups, of Arrow their rows.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tta_core.data.files.encoded import EncodedImages
from tta_core.data.spec import Crop
from tta_core.errors import InputError

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls", "wnid")

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
    ) -> None:
        """Takes the files, and for each image the number of its file and of its row."""
        super().__init__(folder, names, crop, size)
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
        return ArrowImages(self.folder, names, self.crop, self.size, tables=self._tables, rows=rows)

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
        files: each row's file name, empty where there is none.
        class_names: names of the classes by number, if the file has them.
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

    def _open_parquet(self) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(self.path)
        schema = self._file.schema_arrow
        self._read_schema(schema)
        counts = [self._file.metadata.row_group(number).num_rows for number in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *counts])
        paths = [f"{self._image}.path"] if self._has_path else []
        table = self._file.read([self._label, *paths])
        self.labels = table[self._label].to_pylist()
        self.files = _file_names(table[self._image].to_pylist()) if paths else [""] * len(self.labels)

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
        self._read_schema(reader.schema)
        self._batches = batches
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        self.labels = [label for batch in batches for label in batch.column(self._label).to_pylist()]
        self.files = [""] * len(self.labels)
        if self._has_path:
            paths = [path for batch in batches for path in batch.column(self._image).field("path").to_pylist()]
            self.files = _file_names([{"path": path} for path in paths])

    def _read_schema(self, schema: Any) -> None:
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
        self.class_names = _class_names(schema.metadata or {}, self._label)

    def image(self, row: int) -> bytes:
        """The encoded image in a row; empty if there is none."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        with _readable(self.path):
            value = self._column(number)[row - int(self._starts[number])]
        if self._is_struct:
            value = value["bytes"]
        return value.as_py() or b""

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


def _file_names(images: Sequence[Any]) -> list[str]:
    return [Path((image or {}).get("path") or "").name for image in images]


def _class_names(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...]:
    """Names of the classes as Hugging Face keeps them in a file's schema."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, ValueError, TypeError):
        return ()
