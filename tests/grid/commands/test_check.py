"""`tta-grid check`: finds damage, moves it away, and the next plan makes those cells again."""

import json
import shutil

import pytest
from click.testing import CliRunner

import tta_core
from grid.commands.main import main
from grid.store.store import ResultStore

BASE = {"method": "source", "samples_per_domain": 4, "domains": ["fog"]}


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    store = ResultStore(tmp_path_factory.mktemp("written") / "results")
    store.create()
    for seed in range(3):
        store.write_result(tta_core.run(BASE | {"seed": seed}), sweep="s", git_commit="")
    return store.folder


@pytest.fixture
def results(written, tmp_path):
    return shutil.copytree(written, tmp_path / "results")


def test_whole_results_are_whole(results):
    done = call("check", results)
    assert (done.exit_code, done.output) == (0, f"{results}: 3 cells looked at, 0 damaged\n")


def test_what_is_damaged_is_said_everywhere_moved_away_and_made_again(results, tmp_path):
    first, second, third = sorted((results / "cells").iterdir())
    (first / "samples.parquet").unlink()
    assert "samples.parquet is missing; tta-grid check DIR --repair" in call("report", results).output
    content = bytearray((second / "samples.parquet").read_bytes())
    content[60] ^= 4
    (second / "samples.parquet").write_bytes(content)
    shutil.copytree(third, results / "cells" / "copy")

    status = call("status", results)
    assert f"damaged: cells/{first.name}: samples.parquet is missing" in status.output
    assert f"damaged: cells/copy: a copy of the cell {third.name}" in status.output
    assert f"tta-grid check {results} --repair moves" in status.output

    found = call("check", results, "--json")
    assert found.exit_code == 1
    assert {each["path"] for each in json.loads(found.output)["damages"]} == {
        f"cells/{name}" for name in ("copy", first.name, second.name)
    }
    repaired = call("check", results, "--repair")
    assert repaired.exit_code == 0
    assert f"moved: cells/{first.name} to damaged/cells/{first.name}: samples.parquet is missing" in repaired.output
    assert (results / "damaged" / "cells" / second.name / "samples.parquet").read_bytes() == content
    assert call("check", results).exit_code == 0
    assert [path.name for path in (results / "cells").iterdir()] == [third.name]
    sweep = tmp_path / "s.yaml"
    sweep.write_text(json.dumps({"sweep": "s", "base": BASE, "seeds": [0, 1, 2]}))
    assert json.loads(call("plan", sweep, "--results", results, "--json").output)["to_run"] == 2


def test_a_missing_id_is_said_and_made_anew(results):
    (results / "store.json").unlink()
    assert "damaged: store.json: it is missing" in call("status", results).output
    assert call("check", results).exit_code == 1
    assert "made anew: store.json: it is missing" in call("check", results, "--repair").output
    assert call("check", results).exit_code == 0
    assert len(ResultStore(results).id) == 32


def test_a_folder_that_is_written_to_is_not_repaired(results):
    for path in (results / "cells").iterdir():
        (path / "cell.parquet").unlink()
    with ResultStore(results).locked():
        done = call("check", results, "--repair")
    assert done.exit_code == 2
    assert "another tta-grid run is writing" in done.output
    assert len(list((results / "cells").iterdir())) == 3


@pytest.mark.parametrize("command", [["check"], ["status"], ["report"], ["query"], ["run", "quickstart", "--results"]])
@pytest.mark.parametrize("given", ["a\0b", "~nobody-at-all/x\0"])
def test_a_nul_byte_is_one_message(command, given):
    done = call(*command, given, *(["select 1"] if command == ["query"] else []))
    assert done.exit_code == 2
    assert "NUL byte" in done.output


def test_help_is_not_cut():
    for arguments in ((), ("data",)):
        assert "..." not in call(*arguments, "--help").output.partition("Commands:")[2]
