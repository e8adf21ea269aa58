"""The command: messages, exit statuses, listings and queries (no Ray here)."""

import json

import click
import pytest
from click.testing import CliRunner

import tta_core
from grid.commands.listing import _by_value
from grid.commands.main import main
from grid.store.store import ResultStore


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def results(tmp_path):
    store = ResultStore(tmp_path / "results")
    store.create()
    for method in ("source", "tent"):
        for seed in (0, 1):
            values = {"method": method, "preset": "digits-c", "severity": 4, "seed": seed}
            result = tta_core.run(values | {"samples_per_domain": 8, "domains": ["fog", "snow"]})
            store.write_result(result, sweep="s", git_commit="")
    return store.folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nosuch.yaml"], "no sweep file 'nosuch.yaml'"),
        (["plan", "quikstart"], "Did you mean the shipped sweep 'quickstart'"),
        (["run", "quickstart", "--set", "method=tennt"], "Did you mean 'tent'"),
        (["run", "quickstart", "--set", "moetta.lambda_balance=-1"], "lambda_balance = -1 is not allowed"),
        (["run", "quickstart", "--set", "metod=tent"], "Did you mean 'method'"),
        (["run", "quickstart", "--results", "/dev/null/x"], "cannot be written"),
        (["run", "quickstart", "--tracking-uri", "mlruns"], "MLflow needs one of"),
        (["run", "quickstart", "--address", "nowhere"], "give host:port"),
        (["run", "quickstart", "--address", "127.0.0.1:1"], "no Ray head answers"),
        (["run", "quickstart", "--results", __file__], "cannot be written"),
        (["status", "nosuch"], "'nosuch' does not exist"),
        (["query", "nosuch", "select 1"], "'nosuch' does not exist"),
        (["report", "nosuch"], "'nosuch' does not exist"),
        (["list", "method"], "methods"),
        (["rnu", "quickstart"], "Did you mean 'run'"),
        (["run"], "Missing argument 'SWEEP'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_message_and_status_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call(*arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_weights_and_images_that_are_not_here_are_named_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTA_GRID_WEIGHTS", str(tmp_path))
    monkeypatch.delenv("TTA_GRID_DATA", raising=False)
    changes = ("benchmark=imagenet-c", "backbone=mae_finetuned_vit_base", "preset=recommended")
    run = ("run", "quickstart", *(part for change in changes for part in ("--set", change)))
    done = call(*run)
    assert (done.exit_code, "Put mae_finetuned_vit_base.safetensors or " in done.output) == (2, True)
    (tmp_path / "mae_finetuned_vit_base.pth").write_bytes(b"")
    done = call(*run)
    assert (done.exit_code, "TTA_GRID_DATA is not set. The images of imagenet-c " in done.output) == (2, True)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("kind", ["methods", "backbones", "benchmarks", "streams"])
def test_lists_name_everything_in_text_and_json(kind):
    rows = json.loads(call("list", kind, "--json").output)
    text = call("list", kind).output
    assert rows
    assert all(row["name"] in text for row in rows)


def test_backbones_are_listed_with_what_they_are_fed_and_reach():
    blocks = {block.partition("\n")[0]: block for block in call("list", "backbones").output.split("\n\n")}
    swin = blocks["swin_base_patch4_window7_224.ms_in22k_ft_in1k"]
    assert "input             224x224, mean 0.485 0.456 0.406, std 0.229 0.224 0.225" in swin
    assert "own crop          resize 248 bicubic, centre crop 224" in swin
    assert "85.27 % with its own crop (timm, results/results-imagenet.csv)" in swin
    assert "85.10 % with its own crop" in blocks["vit_base_patch16_224.augreg2_in21k_ft_in1k"]
    assert "; 85.1 % with crop: resize-center" in blocks["vit_base_patch16_224.augreg2_in21k_ft_in1k"]
    assert "timm's vit_base_patch16_224 with global_pool=avg" in blocks["mae_finetuned_vit_base"]
    assert "clean accuracy    not stated" in blocks["cifar10_vit_base_patch16_384"]
    assert "shipped: digits_vit_mae.safetensors, sha256 " in blocks["digits-vit-mae"]


def test_benchmarks_are_listed_with_all_that_a_user_must_know():
    text = call("list", "benchmarks").output
    blocks = {block.partition("\n")[0]: block for block in text.split("\n\n")}
    assert "classes           200 of imagenet-1k" in blocks["imagenet-a"]
    assert "label space       full or masked" in blocks["imagenet-a"]
    assert "n01498041 6, n01531178 11" in blocks["imagenet-a"]
    assert "...: list benchmarks imagenet-a" in blocks["imagenet-a"]
    assert "images            50,000 in each domain" in blocks["imagenet-c"]
    assert "imagenet-r 30,000, imagenet-sketch 50,889, imagenet-a 7,500" in blocks["potpourri"]
    assert "size              2.19 GB" in blocks["imagenet-r"]
    assert all("source  " in block and "licence  " in block and "transforms  " in block for block in blocks.values())
    assert max(map(len, blocks["imagenet-a"].splitlines())) < 250


