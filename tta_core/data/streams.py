"""Streams: the order in which the samples of a benchmark arrive, as index lists with a hash. Imports no torch.

Every random choice comes from a generator of its own, seeded by (seed, name), so that the order under one seed is the
same for every method, and the images chosen from one domain do not depend on which other domains are in the stream.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tta_core.data.domains import at_severity
from tta_core.spec import StreamSpec

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
        ),
        StreamSpec(
            name="recurring-same",
            title="rounds over the domains, each round the stream `continual` again",
            reset="never",
            rounds="same",
        ),
    )
}


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

    def order_hash(self) -> str:
        """Sixteen hexadecimal digits that differ as soon as the order, the borders or the resets do."""
        digest = hashlib.sha256(repr((self.domains, self.segments, self.reset_at_segments)).encode())
        digest.update(self.domain.astype("<i2").tobytes())
        digest.update(self.index.astype("<i4").tobytes())
        return digest.hexdigest()[:16]


def stream_order(
    stream: str,
    domains: Sequence[str],
    images_per_domain: int,
    samples_per_domain: int,
    seed: int,
    *,
    rounds: int = 1,
    shuffled: bool = True,
) -> StreamOrder:
    """Builds the order of a stream.

    Args:
        stream: name of a row in `STREAMS`.
        domains: domains in their published order.
        images_per_domain: images that each domain has.
        samples_per_domain: images to take at each visit to a domain; the choice for n is contained in the choice for
            n + 1.
        seed: seed of the choice and of the order.
        rounds: how often the domains come back, in streams that have rounds.
        shuffled: whether a domain's images are taken in random order, or in their own.
    """
    visits = list(_visits(stream, domains, images_per_domain, samples_per_domain, seed, rounds, shuffled))
    names = tuple(dict.fromkeys(name for name, _ in visits))
    numbers = {name: number for number, name in enumerate(names)}
    domain = np.repeat(np.array([numbers[name] for name, _ in visits], dtype=np.int16), samples_per_domain)
    index = np.concatenate([images for _, images in visits]).astype(np.int32)
    segments = tuple(range(0, len(index), samples_per_domain))
    if stream == "mixed":
        order = _generator(seed, "mixed").permutation(len(index))
        domain, index, segments = domain[order], index[order], (0,)
    return StreamOrder(names, domain, index, segments, STREAMS[stream].reset == "domain")


def visited_domains(stream: str, domains: Sequence[str]) -> tuple[str, ...]:
    """The domains as a stream names them: `fog@1`, `fog@2`, ... where it visits fog at several severities."""
    severities = dict.fromkeys(STREAMS[stream].severities)
    return tuple(at_severity(name, s) for name in domains for s in severities) if severities else tuple(domains)


def visits_per_domain(stream: str, rounds: int) -> int:
    """How many segments of `samples_per_domain` images a stream takes from each domain."""
    return rounds * max(1, len(STREAMS[stream].severities))


def _visits(
    stream: str, domains: Sequence[str], images: int, samples: int, seed: int, rounds: int, shuffled: bool
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Domain and images of each visit, in order."""
    spec = STREAMS[stream]
    if spec.rounds == "split":
        assert samples * rounds <= images, "rounds that share images"
        parts = _generator(seed, "rounds").permutation(images)[: images // rounds * rounds].reshape(rounds, -1)
        yield from ((name, part[:samples]) for part in parts for name in domains)
        return
    chosen = {name: _chosen(name, images, samples, seed, shuffled) for name in domains}
    for _ in range(rounds):
        for name in domains:
            if spec.severities:
                yield from ((at_severity(name, severity), chosen[name]) for severity in spec.severities)
            else:
                yield name, chosen[name]


def _chosen(domain: str, images: int, samples: int, seed: int, shuffled: bool) -> NDArray[np.int64]:
    order = _generator(seed, f"domain {domain}").permutation(images) if shuffled else np.arange(images)
    return order[:samples]


def _generator(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])
