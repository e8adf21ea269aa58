"""The stream of a cell: what its fields mean for the order, and the order itself. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tta_core.backbones.table import backbone_spec
from tta_core.data.benchmarks import CLEAN, benchmark_spec, owner
from tta_core.data.spec import BenchmarkSpec
from tta_core.errors import InputError, unknown_name
from tta_core.streams.label_orders import STEPS_PER_CLASS, label_shift_length
from tta_core.streams.order import (
    DEFAULT_ROUNDS,
    IMPORTED,
    STREAM_SETTINGS,
    STREAMS,
    StreamOrder,
    stream_order,
    stream_spec,
    visits_per_domain,
)
from tta_core.streams.order_files import read_order
from tta_core.streams.spec import StreamSpec
from tta_core.streams.subsets import Subset, read_subset

if TYPE_CHECKING:
    from tta_core.run.config import RunConfig

FILES = {"order_file": "order_hash", "subset_file": "subset_hash"}
"""Fields of a cell that name a file -> fields with the hash of its content: the path is no part of the cell's id."""


def resolve_files(values: dict[str, Any], benchmark: BenchmarkSpec, *, domains_given: bool) -> None:
    """Reads the files that a cell's values name, puts in their hashes and what else follows from them.

    Nothing is read where that is all there: so a resolved configuration reads back after its files are gone.

    Args:
        values: the cell's values, changed in place; `domains` is a list already.
        benchmark: the cell's benchmark.
        domains_given: whether the domains are the user's choice.

    Raises:
        InputError: if a file cannot be used, is not the one of the hash that is given, or contradicts other values.
    """
    for field, hashed in FILES.items():
        if values.get(field):
            values[field] = str(Path(str(values[field])).expanduser().absolute())
        elif values.get(hashed):
            raise InputError(f"{hashed} = {values[hashed]!r}, but there is no {field}: give it, or leave {hashed} out")
        else:
            values[field], values[hashed] = None, None
    if values["order_file"] is None:
        if values.get("stream") == IMPORTED:
            raise InputError(f"the stream {IMPORTED!r} takes its order from a file: give order_file")
    elif values["subset_file"] is not None:
        raise InputError("order_file says which images come, and subset_file does too: leave one out")
    elif not (values.get("order_hash") and values.get("samples_per_domain") and values.get("stream") == IMPORTED):
        _resolve_order(values, benchmark, domains_given)
    if values["subset_file"] is not None and not (values.get("subset_hash") and values.get("samples_per_domain")):
        subset = read_subset(Path(values["subset_file"]))
        _check_hash(values, "subset_file", subset.content_hash())


def _resolve_order(values: dict[str, Any], benchmark: BenchmarkSpec, domains_given: bool) -> None:
    path = Path(values["order_file"])
    found, given = read_order(path), values.get("stream")
    made_by = (found.stream,) if found.order is not None else ("single", "label_shift")
    if given is not None and given not in (*made_by, IMPORTED):
        raise InputError(
            f"stream = {given!r}, but order_file = {path} says the order"
            f"{f' (made as {found.stream!r})' if found.stream else ''}: leave stream out, or give {IMPORTED}"
        )
    domains = tuple(values["domains"])
    order = found.of(domains)
    if domains_given and set(domains) != set(order.domains):
        raise InputError(
            f"domains = {list(domains)}, but order_file = {path} has {list(order.domains)}: leave domains out"
        )
    _check_range(order, benchmark, path)
    samples = int(np.bincount(order.domain).max())
    if values.get("samples_per_domain") not in (None, samples):
        raise InputError(
            f"samples_per_domain = {values['samples_per_domain']!r}, but order_file = {path} has up to {samples} of a "
            "domain: leave samples_per_domain out; first_samples takes the first of the stream"
        )
    _check_hash(values, "order_file", order.order_hash())
    values |= {"stream": IMPORTED, "domains": order.domains, "samples_per_domain": samples}