def test_one_row_is_listed_in_full_by_its_name():
    text = call("list", "benchmarks", "imagenet-a").output
    assert text.startswith("imagenet-a\n")
    assert text.count("\n\n") == 0
    assert text.partition("label map")[2].partition("\n")[0].count(",") == 199
    assert [row["name"] for row in json.loads(call("list", "methods", "tent", "sar", "--json").output)] == [
        "tent",
        "sar",
    ]
    done = call("list", "benchmarks", "imagenet-b")
    assert done.exit_code == 2
    assert "unknown benchmark 'imagenet-b'. Did you mean 'imagenet-" in done.output


def test_methods_are_listed_with_what_decides_whether_they_may_be_compared():
    rows = {row["name"]: row for row in json.loads(call("list", "methods", "--json").output)}
    imse = rows["imse"]
    assert imse["needs"] == {"source images": "clean, unlabelled images of the source"}
    assert set(imse["needs_by_preset"]) == set(imse["scored_logits"]) == set(imse["presets"])
    assert imse["needs_by_preset"]["official"] == ["source images"]
    assert "descriptor" in imse["prepares"]
    assert imse["network"] == "timm's VisionTransformer"
    tent = rows["tent"]
    assert (tent["needs"], tent["prepares"]) == ({}, None)
    assert set(tent["scored_logits"].values()) == {"pre-update"}
    assert tent["search"] == {"lr": {"kind": "real", "low": 1e-5, "high": 0.3, "log": True}}
    assert rows["t3a"]["search"] == {"filter_k": {"kind": "choice", "values": [1, 5, 20, 50, 100, -1]}}
    text = call("list", "methods").output
    assert "source images (clean, unlabelled images of the source)" in text
    assert f"prepares          {imse['prepares']}" in text
    assert "tables            official: LAME's and mariodoebler's tables; foa: FOA's table (54.1)" in text
    assert "checked           traces of fiveai/LAME d2e5f63, mr-eggplant/FOA 004b02d" in text


def test_no_help_text_is_cut():
    def groups(path, command):
        if isinstance(command, click.Group):
            yield path
            for name, below in command.commands.items():
                yield from groups((*path, name), below)

    for path in groups((), main):
        assert "..." not in call(*path, "--help").output.partition("Commands:")[2]


def test_what_presets_share_is_said_once():
    assert _by_value({"recommended": "pre-update", "paper": "pre-update"}) == "pre-update"
    by_preset = {"recommended": "pre-update", "paper": "perturbed", "official": "perturbed"}
    assert _by_value(by_preset) == "recommended: pre-update, paper/official: perturbed"


def test_query_gives_a_table_csv_and_json(results):
    sql = "select method, count(*) as n from cells group by method order by method"
    assert call("query", results, sql).output.split() == ["method", "n", "------", "-", "source", "2", "tent", "2"]
    assert call("query", results, sql, "--format", "csv").output == "method,n\nsource,2\ntent,2\n"
    rows = json.loads(call("query", results, sql, "--format", "json").output)
    assert rows == [{"method": "source", "n": 2}, {"method": "tent", "n": 2}]


@pytest.mark.parametrize("sql", ["select nosuch from cells", "selec 1", "select * from nosuch"])
def test_a_query_that_duckdb_refuses_says_what_there_is(results, sql):
    done = call("query", results, sql)
    assert done.exit_code == 2
    assert "Views: cells, batches, samples, diagnostics" in done.output


def test_a_query_that_would_write_is_refused(store):
    file = store.folder / "cells" / "answer.csv"
    done = call("query", store.folder, f"WITH a AS (COPY (SELECT 1) TO '{file}') FROM a")
    assert (done.exit_code, file.exists()) == (2, False)
    assert "has COPY in it, which changes something. Allowed are SELECT" in done.output


def test_status_counts(results):
    told = json.loads(call("status", results, "--json").output)
    assert (told["done"], told["failed"]) == (4, 0)
    assert [(row["method"], row["done"]) for row in told["methods"]] == [("source", 2), ("tent", 2)]
    assert "4 cells done, 0 failed" in call("status", results).output


def test_report_prints_the_leaderboard_and_writes_the_page(results, tmp_path):
    done = call("report", results, "--output", tmp_path / "page.html")
    assert done.exit_code == 0
    assert "tent" in done.output
    assert (tmp_path / "page.html").read_text().startswith("<!")


def test_report_prints_latex(results):
    assert call("report", results, "--latex").output.startswith(r"\begin{table}")
    assert not (results / "report.html").exists()


@pytest.mark.parametrize("command", [[], ["data"]])
def test_no_line_of_help_is_cut(command):
    assert "..." not in call(*command, "--help").output.replace("[ARGS]...", "")


@pytest.mark.parametrize("words", [("--grid",), ("--grid", "many"), ("--grid", "0"), ("--grid=5", "--methods", "tent")])
def test_the_overhead_is_measured_of_a_number_of_cells(words):
    ended = CliRunner().invoke(main, ["bench", *words])
    assert ended.exit_code == 2
    assert "--grid" in ended.output
    assert "number of cells" in ended.output
