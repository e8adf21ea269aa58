"""`resources: auto`: the share of a GPU by a table of memory."""

from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from grid.commands.main import main
from grid.plan import memory
from grid.plan.memory import gpu_share, peak_of
from grid.plan.plan import Unread, make_plan
from grid.plan.sweep import Resources, checked_sweep, read_sweep
from tta_core.backbones.table import BACKBONES
from tta_core.bench.memory_table import Memory, network_of, read_table, remember, table_file
from tta_core.errors import InputError
from tta_core.methods.registry import methods
from tta_core.run.config import RunConfig

VIT = "vit_base_patch16_224.augreg2_in21k_ft_in1k"
COUNTED = {"moetta": 623.4, "deyo": 640.4, "cotta": 1786.5, "imse": 1237.2, "moase": 2259.5}
AUTO = Resources(auto=True, gpu_memory=24)


@pytest.fixture(autouse=True)
def own_table(tmp_path, monkeypatch):
    monkeypatch.setenv("TTA_GRID_CACHE", str(tmp_path))


def cell(method="tent", **values):
    given = {"method": method, "benchmark": "imagenet-c", "severity": 5, "backbone": VIT, "batch_size": 64}
    return RunConfig.from_values(given | values)


def keep(*rows):
    """Rows: backbone, precision, method, batch size, held, peak."""
    kept = [
        ((network_of(name), precision, method), size, Memory(held, peak))
        for name, precision, method, size, held, peak in rows
    ]
    remember(table_file(), kept)


def test_every_method_and_network_has_an_estimate_and_what_adapts_takes_more_than_the_source():
    shipped = read_table(memory.SHIPPED)
    by_network = {(network, precision): set() for network, precision, _ in shipped}
    for network, precision, method in shipped:
        by_network[network, precision].add(method)
    # It takes no network without batch norm.
    assert by_network[memory.REFERENCE, "fp32"] == set(methods()) - {"bn-adapt"}
    assert "bn-adapt" in by_network["resnet50", "fp32"]
    for spec in BACKBONES.values():
        if spec.task == "classification":
            assert by_network[network_of(spec.name), "fp32"] >= {"source", "tent"}
    for name, spec in methods().items():
        if spec.trains and name != "bn-adapt":
            assert peak_of(cell(name)).mib > 2 * peak_of(cell("source")).mib
    for larger in (
        {"batch_size": 128},
        {"method": "cotta"},
        {"backbone": "vit_large_patch16_224.augreg_in21k_ft_in1k"},
    ):
        assert peak_of(cell(**larger)).mib > peak_of(cell()).mib
    assert peak_of(cell(precision="bf16")).mib < peak_of(cell()).mib
    assert peak_of(cell()).basis == "estimate"


def test_the_estimates_of_a_network_follow_what_was_counted_on_it():
    # bench --memory --device cpu --backbone vit_base_patch16_224 --batch-size 4 --methods ...
    for method, counted in COUNTED.items():
        assert peak_of(cell(method, batch_size=4)).mib - memory.CONTEXT_MIB == pytest.approx(counted, rel=0.1)


def test_what_was_measured_counts_more_and_says_so():
    keep((VIT, "fp32", "tent", 64, 400.0, 7000.0))
    assert (peak_of(cell()).mib, peak_of(cell()).basis) == (7000 + memory.CONTEXT_MIB, "measured")
    # Other weights of the architecture take as much; another batch size is a guess.
    assert peak_of(cell(backbone="vit_base_patch16_224.sam_in1k")).basis == "measured"
    assert peak_of(cell(batch_size=128)).mib == 400 + 2 * 6600 + memory.CONTEXT_MIB
    assert peak_of(cell(batch_size=8)).mib == 7000 + memory.CONTEXT_MIB
    assert peak_of(cell(batch_size=128)).basis == peak_of(cell("sar")).basis == "estimate"
    assert gpu_share(cell(), AUTO) == 0.5  # 24 GiB hold two of 1.2 x 7.4 GiB.
    keep((VIT, "fp32", "tent", 32, 400.0, 3600.0))
    assert peak_of(cell(batch_size=48)).mib == 5300 + memory.CONTEXT_MIB
    assert peak_of(cell(batch_size=16)).mib == 400 + 1500 + memory.CONTEXT_MIB
    for peak, share in ((1000.0, 0.125), (6000.0, 0.3333), (30000.0, 1.0)):
        keep((VIT, "fp32", "tent", 64, 400.0, peak))
        assert gpu_share(cell(), AUTO) == share


