"""The pictures that cells of segmentation keep, for the page: of one cell of each configuration."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import duckdb

from analysis import schema
from analysis.results.configurations import Section
from analysis.results.load import folder_of
from analysis.results.reading import found_below


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture as a data URI, and what it is of."""

    uri: str
    caption: str


@dataclass(frozen=True, slots=True)
class Pictured:
    """The pictures of a configuration, by domain."""

    label: str
    pictures: tuple[Shown, ...]


def pictured(con: duckdb.DuckDBPyConnection, section: Section) -> tuple[Pictured, ...]:
    """The pictures of the first cell of each configuration that has some."""
    cells = folder_of(con) / schema.CELLS_FOLDER
    found = []
    for configuration in section.configurations:
        files = next((files for cell in configuration.cells if (files := _files(cells / cell.cell))), [])
        if files:
            found.append(Pictured(configuration.label, tuple(map(_shown, files))))
    return tuple(found)


def _files(folder: Path) -> list[Path]:
    return found_below(folder, f"{schema.PICTURE}*.png")


def _shown(file: Path) -> Shown:
    domain, _, index = file.stem.removeprefix(schema.PICTURE).rpartition("-")
    return Shown(
        f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}", f"{domain}, image {int(index)}"
    )
