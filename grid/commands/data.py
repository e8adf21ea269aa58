"""The command group `tta-grid data`: images, orders and backbones, beside any sweep. Thin, with lazy imports."""

from __future__ import annotations

from dataclasses import dataclass

import click

from grid.commands.images import bench_reading, cache_images, corrupt_images, verify_files
from grid.commands.options import EXIT_SOME_FAILED, Finite, Listed, argument, option, reads, root_option


@dataclass(frozen=True)
class OrderOptions:
    """Which order is written, and where."""

    sweep: str | None = argument(required=False)
    output: str = option("--output", metavar="FILE", required=True, help="File to write: .parquet or .csv.")
    benchmark: str | None = option("--benchmark", metavar="NAME", help="Benchmark. [default: digits-c]")
    stream: str | None = option("--stream", metavar="NAME", help="Stream. [default: mixed]")
    seed: int | None = option(
        "--seed", type=click.IntRange(min=0), help="Seed of the order. [default: 0, or that of SWEEP]"
    )
    severity: int | None = option("--severity", type=int, help="Severity; most orders do not depend on it.")
    domains: str | None = option(
        "--domains", metavar="NAMES", help="Domains, by commas, or a set such as held-out or order-3."
    )
    samples_per_domain: int | None = option(
        "--samples-per-domain", type=click.IntRange(min=1), help="Images from each domain. [default: all]"
    )
    overrides: tuple[str, ...] = option(
        "--set", multiple=True, metavar="KEY=VALUE", help="Any other field of the cell; repeatable."
    )
    as_json: bool = option("--json", is_flag=True, help="Print what was written as JSON.")


@click.command("order")
@reads(OrderOptions)
def write_order(given: OrderOptions) -> None:
    """Writes the order of a stream to FILE, which a cell replays with `order_file: FILE`.

    The stream is that of the cells of SWEEP, which must share one order; without SWEEP that of the options.

    \b
    tta-grid data order --stream correlated --seed 1 --set dirichlet_alpha=0.05 --output order.parquet
    tta-grid data order quickstart --seed 2 --output order.csv
    """
    import json
    from pathlib import Path

    from grid.commands.orders import export_order, export_text

    several = given.domains is not None and "," in given.domains
    fields = {
        "benchmark": given.benchmark,
        "stream": given.stream,
        "severity": given.severity,
        "domains": f"[{given.domains}]" if several else given.domains,
        "samples_per_domain": given.samples_per_domain,
        "seeds": None if given.seed is None else [given.seed],
    }
    options = [f"{key}={value}" for key, value in fields.items() if value is not None]
    written = export_order(given.sweep, [*options, *given.overrides], Path(given.output))
    click.echo(json.dumps(written, indent=2) if given.as_json else export_text(written))


@dataclass(frozen=True)
class CheckOptions:
    """Which backbones are measured, on which images."""

    backbones: tuple[str, ...] = argument(nargs=-1, metavar="[BACKBONE]...")
    sweep: str | None = option(
        "--sweep", metavar="SWEEP", help="Check each backbone of this sweep too, with the weights that it names."
    )
    benchmark: str | None = option(
        "--benchmark", metavar="NAME", help="Benchmark with the clean images. [default: that of the classes]"
    )
    weights: str | None = option("--weights", metavar="FILE", help="Weights of your own, for one BACKBONE.")
    images: int | None = option(
        "--images", type=click.IntRange(min=1), help="So many, drawn from all with a fixed seed. [default: all]"
    )
    subset_file: str | None = option(
        "--subset-file", metavar="FILE", help="Only the images listed there, as <class>/<file> or numbers."
    )
    partial: bool = option("--partial", is_flag=True, help="Take the clean images that are here, if not all are.")
    crop: str | None = option("--crop", metavar="NAME", help="How images are cut. [default: the benchmark's]")
    batch_size: int = option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
    precision: str = option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
    device: str = option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
    tolerance: float | None = option(
        "--tolerance", type=Finite(min=0), metavar="POINTS", help="See above. [default: 0.3 or 1]"
    )
    as_json: bool = option("--json", is_flag=True, help="Print as JSON.")


@click.command("check-backbone")
@reads(CheckOptions)
@root_option
def check_backbones(given: CheckOptions) -> None:
    """Measures the clean accuracy of backbones as a trial would, and compares it with what is expected.

    \b
    tta-grid data check-backbone digits-vit-supervised
    tta-grid data check-backbone vit_base_patch16_224.augreg2_in21k_ft_in1k --root /data --images 5000
    tta-grid data check-backbone --sweep my-sweep.yaml

    They agree if the expected number lies in the 95 % interval (Wilson) of the measured one, widened on both sides by a
    tolerance: 0.3 points where the number was stated under the transform used here, 1 point where under another.

    \b
    Exit status: 0 all agree, or nothing is expected of them, 1 one is significantly below or above, 2 the input is
    wrong.
    """
    import json
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from grid.commands.backbones import checked_backbones
    from tta_core.errors import InputError
    from tta_core.run.backbone_check import check_backbone

    if given.partial and given.subset_file is not None:
        raise InputError("--partial takes all images that are here, --subset-file some: give one of the two")
    fields = {
        "benchmark": given.benchmark,
        "first_samples": given.images,
        "subset_file": given.subset_file,
        "crop": given.crop,
        "batch_size": given.batch_size,
        "precision": given.precision,
    }
    tolerance = None if given.tolerance is None else given.tolerance / 100
    agree, values = True, []
    with TemporaryDirectory() as folder:
        lists = Path(folder) if given.partial else None
        for config in checked_backbones(given.backbones, given.sweep, given.weights, fields, lists=lists):
            check = check_backbone(config, device=given.device, tolerance=tolerance)
            agree = agree and check.agrees
            values.append(check.values())
            if not given.as_json:
                click.echo(check.text())
    if given.as_json:
        click.echo(json.dumps(values, indent=2))
    if not agree:
        raise SystemExit(EXIT_SOME_FAILED)


@click.group(cls=Listed, context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Looks after what sweeps read: orders of streams, images, backbones."""


for each in (write_order, verify_files, corrupt_images, cache_images, bench_reading, check_backbones):
    data.add_command(each)