def test_a_sweep_says_auto_in_one_word_and_the_plan_shows_what_that_is(tiny_file):
    keep(("digits-vit-supervised", "fp32", "tent", 8, 1.0, 20000.0))
    sweep = read_sweep(str(tiny_file), ["resources=auto", "resources.gpu_memory=40"])
    assert (sweep.resources.auto, sweep.resources.gpu_memory) == (True, 40.0)
    plan = make_plan(sweep, Unread())
    assert plan.resources.gpu == 1.0
    assert {gpu_share(config, plan.resources) for config in plan.cells.values()} == {1.0, 0.125}
    text = plan.as_text()
    assert "tent on digits-vit-supervised, fp32, batch 8: 20.1 GiB (measured), 1 at once on 40 GiB" in text
    assert "MiB of results" in text
    small = make_plan(read_sweep(str(tiny_file), ["resources=auto", "resources.gpu_memory=16"]), Unread())
    assert "it may not fit" in small.as_text()
    # On two GPUs there is room for more than two cells at once, and a price is of GPUs.
    assert plan.outlook(2, price=1.0).simulation.slots > 2
    assert read_sweep(str(tiny_file)).resources == Resources()


def test_auto_and_a_share_exclude_each_other():
    with pytest.raises(InputError, match="leave one out"):
        checked_sweep({"sweep": "a", "resources": {"auto": True, "gpu": 0.5}}, where="x")
    with pytest.raises(InputError, match="resources"):
        checked_sweep({"sweep": "a", "resources": "automatic"}, where="x")


def test_a_cell_that_died_has_a_gpu_of_its_own_when_tried_again():
    queue = SimpleNamespace(take=lambda: ("a", cell()), may_stop=lambda _: False, died=lambda _: died)
    searcher = pytest.importorskip("grid.launch.tune")._CellSearcher(queue, AUTO)
    keep((VIT, "fp32", "tent", 64, 400.0, 1000.0))
    died = False
    assert searcher.suggest("0")["gpu"] == 0.125
    died = True
    assert searcher.suggest("0")["gpu"] == 1.0


def test_memory_is_measured_with_all_images_in_the_loss_and_kept_where_it_is_asked_for(tmp_path):
    def bench(*more):
        asked = ["bench", "--backbone", "digits-vit-supervised", "--batch-size", "8", "--device", "cpu", *more]
        return CliRunner().invoke(main, asked)

    file = tmp_path / "table.csv"
    told = bench("--memory", "--table", str(file), "--methods", "source,eta,tent", "--set", "tent.lr=0.1")
    assert told.exit_code == 0, told.output
    assert "2 of 3 methods kept" in told.output
    found = read_table(file)
    assert {method for _, _, method in found} == {"source", "eta"}
    eta, source = (found["digits-vit-supervised", "fp32", method][8] for method in ("eta", "source"))
    assert eta.step > 2 * source.step
    assert "not kept: this is the CPU" in bench("--memory", "--methods", "source").output
    for wrong, named in ((("--table", "x"), "give both"), (("--memory", "--repeats", "3"), "times nothing")):
        assert bench(*wrong).exit_code == 2
        assert named in bench(*wrong).output


def test_a_damaged_table_is_named(tmp_path):
    table_file().write_text("nothing of the kind\n1\n")
    told = CliRunner().invoke(main, ["plan", "quickstart", "--set", "resources=auto"])
    assert told.exit_code == 2
    assert "no table of GPU memory" in told.output
    table_file().write_text("network,precision,method,batch_size,held_mib,peak_mib\na,fp32,tent,8,3,nan\n")
    with pytest.raises(InputError, match="delete it"):
        read_table(table_file())