def _check_range(order: StreamOrder, benchmark: BenchmarkSpec, path: Path) -> None:
    """Raises `InputError` if an order has domains or images that the benchmark lacks."""
    known = (*benchmark.domains, *benchmark.held_out_domains, CLEAN)
    for number, name in enumerate(order.domains):
        domain, at, severity = name.partition("@")
        if domain not in known:
            raise unknown_name(f"domain of {benchmark.name}", domain, known, f"(order_file = {path})")
        allowed = () if domain == CLEAN else owner(benchmark, domain).severities
        if at and severity not in map(str, allowed):
            raise InputError(
                f"order_file = {path} has the domain {name!r}, but {domain} of {benchmark.name} has the severities "
                f"{list(allowed)}"
            )
        most, images = int(order.index[order.domain == number].max(initial=-1)), benchmark.count(domain)
        if most >= images:
            raise InputError(
                f"order_file = {path} has the image {most} of {name}, but that has {images} in {benchmark.name}, "
                "counted from 0: choose the benchmark that the order was made for"
            )


def names_subset(config: RunConfig) -> Subset | None:
    """The names of the images that a cell may use; None if it may use all, or those of some numbers."""
    subset = read_subset(Path(config.subset_file)) if config.subset_file else None
    return subset if subset is not None and not subset.numbers else None


def _check_hash(values: dict[str, Any], field: str, content: str) -> None:
    hashed = FILES[field]
    if values.get(hashed) not in (None, content):
        raise InputError(
            f"{field} = {values[field]} has the hash {content}, not {hashed} = {values[hashed]!r}: restore the file, "
            f"or leave {hashed} out to use what it holds now"
        )
    values[hashed] = content


def resolve_settings(values: dict[str, Any], benchmark: BenchmarkSpec) -> None:
    """Fills in the settings of a cell's stream; those of other streams become None, and `rounds` 1."""
    stream = stream_spec(values["stream"])
    if stream.rounds == "once":
        values["rounds"] = 1
    elif values.get("rounds") is None:
        values["rounds"] = DEFAULT_ROUNDS
    for name in STREAM_SETTINGS:
        if name not in stream.settings:
            values[name] = None
        elif values.get(name) is None:
            default = stream.settings[name]
            values[name] = benchmark.num_classes if isinstance(default, str) else default
    if values.get("samples_per_domain") is None:
        subset = read_subset(Path(values["subset_file"])) if values["subset_file"] else None
        values["samples_per_domain"] = max(
            images_per_visit(benchmark, stream, values["rounds"], values["domains"], subset).values()
        )


