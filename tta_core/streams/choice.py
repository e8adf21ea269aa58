"""Which samples come, and when: the fields of a cell that say so, what follows from them, and the order. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from tta_core.data.benchmarks import CLEAN, benchmark_spec, owner
from tta_core.data.domains import ORDERS
from tta_core.data.opened import ImageRequest
from tta_core.data.spec import BenchmarkSpec
from tta_core.errors import InputError, unknown_name
from tta_core.frozen import Count, Frozen, Seed
from tta_core.streams.choice_files import FILES, check_hash, resolved_files
from tta_core.streams.label_orders import STEPS_PER_CLASS, label_shift_length
from tta_core.streams.order import (
    DEFAULT_ROUNDS,
    STREAM_SETTINGS,
    Labels,
    StreamOrder,
    stream_order,
    stream_spec,
    visited_domains,
    visits_per_domain,
)
from tta_core.streams.order_files import read_order
from tta_core.streams.spec import StreamSpec
from tta_core.streams.subsets import Subset, named_labels, read_subset

DEFAULT_BENCHMARK = "digits-c"

MOST_ROUNDS = 10_000
MOST_TIME_SLOTS = 100_000
"""What an order is made of in seconds; published streams have 20 rounds and as many slots as classes."""

DOMAIN_SETS = ("reported", "held-out", *ORDERS)
"""Names that stand for several domains."""


class StreamChoice(Frozen):
    """Which samples a stream has, and in which order, resolved and checked when it is built.

    Attributes:
        benchmark: where the images come from.
        domains: `reported`, `held-out`, one of the ten published random orders `order-0` to `order-9`, or a list of
            domain names; resolved to the list.
        severity: corruption strength; in a stream that visits several, resolved to the largest.
        samples_per_domain: images taken from each domain, in streams with rounds from each in each round; all of a
            domain that has fewer; resolved to a number, by default all, or all that a round has; in `label_shift` draws
        data_seed: seed of the corruptions' own randomness; the benchmark as others see it has 0.
        stream: order in which samples arrive.
        rounds: how often the domains come back; 1 in streams without rounds.
        dirichlet_alpha: concentration of labels in time, in streams where they are correlated; None in others.
        time_slots: slots that they are concentrated in, likewise; by default as many as the benchmark has classes.
        imbalance_ratio: how much more frequent the major class is than each other in `label_shift`; None in others.
        first_samples: only so many samples from the beginning of the stream; None for all.
        subset_file: text file that lists the images which streams may take, one a line: the number in the domain, or
            `<class>/<file>`; None for all. Of a list of names only its images must be there, and their numbers are
            their places in it.
        subset_hash: hash of its content, found when it is read.
        order_file: file with the order of the stream, see `tta_core.streams.order_files`; the stream is then
            `imported`.
        order_hash: hash of that order, found when it is read.
    """

    benchmark: str = DEFAULT_BENCHMARK
    domains: tuple[str, ...] = ()
    severity: int = 5
    samples_per_domain: Count = 0
    data_seed: Seed = 0
    stream: str = "mixed"
    rounds: int = Field(default=1, ge=1, le=MOST_ROUNDS)
    dirichlet_alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    time_slots: int | None = Field(default=None, ge=1, le=MOST_TIME_SLOTS)
    imbalance_ratio: Count | None = None
    first_samples: Count | None = None
    subset_file: str | None = None
    subset_hash: str | None = None
    order_file: str | None = None
    order_hash: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _resolve_stream(cls, values: Any) -> Any:
        """Fills in what follows from other fields, so that equal streams have equal fields."""
        if not isinstance(values, Mapping):
            return values
        given = dict(values)
        benchmark = benchmark_spec(given.get("benchmark", DEFAULT_BENCHMARK))
        domains = "reported" if given.get("domains") is None else given["domains"]
        given["domains"] = _resolved_domains(domains, benchmark, at_severities=bool(given.get("order_file")))
        given |= resolved_files(given, benchmark, domains_given=domains != "reported")
        given["stream"] = given.get("stream", "mixed")
        stream = stream_spec(given["stream"])
        if stream.severities:
            given["severity"] = max(stream.severities)
        if not benchmark.severities:
            given["severity"] = 0
        return given | _resolved_settings(given, benchmark, stream)

    @model_validator(mode="after")
    def _check_stream(self) -> StreamChoice:
        benchmark, stream = self._benchmark, self._stream
        if benchmark.severities and self.severity not in benchmark.severities:
            raise InputError(f"severity {self.severity} is not one of {list(benchmark.severities)} ({self.benchmark})")
        self._check_samples()
        if stream.severities:
            for name in self.domains:
                if name == CLEAN or not owner(benchmark, name).severities:
                    raise InputError(
                        f"the stream {self.stream!r} raises the severity of each domain, {name!r} has none: "
                        "leave it out"
                    )
        if self.data_seed and not self._made_here:
            raise InputError(
                f"data_seed = {self.data_seed}, but the images of {self.benchmark} are downloaded: leave it out"
            )
        return self

    @property
    def num_samples(self) -> int:
        """Samples in the stream; of a label shift over domains that lack classes, the most that there may be.

        Raises:
            InputError: if that is said by a file that is gone.
        """
        total = self._all_samples
        return total if self.first_samples is None else min(total, self.first_samples)

    @property
    def _all_samples(self) -> int:
        """The same without `first_samples`."""
        if self.order_file is not None:
            return len(read_order(Path(self.order_file)).of(self.domains))
        most = images_per_visit(self._benchmark, self._stream, self.rounds, self.domains, self.subset)
        return sum(min(self.samples_per_domain, count) for count in most.values()) * visits_per_domain(
            self.stream, self.rounds
        )

    @property
    def visited(self) -> tuple[str, ...]:
        """The domains as the stream names them: `fog@1`, `fog@2`, ... where it visits fog at several severities."""
        return visited_domains(self.stream, self.domains)

    @property
    def subset(self) -> Subset | None:
        """The images that the stream may take; None if it may take all.

        Raises:
            InputError: if the file that lists them is gone.
        """
        return read_subset(Path(self.subset_file)) if self.subset_file else None

    @property
    def named_subset(self) -> Subset | None:
        """The same where names list them; None if the stream may take all, or those of some numbers."""
        subset = self.subset
        return subset if subset is not None and not subset.numbers else None

    @property
    def whole_images(self) -> ImageRequest:
        """The images of the benchmark as they lie on disk: for labels, names, and whether they are there."""
        return ImageRequest(self._benchmark, self.severity, self.data_seed)

    def stream_order_at(self, seed: int) -> StreamOrder:
        """The order of the samples under a seed.

        Raises:
            InputError: if it is made from labels, and they cannot be read; or from a file, and that has changed.
        """
        if self.order_file is not None:
            order = read_order(Path(self.order_file)).of(self.domains)
            check_hash("order_file", self.order_file, self.order_hash, order.order_hash())
        else:
            order = self._made_order(seed)
        return order if self.first_samples is None else order.first(self.first_samples)

    def _made_order(self, seed: int) -> StreamOrder:
        benchmark, stream = self._benchmark, self._stream
        images: dict[str, Any] = {name: benchmark.count(name) for name in self.domains}
        request, subset = self.whole_images, self.subset
        read: Labels = request.labels
        if subset is not None and self.subset_file is not None:
            check_hash("subset_file", self.subset_file, self.subset_hash, subset.content_hash())
            images = {name: subset.indices(name, count) for name, count in images.items()}
            if not subset.numbers:
                listed: dict[str, NDArray[np.int64]] = {n: named_labels(request, n, subset) for n in self.domains}
                read = listed.__getitem__
        settings = {name: getattr(self, name) for name in STREAM_SETTINGS if getattr(self, name) is not None}
        try:
            return stream_order(
                self.stream,
                self.domains,
                images,
                self.samples_per_domain,
                seed,
                rounds=self.rounds,
                shuffled=benchmark.shuffled,
                labels=read if stream.labels else None,
                **settings,
            )
        except InputError as error:
            raise InputError(
                f"the order of the stream {self.stream!r} is made from the images' labels: {error}"
            ) from None

    @property
    def _benchmark(self) -> BenchmarkSpec:
        return benchmark_spec(self.benchmark)

    @property
    def _stream(self) -> StreamSpec:
        return stream_spec(self.stream)

    @property
    def _made_here(self) -> bool:
        """Whether a seed of ours made the images."""
        return self.whole_images.made_here

    def _check_samples(self) -> None:
        """Looks whether there are as many samples as are asked for.

        Raises:
            InputError: if no domain has as many, or the stream is shorter.
        """
        if not all(Path(file).exists() for file in (self.subset_file, self.order_file) if file is not None):
            return  # One that is gone is missed when the order is asked for.
        if self.first_samples is not None and self.first_samples > self._all_samples:
            raise InputError(
                f"first_samples = {self.first_samples}, but the stream has {self._all_samples} samples: give at most "
                "that, or leave it out to take all"
            )
        if self.order_file is not None:
            return
        subset = self.subset
        benchmark, stream = self._benchmark, self._stream
        most = images_per_visit(benchmark, stream, self.rounds, self.domains, subset)
        largest = max(most, key=lambda name: most[name])
        if self.samples_per_domain <= most[largest]:
            return
        given = f"samples_per_domain = {self.samples_per_domain}, but"
        if stream.name == "label_shift":
            raise InputError(
                f"{given} 'label_shift' draws {STEPS_PER_CLASS} for each of the {benchmark.num_classes} classes of "
                f"{benchmark.name}: give at most {most[largest]}, or leave it out"
            )
        images = _images(benchmark, self.domains, subset)
        has = f"{_of(benchmark, images, largest)} has {images[largest]} images"
        has += "" if subset is None else f" in {subset.path}"
        if stream.rounds == "split":
            raise InputError(
                f"{given} {has}, and {self.rounds} rounds of {self.stream!r} share them: give at most {most[largest]}, "
                "fewer rounds, or stream: recurring-same"
            )
        raise InputError(f"{given} {has}: give at most that, or leave it out to use all")


OPTIONAL_FIELDS = (*STREAM_SETTINGS, "first_samples", *FILES.values())
"""Fields that are no part of a cell's id where they are None: ids from before they were there stay as they are."""


