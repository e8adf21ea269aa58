"""The commands of `tta-grid data` that look after images: verify, corrupt, cache, bench. Thin, with lazy imports."""

from __future__ import annotations

from dataclasses import dataclass

import click

from grid.commands.options import (
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    ProgressLine,
    argument,
    names_in,
    option,
    reads,
    root_option,
)


@dataclass(frozen=True)
class VerifyOptions:
    """Which files are looked at, and how closely."""

    benchmark: str = argument()
    domains: tuple[str, ...] = option(
        "--domain", multiple=True, metavar="NAME", help="Look only at this domain; repeatable."
    )
    severities: tuple[int, ...] = option(
        "--severity", multiple=True, type=int, help="Look only at this severity; repeatable."
    )
    decode: bool = option("--decode", is_flag=True, help="Decode every image too, and name those that are damaged.")
    as_json: bool = option("--json", is_flag=True, help="Print as JSON.")


@click.command("verify")
@reads(VerifyOptions)
@root_option
def verify_files(given: VerifyOptions) -> None:
    """Says of the files of BENCHMARK what is expected, what is found, and what to do.

    \b
    tta-grid data verify imagenet-c --root /data --severity 5
    tta-grid data verify imagenet-a --decode

    Exit status: 0 all that tables report is here, 1 something is missing or wrong, 2 the input is wrong.
    """
    import json

    from tta_core.data.benchmarks import benchmark_spec
    from tta_core.data.verify.verify import verify

    progress = ProgressLine()
    report = verify(
        benchmark_spec(given.benchmark),
        domains=given.domains,
        severities=given.severities,
        decode=given.decode,
        tell=progress.show,
    )
    progress.clear()
    click.echo(json.dumps(report.values(), indent=2) if given.as_json else report.text())
    if not report.complete:
        raise SystemExit(1)


@dataclass(frozen=True)
class CorruptOptions:
    """Which corruptions are made, of which images, where and how."""

    benchmark: str | None = argument(required=False)
    images: str | None = option(
        "--images", metavar="PATH", help="Instead of BENCHMARK: a folder of images, or an array .npy."
    )
    to: str | None = option("--to", metavar="DIR", help="With --images: where to write.")
    size: int | None = option(
        "--size", type=click.IntRange(min=16), help="With --images: resize and crop to so many pixels."
    )
    corruptions: str | None = option(
        "--corruptions", metavar="NAMES", help="By commas; or reported, held-out. [default: all nineteen]"
    )
    severities: tuple[int, ...] = option(
        "--severity", multiple=True, type=int, help="Severity; repeatable. [default: 1 to 5]"
    )
    seed: int = option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the random choices."
    )
    strengths: str | None = option(
        "--strengths", metavar="NAME", help="imagenet or cifar. [default: cifar below 64 pixels, else imagenet]"
    )
    frost: str | None = option(
        "--frost", metavar="DIR", help="With --images: the published photographs of frost, frost1.png, ..."
    )
    png: bool = option("--png", is_flag=True, help="With --images: lossless files instead of JPEG of quality 85.")
    device: str = option("--device", metavar="NAME", default="cpu", show_default=True, help="Such as cuda.")
    workers: int | None = option("--workers", type=click.IntRange(min=1), help="Threads. [default: all cores]")
    only_plan: bool = option("--plan", is_flag=True, help="Only say what would be made.")


@click.command("corrupt")
@reads(CorruptOptions)
@root_option
def corrupt_images(given: CorruptOptions) -> None:
    """Makes the corruptions of ImageNet-C or CIFAR-C from clean images.

    BENCHMARK is one that is made here: imagenet-c-gen from imagenet/val, cifar10-c-gen from cifar10-c/clean.npy, ...
    Of other images with --images, in files DIR/<corruption>/<severity>/<path>, or arrays DIR/<corruption>.npy.

    \b
    tta-grid data corrupt imagenet-c-gen --root /data --severity 5
    tta-grid data corrupt --images photos --to photos-c --corruptions fog,snow --size 224

    It may be interrupted, and goes on where it was.

    Exit status: 0 all is made, 1 some images cannot be used (they are named), 2 the input is wrong.
    """
    from pathlib import Path

    from tta_core.corruptions.plan import make_job, plan_benchmark, plan_images
    from tta_core.errors import InputError, first_names
    from tta_core.machine import usable_cores

    job = make_job(
        corruptions=names_in(given.corruptions),
        severities=given.severities,
        seed=given.seed,
        strengths=given.strengths,
        frost=None if given.frost is None else Path(given.frost),
        device=given.device,
        workers=given.workers or usable_cores(),
        lossless=given.png,
    )
    if given.benchmark is not None and given.images is None and given.to is None:
        if given.size is not None:
            raise InputError(f"--size is for --images: the images of {given.benchmark} have the published size")
        plan = plan_benchmark(given.benchmark, job)
    elif given.benchmark is None and given.images is not None and given.to is not None:
        plan = plan_images(Path(given.images), Path(given.to), job, given.size)
    else:
        raise InputError("give BENCHMARK, such as imagenet-c-gen; or --images and --to")
    click.echo(plan.as_text())
    if given.only_plan:
        return
    progress = ProgressLine()
    damaged = plan.run(lambda done, total: progress.show(f"{done:,} of {total:,} images", final=done == total))
    if damaged:
        named = [f"{name} ({reason})" for name, reason in damaged.items()]
        click.echo(f"{len(damaged)} images cannot be used, nothing was made of them: {first_names(named)}", err=True)
        raise SystemExit(EXIT_SOME_FAILED)


