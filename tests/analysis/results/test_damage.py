"""What is damaged is found; what a run does meanwhile is not taken for damage."""

from __future__ import annotations

import json
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import schema
from analysis.results.damage import inspect, manifest_of, store_entry


@pytest.fixture
def whole(results):
    """Three finished cells and a failed one, with manifests; and a cell without, as older versions wrote it."""
    made = [results.add("tent", seed, hits=(1, 0) * 50) for seed in range(3)]
    for folder in (*made, results.fail("sar")):
        (folder / schema.MANIFEST).write_text(json.dumps(manifest_of(folder.name, folder)))
    older(results.add("source"))
    return results


def older(cell) -> None:
    """Makes a cell of the last schema version without manifests."""
    for file in cell.glob("*.parquet"):
        table = pq.read_table(file, partitioning=None)
        metadata = table.schema.metadata | {schema.VERSION_KEY: b"3"}
        pq.write_table(table.replace_schema_metadata(metadata), file, write_page_checksum=True)


def messages(results, *, thorough=True) -> dict[str, str]:
    found = inspect(results.folder, thorough=thorough)
    return {str(each.path.relative_to(results.folder)): each.message for each in found.damages}


def test_a_whole_folder_has_no_damage(whole) -> None:
    for thorough in (False, True):
        found = inspect(whole.folder, thorough=thorough)
        assert (found.cells, found.without_manifest, found.damages) == (5, 1, ())


@pytest.mark.parametrize("seed", range(3))
def test_each_flipped_bit_is_found(whole, seed) -> None:
    choose = random.Random(seed)
    cell = whole.folder / "cells" / "tent-mixed-1"
    for _ in range(40):
        file = cell / choose.choice(sorted(path.name for path in cell.iterdir()))
        content = file.read_bytes()
        changed = bytearray(content)
        place = choose.randrange(len(changed))
        changed[place] ^= 1 << choose.randrange(8)
        file.write_bytes(changed)
        assert set(messages(whole)) == {"cells/tent-mixed-1"}, (file.name, place)
        file.write_bytes(content)
    assert messages(whole) == {}


@pytest.mark.parametrize("name", ["cell", "batches", "samples", "diagnostics"])
@pytest.mark.parametrize("method", ["tent", "source"])
def test_a_missing_file_is_seen_at_first_sight(whole, name, method) -> None:
    (whole.folder / "cells" / f"{method}-mixed-0" / f"{name}.parquet").unlink()
    assert messages(whole, thorough=False) == {f"cells/{method}-mixed-0": f"{name}.parquet is missing"}


def test_emptied_folders_and_foreign_files_are_seen_at_first_sight(whole) -> None:
    for path in (whole.folder / "cells" / "tent-mixed-0").iterdir():
        path.unlink()
    (whole.folder / "cells" / "notes.txt").write_text("mine")
    (whole.folder / "cells" / "tent-mixed-1" / "copy.parquet").write_text("mine")
    (whole.folder / "failed" / "sar-mixed-0" / "cell.parquet").write_bytes(b"PAR1")
    assert messages(whole, thorough=False) == {
        "cells/notes.txt": "a file that is no cell's",
        "cells/tent-mixed-0": "cell.parquet is missing",
        "cells/tent-mixed-1/copy.parquet": "a file that the cell did not write",
        "failed/sar-mixed-0": messages(whole)["failed/sar-mixed-0"],
    }
    assert messages(whole)["failed/sar-mixed-0"].startswith("cell.parquet has 4 bytes, and had ")


def test_a_manifest_that_is_gone_is_missed_where_its_version_writes_one(whole) -> None:
    (whole.folder / "cells" / "tent-mixed-0" / schema.MANIFEST).unlink()
    assert messages(whole) == {"cells/tent-mixed-0": "manifest.json is missing"}


def test_a_changed_id_of_the_folder_is_found_and_that_of_older_versions_is_taken(whole) -> None:
    file = whole.folder / schema.STORE_FILE
    entry = store_entry("ab12")
    for written, problem in (
        (entry, None),
        (entry | {"store": "ab13"}, "it is not what was written"),
        (entry | {"layout": 2}, "it is not what was written"),
        (entry | {"sha256": "0"}, "it is not what was written"),
        ({"store": "ab12", "layout": 1}, None),
        ({"stora": "ab12", "layout": 1}, "it cannot be read"),
        ({"store": "ab12", "layout": 1, "shb256": entry["sha256"]}, "it is not what was written"),
        ([], "it cannot be read"),
    ):
        file.write_text(json.dumps(written))
        assert messages(whole).get(schema.STORE_FILE) == problem, written


def test_a_missing_id_of_the_folder_is_found_unless_older_versions_wrote_it(whole) -> None:
    (whole.folder / schema.STORE_FILE).unlink()
    assert set(messages(whole, thorough=False)) == {schema.STORE_FILE}
    for kind in ("cells", "failed"):
        for cell in (whole.folder / kind).iterdir():
            (cell / schema.MANIFEST).unlink(missing_ok=True)
            older(cell)
    assert messages(whole) == {}


def test_copies_are_found(whole) -> None:
    for method in ("tent", "source"):
        cell = whole.folder / "cells" / f"{method}-mixed-0"
        shutil.copytree(cell, cell.with_name(f"{method}-copy"))
    assert messages(whole, thorough=False) == {"cells/tent-copy": "a copy of the cell tent-mixed-0"}
    assert messages(whole)["cells/source-copy"] == "cell.parquet is of the cell source-mixed-0"


def test_cells_without_a_manifest_are_checked_by_what_they_say(whole) -> None:
    cell = whole.folder / "cells" / "source-mixed-0"
    kept = {path: path.read_bytes() for path in cell.iterdir()}
    row, samples = pq.read_table(cell / "cell.parquet"), pq.read_table(cell / "samples.parquet")
    place = row.column_names.index("accuracy")
    for name, table, message in (
        ("cell", pa.concat_tables([row, row]), "cell.parquet has 2 rows in place of one"),
        ("samples", samples.slice(0, 1), "samples.parquet has 1 rows, the cell 2 samples"),
        ("samples", samples.drop_columns("label"), "samples.parquet: the column label is missing"),
        (
            "cell",
            row.set_column(place, "accuracy", [["high"]]),
            "cell.parquet: the column accuracy is not of type double",
        ),
    ):
        pq.write_table(table, cell / f"{name}.parquet")
        assert messages(whole) == {"cells/source-mixed-0": message}
        for path, content in kept.items():
            path.write_bytes(content)
    (cell / "samples.parquet").write_bytes(kept[cell / "samples.parquet"][:-20])
    assert messages(whole)["cells/source-mixed-0"].startswith("samples.parquet cannot be read (")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"cell": 1, "files": []}', '{"cell": "a", "files": {"a": 1}}'])
def test_a_damaged_manifest_is_damage(whole, text) -> None:
    (whole.folder / "cells" / "tent-mixed-0" / schema.MANIFEST).write_text(text)
    assert messages(whole, thorough=False) == {"cells/tent-mixed-0": "manifest.json is damaged"}
