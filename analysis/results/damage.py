"""Cells whose files are not what was written: missing, changed, copied, or of someone else.

A cell's folder has a manifest with the size and SHA-256 of each file. Cells of older versions have none: then only what
the files say of themselves is checked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from analysis import schema
from analysis.results.reading import first_line

FOLDERS: Mapping[str, tuple[str, ...]] = {
    schema.CELLS_FOLDER: tuple(f"{name}.parquet" for name in schema.FILES if name not in schema.OPTIONAL_FILES),
    schema.FAILED_FOLDER: ("cell.parquet",),
}
"""Folder of a results folder -> the files that each cell in it has."""


FIRST_WITH_MANIFEST = 4
"""Schema version from which on each cell has one."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something in a results folder that should not be so.

    Attributes:
        path: the folder of a cell, or a file that belongs to none.
        message: what is wrong with it.
    """

    path: Path
    message: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found in a results folder.

    Attributes:
        cells: folders of cells that were looked at, finished and failed.
        without_manifest: how many of them have none, because an older version wrote them.
        damages: what is wrong, by place.
    """

    cells: int
    without_manifest: int
    damages: tuple[Damage, ...]


def inspect(folder: str | Path, *, thorough: bool) -> Inspection:
    """Looks for damage; changes nothing. A cell that a run replaces meanwhile is no damage.

    Args:
        folder: results folder.
        thorough: whether to read all files and compare their hashes; otherwise only names and sizes are looked at.
    """
    cells = without = 0
    damages: list[Damage] = []
    for kind, expected in FOLDERS.items():
        for entry in _entries(Path(folder).expanduser() / kind):
            number, is_cell = _inode(entry), entry.is_dir()
            manifest = _manifest(entry)
            if is_cell:
                problem = _first_problem(entry, manifest, expected, thorough=thorough)
            else:
                problem = "a file that is no cell's"
            foreign = [] if problem else list(_foreign_files(entry, manifest))
            if not number or _inode(entry) != number:
                continue  # A run replaced it meanwhile, or took it away.
            damages += [Damage(entry, problem)] if problem else foreign
            if not is_cell:
                continue
            cells += 1
            without += manifest is None
    store = Path(folder).expanduser() / schema.STORE_FILE
    if problem := _store_problem(store, expected=cells > without):
        damages.insert(0, Damage(store, problem))
    return Inspection(cells, without, tuple(damages))


def cell_problem(folder: Path, kind: str) -> str:
    """What is wrong with the folder of one cell, all of whose files are read; empty if nothing is.

    Args:
        folder: the folder, named as the cell.
        kind: one of `FOLDERS`.
    """
    return _first_problem(folder, _manifest(folder), FOLDERS[kind], thorough=True)


def store_entry(store: str, layout: int = schema.LAYOUT) -> dict[str, Any]:
    """What the file of a results folder says: its id, its layout, and a hash by which a change of these is seen."""
    return {"store": store, "layout": layout, "sha256": hashlib.sha256(f"{store} {layout}".encode()).hexdigest()}


def manifest_of(cell: str, folder: Path) -> dict[str, Any]:
    """The manifest of a folder with all files of a cell."""
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(folder.iterdir())}
    return {"cell": cell, "files": files}


def _store_problem(file: Path, *, expected: bool) -> str:
    """What is wrong with the file of a results folder; a folder of older versions may lack it, or its hash."""
    try:
        found = json.loads(file.read_bytes())
        entry = store_entry(found["store"], found["layout"])
    except FileNotFoundError:
        return "it is missing, and by its id MLflow knows the cells" if expected else ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "it cannot be read"
    old = {name: entry[name] for name in ("store", "layout")}
    return "" if found == old or found.get("sha256") == entry["sha256"] else "it is not what was written"


