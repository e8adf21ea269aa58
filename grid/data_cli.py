"""The command group `tta-grid data`: images, orders and backbones, beside any sweep. Thin, with lazy imports."""

from __future__ import annotations

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Looks after what sweeps read: orders of streams, images, backbones."""


@data.command()
@click.argument("sweep", required=False)
@click.option("--output", metavar="FILE", required=True, help="File to write: .parquet or .csv.")
@click.option("--benchmark", metavar="NAME", help="Benchmark. [default: digits-c]")
@click.option("--stream", metavar="NAME", help="Stream. [default: mixed]")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the order. [default: 0, or that of SWEEP]")
@click.option("--severity", type=int, help="Severity; most orders do not depend on it.")
@click.option("--domains", metavar="NAMES", help="Domains, by commas, or a set such as held-out or order-3.")
@click.option("--samples-per-domain", type=click.IntRange(min=1), help="Images from each domain. [default: all]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any other field of the cell; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def order(
    sweep: str | None,
    output: str,
    benchmark: str | None,
    stream: str | None,
    seed: int | None,
    severity: int | None,
    domains: str | None,
    samples_per_domain: int | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Writes the order of a stream to FILE, which a cell replays with `order_file: FILE`.

    The stream is that of the cells of SWEEP, which must share one order; without SWEEP that of the options.

    \b
    tta-grid data order --stream correlated --seed 1 --set dirichlet_alpha=0.05 --output order.parquet
    tta-grid data order quickstart --seed 2 --output order.csv
    """
    import json
    from pathlib import Path

    from grid.orders import export_order, export_text

    given = {
        "benchmark": benchmark,
        "stream": stream,
        "severity": severity,
        "domains": f"[{domains}]" if domains and "," in domains else domains,
        "samples_per_domain": samples_per_domain,
        "seeds": None if seed is None else [seed],
    }
    options = [f"{key}={value}" for key, value in given.items() if value is not None]
    written = export_order(sweep, [*options, *overrides], Path(output))
    click.echo(json.dumps(written, indent=2) if as_json else export_text(written))


@data.command("verify")
@click.argument("benchmark")
@click.option("--root", metavar="DIR", help="Data root. [default: the folder that TTA_GRID_DATA names]")
@click.option("--domain", "domains", multiple=True, metavar="NAME", help="Look only at this domain; repeatable.")
@click.option("--severity", "severities", multiple=True, type=int, help="Look only at this severity; repeatable.")
@click.option("--decode", is_flag=True, help="Decode every image too, and name those that are damaged.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def verify_files(
    benchmark: str, root: str | None, domains: tuple[str, ...], severities: tuple[int, ...], decode: bool, as_json: bool
) -> None:
    """Says of the files of BENCHMARK what is expected, what is found, and what to do.

    \b
    tta-grid data verify imagenet-c --root /data --severity 5
    tta-grid data verify imagenet-a --decode

    Exit status: 0 all that tables report is here, 1 something is missing or wrong, 2 the input is wrong.
    """
    import json
    import os
    import sys

    from tta_core.data.root import VARIABLE
    from tta_core.data.verify import verify
    from tta_core.registry import benchmark_spec

    if root is not None:
        os.environ[VARIABLE] = root
    shown = sys.stderr.isatty()
    report = verify(
        benchmark_spec(benchmark),
        domains=domains,
        severities=severities,
        decode=decode,
        tell=(lambda line: click.echo(f"\r{line}", err=True, nl=False)) if shown else None,
    )
    if shown:
        click.echo("\r\033[K", err=True, nl=False)
    click.echo(json.dumps(report.values(), indent=2) if as_json else report.text())
    if not report.complete:
        raise SystemExit(1)


@data.command("cache")
@click.argument("benchmark")
@click.option("--root", metavar="DIR", help="Data root. [default: the folder that TTA_GRID_DATA names]")
@click.option("--severity", "severities", multiple=True, type=int, help="Severity; repeatable. [default: 5]")
@click.option("--domains", metavar="NAMES", help="By commas: domains, clean, training, reported, held-out. [reported]")
@click.option("--crop", metavar="NAME", help="How images are cut: as the cells have it. [default: the benchmark's]")
@click.option("--backbone", metavar="NAME", help="Cut for it: to its size, with --crop backbone by its crop.")
@click.option("--image-size", type=int, help="Pixels. [default: 224, or those of --backbone]")
@click.option("--workers", type=click.IntRange(min=1), help="Threads that decode. [default: all cores]")
@click.option("--plan", "only_plan", is_flag=True, help="Only say how large it would be.")
def cache_images(
    benchmark: str,
    root: str | None,
    severities: tuple[int, ...],
    domains: str | None,
    crop: str | None,
    backbone: str | None,
    image_size: int | None,
    workers: int | None,
    only_plan: bool,
) -> None:
    """Decodes the images of BENCHMARK once, into memory maps that all trials then read.

    \b
    tta-grid data cache imagenet-c --severity 5
    tta-grid data cache imagenet-c --domains clean,held-out --crop resize-center --plan
    tta-grid data cache imagenet-c --crop backbone --backbone resnet50_gn.a1h_in1k

    It may be interrupted, and goes on where it was. TTA_GRID_CACHE names the folder; with TTA_GRID_DECODE_CACHE=1
    trials build what they find missing.

    Exit status: 0 all is decoded, 1 some images are damaged (they are named), 2 the input is wrong.
    """
    import os
    import sys

    from tta_core.data.decode_plan import crop_and_size, damaged_text, make_plan
    from tta_core.data.decoded import usable_cores
    from tta_core.data.root import VARIABLE
    from tta_core.registry import benchmark_spec

    if root is not None:
        os.environ[VARIABLE] = root
    shown = sys.stderr.isatty()

    def tell(line: str) -> None:
        # On a terminal one line that changes; in a log file the last line of each domain.
        done, _, total = line.partition(": ")[2].removesuffix(" images").partition(" of ")
        if shown:
            click.echo(f"\r\033[K{line}", err=True, nl=done == total)
        elif done == total:
            click.echo(line, err=True)

    cut, pixels = crop_and_size(crop, backbone, image_size)
    plan = make_plan(
        benchmark_spec(benchmark),
        severities=severities or (5,),
        domains=[name.strip() for name in domains.split(",")] if domains else (),
        crop=cut,
        image_size=pixels,
    )
    click.echo(plan.as_text())
    if only_plan:
        return
    damaged = plan.build(workers=workers or usable_cores(), tell=tell)
    if damaged:
        click.echo(damaged_text(damaged), err=True)
        raise SystemExit(1)
