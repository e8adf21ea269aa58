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

    from grid.commands.orders import export_order, export_text

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

    from tta_core.data.benchmarks import benchmark_spec
    from tta_core.data.root import VARIABLE
    from tta_core.data.verify.verify import verify

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


@data.command("corrupt")
@click.argument("benchmark", required=False)
@click.option("--root", metavar="DIR", help="Data root. [default: the folder that TTA_GRID_DATA names]")
@click.option("--images", metavar="PATH", help="Instead of BENCHMARK: a folder of images, or an array .npy.")
@click.option("--to", metavar="DIR", help="With --images: where to write.")
@click.option("--size", type=click.IntRange(min=16), help="With --images: resize and crop to so many pixels.")
@click.option("--corruptions", metavar="NAMES", help="By commas; or reported, held-out. [default: all nineteen]")
@click.option("--severity", "severities", multiple=True, type=int, help="Severity; repeatable. [default: 1 to 5]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the random choices.")
@click.option("--strengths", metavar="NAME", help="imagenet or cifar. [default: cifar below 64 pixels, else imagenet]")
@click.option("--frost", metavar="DIR", help="With --images: the published photographs of frost, frost1.png, ...")
@click.option("--png", is_flag=True, help="With --images: lossless files instead of JPEG of quality 85.")
@click.option("--device", metavar="NAME", default="cpu", show_default=True, help="Such as cuda.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads. [default: all cores]")
@click.option("--plan", "only_plan", is_flag=True, help="Only say what would be made.")
def corrupt_images(
    benchmark: str | None,
    root: str | None,
    images: str | None,
    to: str | None,
    size: int | None,
    corruptions: str | None,
    severities: tuple[int, ...],
    seed: int,
    strengths: str | None,
    frost: str | None,
    png: bool,
    device: str,
    workers: int | None,
    only_plan: bool,
) -> None:
    """Makes the corruptions of ImageNet-C or CIFAR-C from clean images.

    BENCHMARK is one that is made here: imagenet-c-gen from imagenet/val, cifar10-c-gen from cifar10-c/clean.npy, ...
    Of other images with --images, in files DIR/<corruption>/<severity>/<path>, or arrays DIR/<corruption>.npy.

    \b
    tta-grid data corrupt imagenet-c-gen --root /data --severity 5
    tta-grid data corrupt --images photos --to photos-c --corruptions fog,snow --size 224

    It may be interrupted, and goes on where it was.

    Exit status: 0 all is made, 1 some images cannot be used (they are named), 2 the input is wrong.
    """
    import os
    import sys
    from pathlib import Path

    from tta_core.corruptions.plan import make_job, plan_benchmark, plan_images
    from tta_core.data.files.decoded import usable_cores
    from tta_core.data.root import VARIABLE
    from tta_core.errors import InputError, first_names

    if (benchmark is None) == (images is None) or (images is None) != (to is None):
        raise InputError("give BENCHMARK, such as imagenet-c-gen; or --images and --to")
    if root is not None:
        os.environ[VARIABLE] = root
    job = make_job(
        corruptions=[name.strip() for name in corruptions.split(",")] if corruptions else (),
        severities=severities,
        seed=seed,
        strengths=strengths,
        frost=None if frost is None else Path(frost),
        device=device,
        workers=workers or usable_cores(),
        lossless=png,
    )
    if benchmark is not None:
        if size is not None:
            raise InputError(f"--size is for --images: the images of {benchmark} have the published size")
        plan = plan_benchmark(benchmark, job)
    else:
        plan = plan_images(Path(str(images)), Path(str(to)), job, size)
    click.echo(plan.as_text())
    if only_plan:
        return
    shown = sys.stderr.isatty()

    def tell(done: int, total: int) -> None:
        if shown:
            click.echo(f"\r\033[K{done:,} of {total:,} images", err=True, nl=done == total)
        elif done == total:
            click.echo(f"{done:,} of {total:,} images", err=True)

    damaged = plan.run(tell)
    if damaged:
        named = [f"{name} ({reason})" for name, reason in damaged.items()]
        click.echo(f"{len(damaged)} images cannot be used, nothing was made of them: {first_names(named)}", err=True)
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

    Exit status: 0 all is decoded, 1 some images are damaged (they are named), 2 the input is wrong, 130 interrupted.
    """
    import os
    import sys

    from grid.commands.backbones import crop_and_size
    from tta_core.data.benchmarks import benchmark_spec
    from tta_core.data.decode_plan import damaged_text, make_plan
    from tta_core.data.files.decoded import usable_cores
    from tta_core.data.root import VARIABLE

    if root is not None:
        os.environ[VARIABLE] = root
    shown = sys.stderr.isatty()

    def tell(line: str) -> None:
        # On a terminal one line that changes; in a log file the last line of each domain.
        done, _, total = line.partition(": ")[2].removesuffix(" images").partition(" of ")
        ends = done == total or not total
        if shown:
            click.echo(f"\r\033[K{line}", err=True, nl=ends)
        elif ends:
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
    try:
        damaged = plan.build(workers=workers or usable_cores(), tell=tell)
    except KeyboardInterrupt:
        click.echo("interrupted; what is decoded is kept. Go on with the same command.", err=True)
        raise SystemExit(130) from None
    if damaged:
        click.echo(damaged_text(damaged), err=True)
        raise SystemExit(1)


@data.command("check-backbone")
@click.argument("backbones", nargs=-1, metavar="[BACKBONE]...")
@click.option("--sweep", metavar="SWEEP", help="Check each backbone of this sweep too, with the weights that it names.")
@click.option("--benchmark", metavar="NAME", help="Benchmark with the clean images. [default: that of the classes]")
@click.option("--root", metavar="DIR", help="Data root. [default: the folder that TTA_GRID_DATA names]")
@click.option("--weights", metavar="FILE", help="Weights of your own, for one BACKBONE.")
@click.option("--images", type=click.IntRange(min=1), help="So many, drawn from all with a fixed seed. [default: all]")
@click.option("--subset-file", metavar="FILE", help="Only the images listed there, as <class>/<file> or numbers.")
@click.option("--partial", is_flag=True, help="Take the clean images that are here, if not all are.")
@click.option("--crop", metavar="NAME", help="How images are cut. [default: the benchmark's]")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--tolerance", type=click.FloatRange(min=0), metavar="POINTS", help="See above. [default: 0.3 or 1]")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def check_backbones(
    backbones: tuple[str, ...],
    sweep: str | None,
    benchmark: str | None,
    root: str | None,
    weights: str | None,
    images: int | None,
    subset_file: str | None,
    partial: bool,
    crop: str | None,
    batch_size: int,
    precision: str,
    device: str,
    tolerance: float | None,
    as_json: bool,
) -> None:
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
    import os
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from grid.commands.backbones import checked_backbones
    from tta_core.data.files.find import IN_PART
    from tta_core.data.root import VARIABLE
    from tta_core.errors import InputError
    from tta_core.run.backbone_check import check_backbone

    if root is not None:
        os.environ[VARIABLE] = root
    given = {
        "benchmark": benchmark,
        "first_samples": images,
        "subset_file": subset_file,
        "crop": crop,
        "batch_size": batch_size,
        "precision": precision,
    }
    if partial and subset_file is not None:
        raise InputError("--partial takes all images that are here, --subset-file some: give one of the two")
    agree, values = True, []
    try:
        with TemporaryDirectory() as lists:
            for config in checked_backbones(backbones, sweep, weights, given, lists=Path(lists) if partial else None):
                check = check_backbone(config, device=device, tolerance=None if tolerance is None else tolerance / 100)
                agree = agree and check.agrees
                values.append(check.values())
                if not as_json:
                    click.echo(check.text())
    except InputError as error:
        raise InputError(str(error).replace(IN_PART, "to take those that are here, give --partial")) from None
    if as_json:
        click.echo(json.dumps(values, indent=2))
    if not agree:
        raise SystemExit(1)
