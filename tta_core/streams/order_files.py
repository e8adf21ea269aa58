"""Files with the order of a stream, to exchange orders and to replay them. Imports no torch.

Parquet (`.parquet`) or CSV (`.csv`) with one row a sample:

    position  place in the stream, from 0; may be left out: then rows are in order
    domain    name of the domain; `fog@3` is fog at severity 3, `fog` is fog at the severity of the cell
    index     number of the image in its domain, from 0
    segment   number of the stretch that no batch may cross, from 0; left out: there is one
    reset     whether the method is reset before this sample: before each segment, or never; left out: never

What made the order, and its hash, is JSON: in Parquet under `tta_grid_order` in the schema metadata, in CSV in a first
line `# tta_grid_order {...}`. Where it is there the rows must have that hash.

A NumPy file (`.npy`) holds indices `(samples,)` alone, as SAR publishes its label shifts: they are applied to each
domain of the cell in turn, and the method is reset before each.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_core.data.files.arrays import mapped
from tta_core.errors import InputError, shown
from tta_core.streams.order import StreamOrder

KEY = "tta_grid_order"
FORMAT = 1
COLUMNS = ("position", "domain", "index", "segment", "reset")
SUFFIXES = (".parquet", ".csv", ".npy")

_MOST_DOMAINS = np.iinfo(np.int16).max
_MOST_IMAGES = np.iinfo(np.int32).max

_WHOLE_NUMBER = re.compile(r"\s*-?[0-9]{1,18}\s*")


@dataclass(frozen=True)
class OrderFile:
    """What a file with an order holds.

    Attributes:
        path: the file.
        order: the whole order; None if it has indices for any domain.
        index: `(samples,)`, those indices; None otherwise.
        stream: name of the stream that the order was made by; empty if the file does not say.
    """

    path: Path
    order: StreamOrder | None
    index: NDArray[np.int32] | None
    stream: str

    def of(self, domains: Sequence[str]) -> StreamOrder:
        """The order that the file stands for in a cell with these domains; they matter only if it names none."""
        if self.order is not None:
            return self.order
        assert self.index is not None, "an order or indices"
        samples = len(self.index)
        return StreamOrder(
            tuple(domains),
            np.repeat(np.arange(len(domains), dtype=np.int16), samples),
            np.tile(self.index, len(domains)),
            tuple(range(0, samples * len(domains), samples)),
            reset_at_segments=True,
        )


def write_order(order: StreamOrder, path: Path, about: Mapping[str, Any]) -> None:
    """Writes an order as Parquet or CSV, by the suffix of the file.

    Args:
        order: the order.
        path: the file; replaced if it is there.
        about: what made the order, for people and machines; `stream` is compared when the file is used.

    Raises:
        InputError: for another suffix, or if the file cannot be written.
    """
    text = json.dumps(
        {"format": FORMAT, "order_hash": order.order_hash(), "samples": len(order), "domains": list(order.domains)}
        | dict(about)
    )
    starts = np.zeros(len(order), dtype=bool)
    starts[list(order.segments)] = True
    columns = {
        "position": np.arange(len(order)),
        "domain": np.array(order.domains)[order.domain],
        "index": order.index,
        "segment": np.cumsum(starts, dtype=np.int32) - np.int32(1),
        "reset": starts & order.reset_at_segments,
    }
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table(columns).replace_schema_metadata({KEY: text}), partial, compression="zstd")
        elif path.suffix == ".csv":
            with partial.open("w", newline="", encoding="utf-8") as file:
                file.write(f"# {KEY} {text}\n")
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(COLUMNS)
                columns["reset"] = columns["reset"].astype(int)
                writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
        else:
            raise InputError(f"{path}: an order is written as .parquet or .csv: give the file one of these endings")
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}): give another file") from None
    finally:
        with suppress(OSError):
            partial.unlink()


def read_order(path: Path) -> OrderFile:
    """Reads a file with an order; of one that has not changed since it was last read, what was read then.

    Raises:
        InputError: if it is missing, damaged, or no order.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"order_file = {path}: an order is a file that ends in {', '.join(SUFFIXES)}: give one")
    try:
        state = path.stat()
    except OSError as error:
        raise InputError(f"order_file = {path} cannot be read ({error.strerror}): give a file that is there") from None
    return _read(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, _changed: int, _size: int) -> OrderFile:
    try:
        if path.suffix == ".npy":
            return OrderFile(path, None, _indices(path, np.array(mapped(path))), "")
        columns, text = _parquet(path) if path.suffix == ".parquet" else _csv(path)
        about = json.loads(text) if text else {}
    # pyarrow's errors are OSError and ValueError, json's are ValueError and, of a text nested deep, RecursionError.
    except (OSError, ValueError, OverflowError, RecursionError, TypeError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise _damaged(path, str(error).splitlines()[0] if str(error) else type(error).__name__) from None
    if not isinstance(about, dict) or about.get("format", FORMAT) != FORMAT:
        raise InputError(f"{path} has the format {about!r:.80}, this version reads format {FORMAT}: write it anew")
    order = _checked(path, columns, about.get("domains"))
    if "order_hash" in about and about["order_hash"] != order.order_hash():
        raise InputError(
            f"{path} says that its order has the hash {about['order_hash']}, but its rows have {order.order_hash()}: "
            "it is damaged or was changed; restore it, or take that statement out (in CSV the first line)"
        )
    return OrderFile(path, order, None, str(about.get("stream", "")))


def _parquet(path: Path) -> tuple[dict[str, NDArray[Any]], str]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    for name in set(table.column_names) & set(COLUMNS):
        if table[name].null_count:
            raise _damaged(path, f"the column {name!r} has {table[name].null_count} empty values")
    names = [name for name in COLUMNS if name in table.column_names]
    text = (table.schema.metadata or {}).get(KEY.encode(), b"").decode()
    return {name: np.asarray(table[name].to_numpy()) for name in names}, text


def _csv(path: Path) -> tuple[dict[str, NDArray[Any]], str]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = file.readline()
        text = first.removeprefix(f"# {KEY} ") if first.startswith(f"# {KEY} ") else ""
        if not text:
            file.seek(0)
        reader = csv.reader(file)
        header = next(reader, [])
        rows = [row for row in reader if row]
    if twice := [name for name in COLUMNS if header.count(name) > 1]:
        raise _damaged(path, f"it has the column {twice[0]!r} twice")
    wrong = next((number for number, row in enumerate(rows) if len(row) != len(header)), None)
    if wrong is not None:
        raise _damaged(path, f"row {wrong} has {len(rows[wrong])} entries, its header has {len(header)}")
    places = {name: header.index(name) for name in COLUMNS if name in header}
    return {name: _column(path, name, [row[place] for row in rows]) for name, place in places.items()}, text


def _column(path: Path, name: str, words: Sequence[str]) -> NDArray[Any]:
    """One column of a CSV file."""
    if name == "domain":
        return np.array(words, dtype=object)
    if name != "reset":
        none = [word for word in words if not _WHOLE_NUMBER.fullmatch(word)]
        if none:
            raise _damaged(path, f"its column {name!r} has {shown(none[0])}; it has whole numbers of 18 digits at most")
        return np.fromiter(map(int, words), np.int64, len(words))
    meanings = {"0": False, "1": True, "false": False, "true": True}
    other = [word for word in words if word.lower() not in meanings]
    if other:
        raise _damaged(path, f"its column 'reset' has {other[0]!r}; it has 0 or 1")
    return np.fromiter((meanings[word.lower()] for word in words), np.bool_, len(words))


def _checked(path: Path, columns: Mapping[str, NDArray[Any]], domains: Any) -> StreamOrder:
    """Builds the order from the columns of a file."""
    missing = [name for name in ("domain", "index") if name not in columns]
    if missing:
        raise _damaged(path, f"it has no column {missing[0]!r}; an order has {', '.join(COLUMNS)}")
    if not (samples := len(columns["index"])):
        raise _damaged(path, "it has no rows; an order has one for each sample")
    if columns["domain"].dtype.kind not in "OUT":
        raise _damaged(path, f"its column 'domain' has values of the type {columns['domain'].dtype}, not names")
    whole = {name: columns.get(name, np.zeros(samples, np.int64)) for name in ("index", "segment", "reset")}
    whole["domain"] = columns["domain"]
    if "position" in columns:
        place = _integers(path, "position", columns["position"])
        if not np.array_equal(np.sort(place), np.arange(samples)):
            raise _damaged(path, f"its positions are not 0 to {samples - 1}, each once")
        whole = {name: column[np.argsort(place)] for name, column in whole.items()}
    index, segment = _indices(path, whole["index"]), _integers(path, "segment", whole["segment"])
    steps = np.diff(segment, prepend=-1)
    if steps[0] != 1 or not np.isin(steps, (0, 1)).all():
        raise _damaged(path, "its segments are not numbered 0, 1, 2, ... in the order of the stream")
    if whole["reset"].dtype.kind not in "biu" or not np.isin(whole["reset"], (0, 1)).all():
        raise _damaged(path, "its column 'reset' has other values than true and false")
    starts, reset = steps == 1, whole["reset"].astype(bool)
    if not (np.array_equal(reset, starts) or not reset.any()):
        raise _damaged(path, "it resets the method before some samples; it can before each segment, or never")
    given = whole["domain"].tolist()
    names = tuple(map(str, domains)) if isinstance(domains, list) else tuple(dict.fromkeys(map(str, given)))
    numbers = {name: number for number, name in enumerate(names)}
    unknown = next((name for name in given if name not in numbers), None)
    if unknown is not None or len(names) > _MOST_DOMAINS:
        raise _damaged(path, f"its domains are {', '.join(names[:20])}, but a row has {unknown!r}")
    return StreamOrder(
        names,
        np.array([numbers[name] for name in given], dtype=np.int16),
        index,
        tuple(np.flatnonzero(starts).tolist()),
        bool(reset.any()),
    )


def _indices(path: Path, index: NDArray[Any]) -> NDArray[np.int32]:
    index = _integers(path, "index", index)
    if index.min() < 0 or index.max() > _MOST_IMAGES:
        raise _damaged(path, f"its indices are {index.min()} to {index.max()}; they are 0 to {_MOST_IMAGES}")
    return index.astype(np.int32)


def _integers(path: Path, name: str, values: NDArray[Any]) -> NDArray[np.int64]:
    if values.ndim != 1 or not len(values):
        raise _damaged(path, f"{name} has the shape {values.shape}; there must be one for each sample")
    if values.dtype.kind not in "iu" and not (values.dtype.kind == "f" and (values == np.rint(values)).all()):
        raise _damaged(path, f"{name} has values of the type {values.dtype}, not whole numbers")
    return values.astype(np.int64)


def _damaged(path: Path, problem: str) -> InputError:
    return InputError(f"{path} is damaged or is no order of a stream: {problem}. Restore it, or write it anew")
