"""Streams: the order in which the samples of a benchmark arrive, as index lists with a hash. Imports no torch.

Every random choice comes from a generator of its own, seeded by (seed, name), so that the order under one seed is the
same for every method, and the images chosen from one domain do not depend on which other domains are in the stream.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tta_core.data.domains import at_severity
from tta_core.errors import named_row
from tta_core.streams.label_orders import correlated_order, label_shift
from tta_core.streams.spec import StreamSpec

IMPORTED = "imported"
"""The stream whose order is a file's, see `tta_core.streams.order_files`."""

DEFAULT_ROUNDS = 10
"""Rounds of a stream that has any (continual §5.4)."""

_LABELS = "the images' labels: known in advance, or read from the folders or arrays; no image is decoded"
_CORRELATED: dict[str, float | int | str] = {"dirichlet_alpha": 0.1, "time_slots": "number of classes"}

STREAMS: dict[str, StreamSpec] = {
    row.name: row
    for row in (
        StreamSpec(name="mixed", title="all domains shuffled together; batches mix domains", reset="never"),
        StreamSpec(name="continual", title="one domain after the other in the published order", reset="never"),
        StreamSpec(name="single", title="each domain on its own, the method reset before each", reset="domain"),
        StreamSpec(
            name="gradual",
            title="one domain after the other, each at severities 1-2-3-4-5-4-3-2-1 on the same images",
            reset="never",
            severities=(1, 2, 3, 4, 5, 4, 3, 2, 1),
        ),
        StreamSpec(
            name="recurring",
            title="rounds over the domains; all domains of a round show the same images, each round others",
            reset="never",
            rounds="split",
            settings={"rounds": DEFAULT_ROUNDS},
        ),
        StreamSpec(
            name="recurring-same",
            title="rounds over the domains, each round the stream `continual` again",
            reset="never",
            rounds="same",
            settings={"rounds": DEFAULT_ROUNDS},
        ),
        StreamSpec(
            name="correlated",
            title="`continual`, but within each domain labels are correlated: a Dirichlet distribution shares each "
            "class among time slots, and in a slot class follows class",
            reset="never",
            needs=_LABELS,
            labels=True,
            settings=_CORRELATED,
        ),
        StreamSpec(
            name="mixed-correlated",
            title="all domains shuffled together, with labels correlated over the whole stream as in `correlated`",
            reset="never",
            needs=_LABELS,
            labels=True,
            settings=_CORRELATED,
        ),
        StreamSpec(
            name="label_shift",
            title="SAR's label shift: each domain on its own, the method reset before each; one class after the other "
            "is the frequent one for 100 images, drawn with replacement",
            reset="domain",
            needs=_LABELS,
            labels=True,
            settings={"imbalance_ratio": 500_000},
        ),
        StreamSpec(
            name=IMPORTED,
            title="the order of a file, whatever the seed: one that `tta-grid data order` wrote, or your own",
            reset="as the file says",
            needs="the cell's order_file",
        ),
    )
}


def stream_spec(name: str) -> StreamSpec:
    """Returns the description of a stream, or raises `InputError` with the closest match."""
    return named_row("stream", STREAMS, name)


STREAM_SETTINGS = ("dirichlet_alpha", "time_slots", "imbalance_ratio")
"""Fields of a cell that are None except in the streams that have them; `rounds` is 1 there."""

Images = int | Mapping[str, int | NDArray[np.int64]]
"""How many images a domain has, or the numbers of those that a stream may take, in order; one int if all are alike."""

Labels = Callable[[str], NDArray[np.int64]]
"""Labels `(images,)` of all images of a domain, by its name."""


@dataclass(frozen=True)
class StreamBatch:
    """Positions `start` to `stop` (exclusive) of a stream; `reset` asks for `method.reset()` before it."""

    start: int
    stop: int
    reset: bool


@dataclass(frozen=True)
class StreamOrder:
    """The samples of a stream, in order.

    Attributes:
        domains: names of the domains; `fog@3` is fog at severity 3, `fog` is fog at the severity of the cell.
        domain: `(samples,)`, number of each sample's domain in `domains`.
        index: `(samples,)`, number of each sample's image in its domain.
        segments: first position of each stretch that no batch may cross.
        reset_at_segments: whether the method starts anew at each segment.
    """

    domains: tuple[str, ...]
    domain: NDArray[np.int16]
    index: NDArray[np.int32]
    segments: tuple[int, ...]
    reset_at_segments: bool

    def __len__(self) -> int:
        return len(self.index)

    def batches(self, batch_size: int) -> Iterator[StreamBatch]:
        """Yields the batches in order; the last one of each segment may be short, none is dropped."""
        ends = (*self.segments[1:], len(self))
        for first, end in zip(self.segments, ends, strict=True):
            for start in range(first, end, batch_size):
                yield StreamBatch(start, min(start + batch_size, end), self.reset_at_segments and start == first)

    def first(self, samples: int) -> StreamOrder:
        """The first samples of the stream; domains that do not come in them are left out."""
        kept = self.domain[:samples]
        inside = np.unique(kept)
        return StreamOrder(
            tuple(self.domains[number] for number in inside),
            np.searchsorted(inside, kept).astype(np.int16),
            self.index[:samples],
            tuple(start for start in self.segments if start < samples),
            self.reset_at_segments,
        )

    def order_hash(self) -> str:
        """Sixteen hexadecimal digits that differ as soon as the order, the borders or the resets do."""
        digest = hashlib.sha256(repr((self.domains, self.segments, self.reset_at_segments)).encode())
        digest.update(self.domain.astype("<i2").tobytes())
        digest.update(self.index.astype("<i4").tobytes())
        return digest.hexdigest()[:16]


