"""The store: whole or absent, whatever happens."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

import tta_core
from analysis import schema
from analysis.results.damage import inspect
from analysis.results.load import ResultsError, open_results
from grid.store.store import ResultStore
from tta_core.errors import InputError
from tta_core.run.config import RunConfig

CONFIG = {"method": "moetta", "preset": "digits-c", "severity": 4, "samples_per_domain": 6, "domains": ["fog", "snow"]}


@pytest.fixture(scope="module")
def result():
    return tta_core.run(CONFIG)


def write(store, result):
    store.write_result(result, sweep="s", git_commit="abc")


def test_a_written_cell_reads_back_as_what_it_was(store, result):
    write(store, result)
    con = open_results(store.folder)
    row = con.sql("select * from cells").df().iloc[0]
    assert row["cell"] == result.cell == result.config.cell_id()
    assert row["accuracy"] == result.accuracy
    assert row["status"] == "done"
    assert row["git_commit"] == "abc"
    assert json.loads(row["settings"]) == result.config.settings
    assert RunConfig.from_values(json.loads(row["config"])) == result.config
    assert {"python", "torch", "timm", "ray", "tta-grid"} <= set(json.loads(row["versions"]))
    samples = con.sql("select * from samples order by position").df()
    assert (samples["prediction"] == samples["label"]).mean() == result.accuracy
    assert samples["entropy"].tolist() == pytest.approx(result.samples["entropy"].tolist())
    batches = con.sql("select * from batches order by step").df()
    assert batches["samples_seen"].iloc[-1] == len(samples) == result.n_samples
    assert {"loss", "selected", "threshold", "effective_experts"} <= set(batches.columns)
    shares = con.sql("select sum(value) from diagnostics where quantity = 'expert_usage' group by layer").fetchall()
    assert [share for (share,) in shares] == pytest.approx([1.0] * len(shares))


def test_files_carry_version_units_and_the_schema(store, result):
    write(store, result)
    for name, kind in schema.FILES.items():
        if name in schema.OPTIONAL_FILES:
            continue
        found = pq.read_schema(store.cell_folder(result.cell) / f"{name}.parquet")
        assert found.metadata[schema.VERSION_KEY] == str(schema.SCHEMA_VERSION).encode()
        for field in kind:
            assert found.field(field.name).type == field.type
            assert found.field(field.name).metadata[b"unit"] == field.metadata[b"unit"]
    threshold = pq.read_schema(store.cell_folder(result.cell) / "batches.parquet").field("threshold")
    assert threshold.metadata[b"unit"] == b"nat"


def test_writing_a_cell_twice_keeps_the_first(store, result):
    write(store, result)
    before = (store.cell_folder(result.cell) / "cell.parquet").stat().st_mtime_ns
    write(store, result)
    assert (store.cell_folder(result.cell) / "cell.parquet").stat().st_mtime_ns == before
    assert open_results(store.folder).sql("select count(*) from cells").fetchall() == [(1,)]


def test_a_failure_is_kept_until_the_cell_finishes(store, result):
    for reason in ("first", "second"):
        store.write_failure(result.config, reason, sweep="s", git_commit="", traceback="Traceback ...")
    assert store.states() == {result.cell: "failed"}
    assert store.failures([result.cell]) == {result.cell: "second"}
    assert (store.entry_folder(result.cell) / "traceback.txt").read_text() == "Traceback ..."
    row = open_results(store.folder).sql("select status, reason, accuracy from cells").fetchall()
    assert row == [("failed", "second", None)]
    write(store, result)
    assert store.states() == {result.cell: "done"}
    assert store.failures([result.cell]) == {}
    store.write_failure(result.config, "too late", sweep="s", git_commit="")
    assert store.states() == {result.cell: "done"}


def test_an_interrupted_write_leaves_nothing_to_read(store, result, monkeypatch):
    def killed(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("grid.store.files.flush", killed)
    with pytest.raises(KeyboardInterrupt):
        write(store, result)
    assert store.states() == {}
    assert open_results(store.folder).sql("select count(*) from samples").fetchall() == [(0,)]


def test_leftovers_of_a_killed_driver_are_removed(store):
    (store.folder / ".staging" / "half").mkdir()
    (store.folder / ".tune" / "old").mkdir(parents=True)
    with store.locked():
        assert not list((store.folder / ".staging").iterdir())
        assert not list((store.folder / ".tune").iterdir())


def test_a_second_driver_is_told_to_wait(store):
    with store.locked(), pytest.raises(InputError, match="another tta-grid run is writing"), store.locked():
        pass
    with store.locked():
        pass


def test_the_id_survives_a_second_create_and_a_move(store, tmp_path):
    before = store.id
    store.create()
    store.folder.rename(tmp_path / "moved")
    assert ResultStore(tmp_path / "moved").id == before


def test_a_folder_that_cannot_be_written_is_one_clear_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"results folder .*cannot be written .*--results DIR"):
        ResultStore(tmp_path / "file" / "results").create()


def test_skipped_images_are_counted_and_named(store, result):
    samples = {name: values[:-1] for name, values in result.samples.items()}
    write(store, replace(result, samples=samples, skipped=("fog: n01/image_0.JPEG (cut short)",)))
    row = pq.read_table(store.cell_folder(result.cell) / "cell.parquet").to_pylist()[0]
    assert (row["n_samples"], row["skipped_images"]) == (result.n_samples, 1)
    names = (store.cell_folder(result.cell) / "skipped_images.txt").read_text()
    assert names == "fog: n01/image_0.JPEG (cut short)\n"


def test_the_record_says_which_layers_were_taken(store, result):
    write(store, result)
    row = pq.read_table(store.cell_folder(result.cell) / "cell.parquet").to_pylist()[0]
    assert json.loads(row["layers"]) == result.layers
    assert all(each["found"] == each["taken"] + each["left"] > 0 for each in result.layers.values())


def test_cells_that_skip_nothing_say_so(store, result):
    write(store, result)
    assert pq.read_table(store.cell_folder(result.cell) / "cell.parquet")["skipped_images"][0].as_py() == 0
    assert not (store.cell_folder(result.cell) / "skipped_images.txt").exists()


def test_reasons_with_bytes_that_are_no_text_are_written(store, result):
    store.write_failure(result.config, "no file a\udcff.png", sweep="s", git_commit="", traceback="in a\udcff.png")
    assert store.failures([result.cell]) == {result.cell: r"no file a\udcff.png"}
    assert (store.entry_folder(result.cell) / "traceback.txt").read_text() == r"in a\udcff.png"


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch_size", 2**31), ("seed", 2**63), ("data_seed", 2**63), ("rounds", 10**9), ("first_samples", 2**31)],
)
def test_numbers_that_a_column_cannot_hold_are_refused(field, value):
    with pytest.raises(InputError, match=f"{field} = {value} is not allowed"):
        RunConfig.from_values(CONFIG | {field: value} | ({"stream": "recurring"} if field == "rounds" else {}))


def test_the_largest_numbers_fit_the_columns(store):
    config = RunConfig.from_values(CONFIG | {"batch_size": 2**31 - 1, "seed": 2**63 - 1})
    store.write_failure(config, "tried", sweep="s", git_commit="")
    row = pq.read_table(store.entry_folder(config.cell_id()) / "cell.parquet").to_pylist()[0]
    assert (row["batch_size"], row["seed"]) == (2**31 - 1, 2**63 - 1)


def test_each_cell_has_a_manifest_of_its_files(store, result):
    write(store, replace(result, skipped=("fog: a.png",), samples={k: v[:-1] for k, v in result.samples.items()}))
    store.write_failure(RunConfig.from_values(CONFIG | {"seed": 1}), "no", sweep="s", git_commit="", traceback="T")
    for kind in ("cells", "failed"):
        (folder,) = (store.folder / kind).iterdir()
        manifest = json.loads((folder / schema.MANIFEST).read_text())
        assert manifest["cell"] == folder.name
        assert sorted([*manifest["files"], schema.MANIFEST]) == sorted(path.name for path in folder.iterdir())
    assert inspect(store.folder, thorough=True).damages == ()


def test_pages_have_checksums(store, result):
    write(store, result)
    file = store.cell_folder(result.cell) / "samples.parquet"
    content = bytearray(file.read_bytes())
    column = pq.read_metadata(file).row_group(0).column(1)
    # The last byte of its data.
    content[column.dictionary_page_offset + column.total_compressed_size - 1] ^= 1
    file.write_bytes(content)
    with pytest.raises(OSError, match=r"CRC|[Cc]orrupt"):
        pq.read_table(file, page_checksum_verification=True)


def test_a_store_of_another_layout_is_not_touched(store):
    (store.folder / schema.STORE_FILE).write_text('{"store": "a", "layout": 2}')
    for use in (store.states, store.create):
        with pytest.raises(ResultsError, match="states layout 2; this `tta-grid` knows 1"):
            use()


def test_a_file_where_the_folder_is_to_be_is_told_before_anything_is_planned(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    for name, problem in (("file", "it is a file"), ("file/below", "Not a directory"), ("loop", "Too many levels")):
        store = ResultStore(tmp_path / name)
        for use in (store.states, store.create):
            with pytest.raises(InputError, match=rf"cannot be written \({problem}.*--results DIR"):
                use()
    assert ResultStore(tmp_path / "new").states() == {}