def images_per_visit(
    benchmark: BenchmarkSpec, stream: StreamSpec, rounds: Any, domains: Sequence[str], subset: Subset | None = None
) -> dict[str, int]:
    """Images of each domain that one visit may take; of a label shift the draws.

    Raises:
        InputError: if there are more rounds than images to share among them.
    """
    if stream.name == "label_shift":
        return dict.fromkeys(domains, label_shift_length(benchmark.num_classes))
    images = _images(benchmark, domains, subset)
    if stream.rounds != "split" or not isinstance(rounds, int) or rounds < 1:
        return images
    fewest = min(images, key=lambda name: images[name])
    if rounds > images[fewest]:
        raise InputError(
            f"rounds = {rounds}, but {_of(benchmark, images, fewest)} has {images[fewest]} images: give at most that"
        )
    return {name: count // rounds for name, count in images.items()}


def _images(benchmark: BenchmarkSpec, domains: Sequence[str], subset: Subset | None) -> dict[str, int]:
    """Images of each domain that a stream may take."""
    if subset is None and benchmark.counts:
        return {name: benchmark.count(name) for name in domains}
    return dict.fromkeys(domains, benchmark.images_per_domain if subset is None else len(subset))


def _resolved_settings(given: Mapping[str, Any], benchmark: BenchmarkSpec, stream: StreamSpec) -> dict[str, Any]:
    """The settings of a cell's stream; those of other streams are None, and `rounds` 1."""
    values: dict[str, Any] = {}
    if stream.rounds == "once":
        values["rounds"] = 1
    elif given.get("rounds") is None:
        values["rounds"] = DEFAULT_ROUNDS
    rounds = values.get("rounds", given.get("rounds"))
    for name in STREAM_SETTINGS:
        if name not in stream.settings:
            values[name] = None
        elif given.get(name) is None:
            default = stream.settings[name]
            values[name] = benchmark.num_classes if isinstance(default, str) else default
    if given.get("samples_per_domain") is None:
        subset = read_subset(Path(given["subset_file"])) if given["subset_file"] else None
        values["samples_per_domain"] = max(
            images_per_visit(benchmark, stream, rounds, given["domains"], subset).values()
        )
    return values


def _resolved_domains(given: Any, benchmark: BenchmarkSpec, *, at_severities: bool) -> tuple[str, ...]:
    known = (*benchmark.domains, *benchmark.held_out_domains, CLEAN)
    if isinstance(given, str):
        if given in DOMAIN_SETS:
            sets = {"reported": benchmark.domains, "held-out": benchmark.held_out_domains}
            return sets[given] if given in sets else ORDERS[given]
        given = [given]
    if not (isinstance(given, list | tuple) and given and all(isinstance(name, str) for name in given)):
        raise InputError(f"domains = {given!r}: give names of domains, or one of {', '.join(DOMAIN_SETS)}")
    names = tuple(given)
    for name in names:
        if (name.partition("@")[0] if at_severities else name) not in known:
            raise unknown_name(f"domain of {benchmark.name}", name, (*known, *DOMAIN_SETS))
    if len(set(names)) != len(names):
        raise InputError(f"domains = {list(names)}: a domain is named twice; name each once")
    return names


def _of(benchmark: BenchmarkSpec, images: Mapping[str, int], name: str) -> str:
    """A domain, or all of them if they have equally many images."""
    if len(set(images.values())) == 1:
        return f"each domain of {benchmark.name}"
    return f"the domain {name!r} of {benchmark.name}"