def _entries(root: Path) -> list[Path]:
    """What lies in a folder; hidden names are files being written, and those of the system."""
    try:
        return sorted(Path(entry) for entry in os.scandir(root) if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _manifest(folder: Path) -> dict[str, Any] | str | None:
    """The manifest; None if there is none; what is wrong if it cannot be read."""
    try:
        found = json.loads((folder / schema.MANIFEST).read_bytes())
        _ = str(found["cell"]), [(entry["bytes"], entry["sha256"]) for entry in found["files"].values()]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{schema.MANIFEST} is damaged"
    return dict(found)


def _first_problem(
    folder: Path, manifest: dict[str, Any] | str | None, expected: tuple[str, ...], *, thorough: bool
) -> str:
    """What is wrong with a cell; empty if nothing was found."""
    if isinstance(manifest, str):
        return manifest
    if manifest is not None and manifest["cell"] != folder.name:
        return f"a copy of the cell {manifest['cell']}"
    listed: Mapping[str, Any] = {} if manifest is None else manifest["files"]
    for name in (*expected, *(name for name in listed if name not in expected)):
        try:
            size = (folder / name).stat().st_size
        except OSError:
            return f"{name} is missing"
        if name in listed and size != listed[name]["bytes"]:
            return f"{name} has {size} bytes, and had {listed[name]['bytes']}"
        if thorough and name in listed:
            try:
                changed = _sha256(folder / name) != listed[name]["sha256"]
            except OSError as error:
                return f"{name} cannot be read ({error.strerror})"
            if changed:
                return f"{name} is not what was written: its SHA-256 differs"
    return _contents_problem(folder, expected, manifest=manifest is not None) if thorough else ""


def _contents_problem(folder: Path, expected: tuple[str, ...], *, manifest: bool) -> str:
    """Whether the tables are whole, of this cell, and as long as they say; empty if so."""
    tables: dict[str, pa.Table] = {}
    optional = [f"{name}.parquet" for name in schema.OPTIONAL_FILES]
    for name in [*expected, *(name for name in optional if (folder / name).exists())]:
        try:
            tables[name] = pq.read_table(folder / name, page_checksum_verification=True, partitioning=None)
        # What damaged bytes raise depends on where they are.
        except Exception as error:
            return f"{name} cannot be read ({first_line(error)})"
        problem = _column_problem(tables[name], schema.FILES[Path(name).stem])
        if problem:
            return f"{name}: {problem}"
        others = set(tables[name]["cell"].to_pylist()) - {folder.name}
        if others:
            return f"{name} is of the cell {sorted(map(str, others))[0]}"
    cell = tables["cell.parquet"]
    version = (cell.schema.metadata or {}).get(schema.VERSION_KEY, b"")
    if not manifest and version.isdigit() and int(version) >= FIRST_WITH_MANIFEST:
        return f"{schema.MANIFEST} is missing"
    if cell.num_rows != 1:
        return f"cell.parquet has {cell.num_rows} rows in place of one"
    row = cell.to_pylist()[0]
    status = schema.DONE if len(expected) > 1 else schema.FAILED
    if row["status"] != status:
        return f"cell.parquet says {row['status']!r}, and lies among cells that are {status!r}"
    samples = row["n_samples"] - (row.get("skipped_images") or 0)
    if "samples.parquet" in tables and tables["samples.parquet"].num_rows != samples:
        return f"samples.parquet has {tables['samples.parquet'].num_rows} rows, the cell {samples} samples"
    return ""


def _column_problem(table: pa.Table, kind: pa.Schema) -> str:
    """Whether a table has the columns of its schema; empty if so."""
    for field in kind:
        if field.name not in table.column_names:
            # Of samples all versions have all columns, though some are empty in some tasks.
            if not field.nullable or kind is schema.SAMPLES:
                return f"the column {field.name} is missing"
            continue
        try:
            column = table[field.name].cast(field.type)
        except pa.ArrowException:
            return f"the column {field.name} is not of type {field.type}"
        if column.null_count and not field.nullable:
            return f"the column {field.name} has empty values"
    return ""


def _foreign_files(folder: Path, manifest: dict[str, Any] | str | None) -> Iterator[Damage]:
    if isinstance(manifest, dict):
        for path in _entries(folder):
            if path.name not in manifest["files"] and path.name != schema.MANIFEST:
                yield Damage(path, "a file that the cell did not write")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
