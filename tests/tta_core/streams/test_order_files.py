"""Files with orders: they come back as they were written, and what is damaged is said."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tta_core.errors import InputError
from tta_core.streams.order import StreamOrder, stream_order
from tta_core.streams.order_files import read_order, write_order

ANY_TMP = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def orders(draw):
    """Any order: images may come several times, domains in any order or never."""
    samples = draw(st.integers(1, 30))
    domains = draw(st.lists(st.sampled_from(["fog", "snow", "fog@3", 'a "b", c', "ü"]), min_size=1, unique=True))
    borders = draw(st.sets(st.integers(1, samples), max_size=5)) - {samples}
    return StreamOrder(
        tuple(domains),
        np.array(draw(st.lists(st.integers(0, len(domains) - 1), min_size=samples, max_size=samples)), np.int16),
        np.array(draw(st.lists(st.integers(0, 2**31 - 1), min_size=samples, max_size=samples)), np.int32),
        (0, *sorted(borders)),
        draw(st.booleans()),
    )


@given(orders(), st.sampled_from([".parquet", ".csv"]))
@ANY_TMP
def test_an_order_comes_back_as_it_was_written(tmp_path, order, suffix):
    path = tmp_path / f"{order.order_hash()}{suffix}"
    write_order(order, path, {"stream": "mixed", "seed": 3})
    found = read_order(path)
    assert (found.stream, found.index) == ("mixed", None)
    assert found.order.order_hash() == order.order_hash()
    assert (found.order.domains, found.order.segments) == (order.domains, order.segments)
    assert found.order.reset_at_segments == order.reset_at_segments
    assert found.of(["whatever"]) is found.order
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []


def written(path, **about):
    order = stream_order("single", ["fog", "snow"], 9, 3, 0)
    write_order(order, path, {"stream": "single"} | about)
    return order


def test_the_columns_and_the_statement_are_as_documented(tmp_path):
    order = written(tmp_path / "a.csv", seed=5)
    written(tmp_path / "a.parquet", seed=5)
    head, *rows = (tmp_path / "a.csv").read_text().splitlines()
    about = json.loads(head.removeprefix("# tta_grid_order "))
    assert about == {
        "format": 1,
        "order_hash": order.order_hash(),
        "samples": 6,
        "domains": ["fog", "snow"],
        "stream": "single",
        "seed": 5,
    }
    assert rows[0] == "position,domain,index,segment,reset"
    resets = [1, 0, 0, 1, 0, 0]
    assert rows[1:] == [
        f"{p},{['fog', 'snow'][p // 3]},{i},{p // 3},{resets[p]}" for p, i in enumerate(order.index.tolist())
    ]
    table = pq.read_table(tmp_path / "a.parquet")
    assert json.loads(table.schema.metadata[b"tta_grid_order"]) == about
    assert table.column_names == ["position", "domain", "index", "segment", "reset"]
    assert table["reset"].to_pylist() == list(map(bool, resets))


def test_a_file_of_ones_own_may_leave_out_what_is_not_needed(tmp_path):
    (tmp_path / "own.csv").write_text("note,domain,index\nx,snow,4\ny,fog,0\n\nz,snow,4\n")
    order = read_order(tmp_path / "own.csv").order
    assert (order.domains, order.segments, order.reset_at_segments) == (("snow", "fog"), (0,), False)
    assert (order.domain.tolist(), order.index.tolist()) == ([0, 1, 0], [4, 0, 4])
    pq.write_table(pa.table({"index": pa.array([4, 0], pa.int64()), "domain": ["a", "b"]}), tmp_path / "own.parquet")
    assert read_order(tmp_path / "own.parquet").order.index.tolist() == [4, 0]


def test_positions_say_the_order_of_the_rows(tmp_path):
    # With the mark and the line ends of a spreadsheet.
    (tmp_path / "p.csv").write_bytes(b"\xef\xbb\xbfposition,domain,index\r\n1,b,7\r\n0,a,5\r\n")
    assert read_order(tmp_path / "p.csv").order.index.tolist() == [5, 7]
    (tmp_path / "p.csv").write_text("position,domain,index,segment,reset\n1,b,7,1,1\n0,a,5,0,true\n")
    order = read_order(tmp_path / "p.csv").order
    assert (order.domains[order.domain[0]], order.index.tolist()) == ("a", [5, 7])
    assert (order.segments, order.reset_at_segments) == ((0, 1), True)


def test_indices_alone_are_applied_to_each_domain(tmp_path):
    np.save(tmp_path / "sar.npy", np.array([5, 0, 5], dtype=np.int64))
    np.save(tmp_path / "real.npy", np.array([5.0, 0.0, 5.0]))
    order = read_order(tmp_path / "sar.npy").of(["fog", "snow"])
    assert order.index.tolist() == [5, 0, 5, 5, 0, 5]
    assert order.domain.tolist() == [0, 0, 0, 1, 1, 1]
    assert (order.segments, order.reset_at_segments) == ((0, 3), True)
    assert read_order(tmp_path / "real.npy").of(["fog", "snow"]).order_hash() == order.order_hash()


def test_a_file_that_changes_is_read_again(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("domain,index\nfog,1\n")
    assert read_order(path).order.index.tolist() == [1]
    path.write_text("domain,index\nfog,25\n")
    assert read_order(path).order.index.tolist() == [25]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'domain'"),
        ("domain,index\n", "it has no rows"),
        ("domain\nfog\n", "no column 'index'"),
        ("domain,index\nfog\n", "row 0 has 1 entries, its header has 2"),
        ("domain,index\nfog,one\n", "its column 'index' has 'one'; it has whole numbers"),
        ("domain,index\nfog,1_0\n", "its column 'index' has '1_0'"),
        ("domain,index\nfog,٣\n", "its column 'index' has '٣'"),
        (f"domain,index\nfog,{'9' * 30}\n", "its column 'index' has '999"),
        ("domain,index,index\nfog,1,2\n", "has the column 'index' twice"),
        (f"# tta_grid_order {'[' * 100_000}\ndomain,index\nfog,1\n", "is damaged or is no order"),
        ("domain,index\nfog,-1\n", "its indices are -1 to -1"),
        ("domain,index\nfog,3000000000\n", "its indices are 3000000000"),
        ("position,domain,index\n0,fog,1\n2,fog,1\n", "positions are not 0 to 1"),
        ("domain,index,segment\nfog,1,1\n", "segments are not numbered 0, 1, 2"),
        ("domain,index,segment\nfog,1,0\nfog,1,2\n", "segments are not numbered 0, 1, 2"),
        ("domain,index,segment,reset\nfog,1,0,0\nfog,1,0,1\n", "resets the method before some samples"),
        ("domain,index,segment,reset\nfog,1,0,1\nfog,1,1,0\n", "resets the method before some samples"),
        ("domain,index,reset\nfog,1,perhaps\n", "its column 'reset' has 'perhaps'"),
        ("# tta_grid_order {\ndomain,index\nfog,1\n", "is damaged or is no order"),
        ('# tta_grid_order {"format": 2}\ndomain,index\nfog,1\n', "this version reads format 1"),
        ('# tta_grid_order {"domains": ["snow"]}\ndomain,index\nfog,1\n', "its domains are snow, but a row has 'fog'"),
        (
            '# tta_grid_order {"order_hash": "0"}\ndomain,index\nfog,1\n',
            "says that its order has the hash 0, but its r",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, text, message):
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_order(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"domain": [1], "index": [0]}, "'domain' has values of the type int64, not names"),
        ({"domain": ["fog"], "index": [True]}, "index has values of the type bool"),
        ({"domain": ["fog"], "index": [0], "reset": ["false"]}, "'reset' has other values"),
        ({"domain": ["fog"], "index": [0], "reset": [2]}, "'reset' has other values"),
    ],
)
def test_a_column_of_another_type_keeps_its_meaning(tmp_path, columns, message):
    path = tmp_path / "wrong.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(InputError, match=message):
        read_order(path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npy"])
@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_file_is_named(tmp_path, suffix, damage):
    path = tmp_path / f"order{suffix}"
    if suffix == ".npy":
        np.save(path, np.arange(100))
    else:
        written(path)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-20], "noise": bytes(range(128, 256)) * 4, "empty": b""}[damage])
    with pytest.raises(InputError, match=rf"order{suffix}"):
        read_order(path)


def test_any_changed_row_is_found_by_the_hash(tmp_path):
    path = tmp_path / "order.csv"
    written(path)
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines[2:], start=2):
        position, domain, index, segment, reset = line.split(",")
        changed = [*lines[:number], f"{position},{domain},{int(index) + 1},{segment},{reset}", *lines[number + 1 :]]
        path.write_text("\n".join(changed) + "\n\n" * number)
        with pytest.raises(InputError, match="it is damaged or was changed"):
            read_order(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("order.npy", "written as .parquet or .csv"),
        ("missing/order.csv", "missing/order.csv cannot be written"),
        ("file.csv/order.csv", "cannot be written"),
    ],
)
def test_where_an_order_cannot_be_written_is_said(tmp_path, name, message):
    (tmp_path / "file.csv").write_text("")
    with pytest.raises(InputError, match=message):
        written(tmp_path / name)


def test_an_array_that_says_to_be_larger_than_its_file_is_named(tmp_path):
    with (tmp_path / "order.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (10**10,)})
    with pytest.raises(InputError, match="cut short"):
        read_order(tmp_path / "order.npy")


def test_other_kinds_of_files_are_refused(tmp_path):
    np.savez(tmp_path / "order.npz", np.arange(3))
    (tmp_path / "order.npy").write_bytes((tmp_path / "order.npz").read_bytes())
    with pytest.raises(InputError, match=r"no .npy file"):
        read_order(tmp_path / "order.npy")
    with pytest.raises(InputError, match=r"ends in .parquet, .csv, .npy"):
        read_order(tmp_path / "order.npz")
    with pytest.raises(InputError, match="cannot be read"):
        read_order(tmp_path / "order.csv")
    np.save(tmp_path / "matrix.npy", np.zeros((2, 2), int))
    with pytest.raises(InputError, match=r"index has the shape \(2, 2\)"):
        read_order(tmp_path / "matrix.npy")
    np.save(tmp_path / "words.npy", np.array(["a"]))
    with pytest.raises(InputError, match="not whole numbers"):
        read_order(tmp_path / "words.npy")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"pickled.npy is damaged"):
        read_order(tmp_path / "pickled.npy")