def images_per_visit(
    benchmark: BenchmarkSpec, stream: StreamSpec, rounds: Any, domains: Sequence[str], subset: Subset | None = None
) -> dict[str, int]:
    """Images of each domain that one visit may take; of a label shift the draws.

    Raises:
        InputError: if there are more rounds than images to share among them.
    """
    if stream.name == "label_shift":
        return dict.fromkeys(domains, label_shift_length(benchmark.num_classes))
    images = {name: benchmark.count(name) if subset is None else len(subset) for name in domains}
    if stream.rounds != "split" or not isinstance(rounds, int) or rounds < 1:
        return images
    fewest = min(images, key=lambda name: images[name])
    if rounds > images[fewest]:
        raise InputError(
            f"rounds = {rounds}, but {_of(benchmark, images, fewest)} has {images[fewest]} images: give at most that"
        )
    return {name: count // rounds for name, count in images.items()}


def check_samples(config: RunConfig) -> None:
    """Looks whether there are as many samples as a cell asks for.

    Raises:
        InputError: if no domain has as many.
    """
    if config.order_file is not None:
        return
    benchmark, stream = benchmark_spec(config.benchmark), stream_spec(config.stream)
    subset = None
    if config.subset_file is not None and config.subset_hash is not None:
        # Only a file that is there can be looked at: one that is gone is missed when the order is asked for.
        path = Path(config.subset_file)
        if not path.exists():
            return
        subset = read_subset(path)
    most = images_per_visit(benchmark, stream, config.rounds, config.domains, subset)
    largest = max(most, key=lambda name: most[name])
    if config.samples_per_domain <= most[largest]:
        return
    given = f"samples_per_domain = {config.samples_per_domain}, but"
    if stream.name == "label_shift":
        raise InputError(
            f"{given} 'label_shift' draws {STEPS_PER_CLASS} for each of the {benchmark.num_classes} classes of "
            f"{benchmark.name}: give at most {most[largest]}, or leave it out"
        )
    images = {name: benchmark.count(name) if subset is None else len(subset) for name in config.domains}
    has = f"{_of(benchmark, images, largest)} has {images[largest]} images"
    has += "" if subset is None else f" in {subset.path}"
    if stream.rounds == "split":
        raise InputError(
            f"{given} {has}, and {config.rounds} rounds of {config.stream!r} share them: give at most {most[largest]}, "
            "fewer rounds, or stream: recurring-same"
        )
    raise InputError(f"{given} {has}: give at most that, or leave it out to use all")


def _of(benchmark: BenchmarkSpec, images: Mapping[str, int], name: str) -> str:
    """A domain, or all of them if they have equally many images."""
    if len(set(images.values())) == 1:
        return f"each domain of {benchmark.name}"
    return f"the domain {name!r} of {benchmark.name}"


def count_samples(config: RunConfig) -> int:
    """Samples in a cell's stream; of a label shift over domains that lack classes, the most that there may be.

    Raises:
        InputError: if that is said by a file that is gone.
    """
    benchmark, stream = benchmark_spec(config.benchmark), stream_spec(config.stream)
    if config.order_file is not None:
        total = len(read_order(Path(config.order_file)).of(config.domains))
    else:
        subset = read_subset(Path(config.subset_file)) if config.subset_file else None
        most = images_per_visit(benchmark, stream, config.rounds, config.domains, subset)
        taken = sum(min(config.samples_per_domain, count) for count in most.values())
        total = taken * visits_per_domain(config.stream, config.rounds)
    return total if config.first_samples is None else min(total, config.first_samples)


def cell_order(config: RunConfig, seed: int) -> StreamOrder:
    """The order of a cell's samples under a seed.

    Raises:
        InputError: if the order is made from labels, and they cannot be read; or from a file, and that has changed.
    """
    if config.order_file is not None:
        order = read_order(Path(config.order_file)).of(config.domains)
        _check_hash(config.model_dump(include=set(FILES) | set(FILES.values())), "order_file", order.order_hash())
    else:
        order = _made(config, seed)
    return order if config.first_samples is None else order.first(config.first_samples)


def _made(config: RunConfig, seed: int) -> StreamOrder:
    # Imported here: readers bring packages that planning does without.
    from tta_core.streams.labels import domain_labels, named_labels

    benchmark = benchmark_spec(config.benchmark)
    images: dict[str, Any] = {name: benchmark.count(name) for name in config.domains}
    if config.subset_file is not None:
        subset = read_subset(Path(config.subset_file))
        _check_hash(config.model_dump(include=set(FILES) | set(FILES.values())), "subset_file", subset.content_hash())
        for name in config.domains:
            images[name] = subset.indices(name, images[name])
    read: Callable[[str], NDArray[np.int64]] = partial(
        domain_labels,
        benchmark,
        severity=config.severity,
        data_seed=config.data_seed,
        crop=config.cut,
        image_size=backbone_spec(config.backbone).image_size,
    )
    if (names := names_subset(config)) is not None:
        read = {name: named_labels(benchmark, name, names) for name in config.domains}.__getitem__
    settings = {name: getattr(config, name) for name in STREAM_SETTINGS if getattr(config, name) is not None}
    try:
        return stream_order(
            config.stream,
            config.domains,
            images,
            config.samples_per_domain,
            seed,
            rounds=config.rounds,
            shuffled=benchmark.shuffled,
            labels=read if STREAMS[config.stream].labels else None,
            **settings,
        )
    except InputError as error:
        raise InputError(
            f"the order of the stream {config.stream!r} is made from the images' labels: {error}"
        ) from None