@dataclass(frozen=True)
class CacheOptions:
    """Which images are decoded, and how they are cut."""

    benchmark: str = argument()
    severities: tuple[int, ...] = option(
        "--severity", multiple=True, type=int, help="Severity; repeatable. [default: 5]"
    )
    domains: str | None = option(
        "--domains", metavar="NAMES", help="By commas: domains, clean, training, reported, held-out. [reported]"
    )
    crop: str | None = option(
        "--crop", metavar="NAME", help="How images are cut: as the cells have it. [default: the benchmark's]"
    )
    backbone: str | None = option(
        "--backbone", metavar="NAME", help="Cut for it: to its size, with --crop backbone by its crop."
    )
    image_size: int | None = option("--image-size", type=int, help="Pixels. [default: 224, or those of --backbone]")
    workers: int | None = option(
        "--workers", type=click.IntRange(min=1), help="Threads that decode. [default: all cores]"
    )
    only_plan: bool = option("--plan", is_flag=True, help="Only say how large it would be.")


@click.command("cache")
@reads(CacheOptions)
@root_option
def cache_images(given: CacheOptions) -> None:
    """Decodes the images of BENCHMARK once, into memory maps that all trials then read.

    \b
    tta-grid data cache imagenet-c --severity 5
    tta-grid data cache imagenet-c --domains clean,held-out --crop resize-center --plan
    tta-grid data cache imagenet-c --crop backbone --backbone resnet50_gn.a1h_in1k

    It may be interrupted, and goes on where it was. TTA_GRID_CACHE names the folder; with TTA_GRID_DECODE_CACHE=1
    trials build what they find missing.

    Exit status: 0 all is decoded, 1 some images are damaged (they are named), 2 the input is wrong, 130 interrupted.
    """
    from grid.commands.backbones import crop_and_size
    from tta_core.data.benchmarks import benchmark_spec
    from tta_core.data.decode_plan import damaged_text, make_plan
    from tta_core.machine import usable_cores

    crop, pixels = crop_and_size(given.crop, given.backbone, given.image_size)
    plan = make_plan(
        benchmark_spec(given.benchmark),
        severities=given.severities or (5,),
        domains=names_in(given.domains),
        crop=crop,
        image_size=pixels,
    )
    click.echo(plan.as_text())
    if given.only_plan:
        return
    progress = ProgressLine()
    try:
        damaged = plan.build(
            workers=given.workers or usable_cores(), tell=lambda line, final: progress.show(line, final=final)
        )
    except KeyboardInterrupt:
        click.echo("interrupted; what is decoded is kept. Go on with the same command.", err=True)
        raise SystemExit(EXIT_INTERRUPTED) from None
    if damaged:
        click.echo(damaged_text(damaged), err=True)
        raise SystemExit(EXIT_SOME_FAILED)


@dataclass(frozen=True)
class ReadingOptions:
    """Which images are read, and how often."""

    benchmark: str | None = argument(required=False)
    domain: str | None = option("--domain", metavar="NAME", help="Domain. [default: the first]")
    severity: int = option("--severity", type=int, default=5, show_default=True)
    crop: str | None = option("--crop", metavar="NAME", help="How images are cut. [default: the benchmark's]")
    image_size: int = option("--image-size", type=click.IntRange(min=1), default=224, show_default=True, help="Pixels.")
    images: int = option("--images", type=click.IntRange(min=1), default=256, show_default=True, help="Images to read.")
    batch_size: int = option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
    repeats: int = option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Of each way.")
    as_json: bool = option("--json", is_flag=True, help="Print one JSON object.")


@click.command("bench")
@reads(ReadingOptions)
@root_option
def bench_reading(given: ReadingOptions) -> None:
    """Measures how fast images are decoded from their files and read from the decode-once cache, and the ratio.

    Both in one run, over one stream, on one core. The images are those of BENCHMARK, or, without it, generated ones.

    \b
    tta-grid data bench
    tta-grid data bench imagenet-c --domain fog --images 1000
    """
    import json

    from tta_core.bench.data import Reading, bench_data

    reading = Reading(
        benchmark=given.benchmark,
        domain=given.domain,
        severity=given.severity,
        crop=given.crop,
        image_size=given.image_size,
        images=given.images,
        batch_size=given.batch_size,
        repeats=given.repeats,
    )
    found = bench_data(reading, tell=lambda line: click.echo(line, err=True))
    click.echo(json.dumps(found.as_dict(), indent=2) if given.as_json else found.as_text())