def stream_order(
    stream: str,
    domains: Sequence[str],
    images: Images,
    samples_per_domain: int,
    seed: int,
    *,
    rounds: int = 1,
    shuffled: bool = True,
    labels: Labels | None = None,
    dirichlet_alpha: float = 0.1,
    time_slots: int = 10,
    imbalance_ratio: int = 500_000,
) -> StreamOrder:
    """Builds the order of a stream.

    Args:
        stream: name of a row in `STREAMS`, but not `imported`.
        domains: domains in their published order.
        images: images that each domain has.
        samples_per_domain: images to take at each visit to a domain, all of a domain that has fewer; the choice for n
            is contained in the choice for n + 1. In `label_shift`: draws.
        seed: seed of the choice and of the order.
        rounds: how often the domains come back, in streams that have rounds.
        shuffled: whether a domain's images are taken in random order, or in their own.
        labels: labels of a domain's images, for streams that need them.
        dirichlet_alpha: see `tta_core.streams.label_orders.correlated_order`.
        time_slots: likewise.
        imbalance_ratio: see `tta_core.streams.label_orders.label_shift`.
    """
    spec = STREAMS[stream]
    pools = {name: _pool(images if isinstance(images, int) else images[name]) for name in domains}
    chosen = {name: _chosen(name, pool, samples_per_domain, seed, shuffled) for name, pool in pools.items()}
    if spec.labels:
        assert labels is not None, f"the stream {stream!r} needs labels"
        own_labels = {name: labels(name)[pool] for name, pool in pools.items()}
    if stream == "label_shift":
        drawn = {name: pools[name][label_shift(own_labels[name], imbalance_ratio, seed)] for name in domains}
        visits = [(name, taken[:samples_per_domain]) for name, taken in drawn.items()]
    elif stream == "correlated":
        visits = []
        for name, pool in pools.items():
            generator = _generator(seed, f"correlated {name}")
            order = pool[correlated_order(own_labels[name], dirichlet_alpha, time_slots, generator)]
            visits.append((name, order[np.isin(order, chosen[name])]))
    elif stream == "mixed-correlated":
        visits = list(pools.items())
    else:
        visits = list(_visits(spec, pools, chosen, samples_per_domain, seed, rounds))
    names = tuple(dict.fromkeys(name for name, _ in visits))
    numbers = {name: number for number, name in enumerate(names)}
    lengths = [len(taken) for _, taken in visits]
    domain = np.repeat(np.array([numbers[name] for name, _ in visits], dtype=np.int16), lengths)
    index = np.concatenate([taken for _, taken in visits]).astype(np.int32)
    segments = tuple(np.cumsum([0, *lengths[:-1]]).tolist())
    if stream == "mixed":
        order = _generator(seed, "mixed").permutation(len(index))
        domain, index, segments = domain[order], index[order], (0,)
    elif stream == "mixed-correlated":
        # Over all images, of which the chosen ones are kept: so that a smaller choice comes in the order of a larger.
        together = np.concatenate(list(own_labels.values()))
        order = correlated_order(together, dirichlet_alpha, time_slots, _generator(seed, "mixed-correlated"))
        kept = np.concatenate([np.isin(pools[name], chosen[name]) for name in domains])
        order = order[kept[order]]
        domain, index, segments = domain[order], index[order], (0,)
    return StreamOrder(names, domain, index, segments, spec.reset == "domain")


def visited_domains(stream: str, domains: Sequence[str]) -> tuple[str, ...]:
    """The domains as a stream names them: `fog@1`, `fog@2`, ... where it visits fog at several severities."""
    severities = dict.fromkeys(STREAMS[stream].severities)
    return tuple(at_severity(name, s) for name in domains for s in severities) if severities else tuple(domains)


def visits_per_domain(stream: str, rounds: int) -> int:
    """How many segments of `samples_per_domain` images a stream takes from each domain."""
    return rounds * max(1, len(STREAMS[stream].severities))


def _visits(
    spec: StreamSpec,
    pools: Mapping[str, NDArray[np.int64]],
    chosen: Mapping[str, NDArray[np.int64]],
    samples: int,
    seed: int,
    rounds: int,
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Domain and images of each visit, in order."""
    if spec.rounds == "split":
        # Domains with as many images share the parts, and so show the same ones in each round.
        parts = {len(pool): _parts(len(pool), rounds, seed) for pool in pools.values()}
        for number in range(rounds):
            yield from ((name, pool[parts[len(pool)][number][:samples]]) for name, pool in pools.items())
        return
    for _ in range(rounds):
        for name in pools:
            if spec.severities:
                yield from ((at_severity(name, severity), chosen[name]) for severity in spec.severities)
            else:
                yield name, chosen[name]


def _parts(images: int, rounds: int, seed: int) -> NDArray[np.int64]:
    assert rounds <= images, "rounds that share images"
    return _generator(seed, "rounds").permutation(images)[: images // rounds * rounds].reshape(rounds, -1)


def _pool(images: int | NDArray[np.int64]) -> NDArray[np.int64]:
    return np.arange(images) if isinstance(images, int) else np.asarray(images, dtype=np.int64)


def _chosen(domain: str, pool: NDArray[np.int64], samples: int, seed: int, shuffled: bool) -> NDArray[np.int64]:
    return (pool[_generator(seed, f"domain {domain}").permutation(len(pool))] if shuffled else pool)[:samples]


def _generator(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])
