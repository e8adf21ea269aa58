"""IMSE: trains the singular values of attention and MLP layers, and keeps a bank of them by domain.

Paper: IMSE: Intrinsic Mixture of Spectral Experts, ICLR 2026 (imse §1). Deviations from the release are switches, see
the preset `official`; without one: eval mode, deep copies of optimizer states, no NaN where nothing is reliable, and a
decomposition in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tta_core.errors import InputError
from tta_core.methods.base import Method
from tta_core.methods.common.losses import entropy_margin, masked_mean, softmax_entropy
from tta_core.methods.common.optim import adam_memory, ascend, load_adam_memory, put_back
from tta_core.methods.common.surgery import norm_layers
from tta_core.methods.common.transformer import as_transformer, embed, predict
from tta_core.methods.context import Artefact, Context
from tta_core.methods.imse.alignment import alignment_spread, groups_alike
from tta_core.methods.imse.bank import Retrieval, SpectralBank
from tta_core.methods.imse.descriptor import Descriptor, describe_patches
from tta_core.methods.imse.diversity import mean_spread
from tta_core.methods.imse.domains import DomainTracker, source_descriptor
from tta_core.methods.imse.layers import SpectralLinear, merged
from tta_core.methods.imse.network import decompose_layers
from tta_core.methods.imse.spec import IMSESettings
from tta_core.methods.stateful import Stateful

OFFICIALLY_FROZEN = (9, 10, 11)
"""The blocks that the release leaves out by name, whatever the depth."""


class Objective(NamedTuple):
    """One pass: `logits` `(batch, classes)`, which samples were `selected` `(batch,)`, `loss` `()` and its terms."""

    logits: Tensor
    selected: Tensor
    loss: Tensor
    entropy: Tensor
    diversity: Tensor


def told(first: Objective, last: Objective) -> dict[str, Tensor]:
    """What is recorded of the first pass over a batch and of the one whose gradient was taken."""
    return {
        "loss": last.loss.detach(),
        "first_loss": first.loss.detach(),
        "entropy": last.entropy.detach(),
        "diversity": last.diversity.detach(),
    }


class IMSE(Method[IMSESettings]):
    """One SAM step of Adam per batch on entropy minus diversity; scores the logits of the first pass.

    Attributes:
        layers: the decomposed layers by qualified name, those that are not trained among them.
        bank: codes of the domains seen so far; None without retrieval.
        tracker: follows the current domain; None without retrieval.
        last_retrieval: weight of each entry of the bank `(entries,)` in the code that the last step went on with; None
            if that step retrieved nothing.
        last_distances: distance of each entry `(entries,)` from its batch; None likewise.
    """

    optimizer: torch.optim.Adam
    bank: SpectralBank | None = None
    tracker: DomainTracker | None = None
    last_retrieval: Tensor | None = None
    last_distances: Tensor | None = None

    @classmethod
    def make_artefact(cls, network: nn.Module, settings: IMSESettings, context: Context) -> Artefact:
        """Describes the source: `mean` and `variance` `(channels,)` of its patch tokens; nothing without retrieval."""
        if settings.retrieval == "none":
            return {}
        transformer = as_transformer(network, "imse")
        assert context.source_images is not None, "asked for by the spec"
        return source_descriptor(
            context.source_images, lambda images: describe_patches(transformer, embed(transformer, images)), settings
        )._asdict()

    def prepare(self) -> None:
        """Decomposes the linear layers and thaws the singular values of the blocks that are trained."""
        settings = self.settings
        self.transformer = as_transformer(self.network, "imse")
        blocks = [f"blocks.{number}" for number in range(len(self.transformer.blocks))]
        self._take(blocks, decompose_layers(self.transformer, settings.components, settings.decompose_qkv))

    def _take(self, blocks: Sequence[str], found: Sequence[tuple[int, str, SpectralLinear]]) -> None:
        """Thaws what is trained of spectral layers, each after the number of its block."""
        settings, depth = self.settings, len(blocks)
        frozen = _frozen_blocks(settings.frozen_last_blocks, depth)
        as_they_are = tuple(f"{name}." for number, name in enumerate(blocks) if number in frozen)
        if settings.diversity_blocks > depth:
            raise InputError(
                f"diversity_blocks = {settings.diversity_blocks}, but this network has only {depth}: give at most that"
            )
        for block, _, layer in found:
            layer.sigma.requires_grad_(block not in frozen)
            layer.measures_alignment = block >= depth - settings.diversity_blocks
        self.layers = {name: layer for _, name, layer in found}
        self.trained = [layer.sigma for layer in self.layers.values() if layer.sigma.requires_grad]
        self.norms: list[nn.Parameter] = [
            parameter
            for name, norm in norm_layers(self.network)
            if settings.norm_lr > 0 and not name.startswith(as_they_are)
            for parameter in norm.parameters()
        ]
        for parameter in self.norms:
            parameter.requires_grad_(True)
        self.margin = entropy_margin(settings.entropy_margin, self.num_classes)

    def begin(self) -> None:
        """Opens the bank with the source."""
        settings = self.settings
        if settings.retrieval == "none":
            return
        source = Descriptor(self.artefact["mean"], self.artefact["variance"])
        code = self._code()
        memory = code.new_zeros(len(self.trained) + 2 * len(code) if settings.optimizer_state == "load" else 0)
        self.bank = SpectralBank(settings, source, code, memory)
        self.tracker = DomainTracker(settings, self.context.batch_size)

    def parts(self) -> dict[str, Stateful]:
        """The bank and the tracker, with retrieval."""
        return {} if self.bank is None or self.tracker is None else {"bank": self.bank, "tracker": self.tracker}

    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Adam:
        """Adam without weight decay; `rho` makes it sharpness-aware."""
        groups: list[dict[str, Any]] = [{"params": self.trained}]
        if self.norms:
            groups.append({"params": self.norms, "lr": self.settings.norm_lr})
        return torch.optim.Adam(groups, lr=self.settings.lr)

    def step(self, images: Tensor) -> Tensor:
        """Returns the logits `(batch, classes)` before the update, with the retrieved code if there was a shift."""
        tokens = self._embed(images)
        visit = self._visit(tokens)
        first = self._objective(tokens)
        last = self._learn(first, tokens)
        self.record = visit | told(first, last) | {"selected": last.selected.sum(), "reliable": first.selected.sum()}
        return first.logits

    def spectral_code(self) -> dict[str, Tensor]:
        """The current singular values `(rank,)` by layer, those that are not trained among them; not copies."""
        return {name: layer.sigma.detach() for name, layer in self.layers.items()}

    def source_code(self) -> dict[str, Tensor]:
        """The singular values `(rank,)` of the original weights by layer; not copies."""
        return {name: layer.source_sigma.detach() for name, layer in self.layers.items()}

    def merge(self) -> nn.Module:
        """A copy of the network as it was before the method, with the current code in ordinary linear layers.

        The method and its own network go on as they are.
        """
        return merged(self.network)

    def _embed(self, images: Tensor) -> Tensor:
        return embed(self.transformer, images)

    def _describe(self, tokens: Tensor) -> Descriptor:
        return describe_patches(self.transformer, tokens)

    def _learn(self, first: Objective, inputs: Tensor) -> Objective:
        """One step of Adam down the gradient of a pass, with `rho` of a second one over the same inputs.

        Returns:
            The pass whose gradient it was.
        """
        last = first
        self.backward(first.loss)
        if self.settings.rho > 0:
            moved: list[nn.Parameter] = [*self.trained, *self.norms]
            before = ascend(moved, self.settings.rho)
            self.optimizer.zero_grad()
            last = self._objective(inputs, first.selected)
            self.backward(last.loss)
            put_back(moved, before)
        # Whether to skip a step is only known on the host.
        if self.settings.on_empty == "diversity_only" or bool(last.selected.any()):
            self.optimizer.step()
        self.optimizer.zero_grad()
        return last

    def _objective(self, tokens: Tensor, among: Tensor | None = None) -> Objective:
        """One pass over tokens `(batch, tokens, channels)`; samples are selected from those `among` `(batch,)`."""
        logits = predict(self.transformer, tokens)
        entropy = softmax_entropy(logits)
        selected = entropy.detach() < self.margin
        if among is not None:
            selected = selected & among
        return self._with_diversity(logits, selected, masked_mean(entropy, selected))

    def _with_diversity(self, logits: Tensor, selected: Tensor, reliable: Tensor) -> Objective:
        """The loss: the mean entropy of what is reliable minus the diversity, by the last forward."""
        diversity, weight = self._diversity(), self.settings.lambda_diversity
        # With weight 0 the diversity is measured, but no gradient is sent through it.
        loss = reliable - weight * diversity if weight > 0 else reliable
        return Objective(logits, selected, loss, reliable, diversity)

    def _diversity(self) -> Tensor:
        """Spread of the experts in the last blocks, by the last forward (imse §1.2)."""
        settings = self.settings
        seen = [layer.take_alignment() for layer in self.layers.values() if layer.measures_alignment]
        spreads = [alignment_spread(layers, settings.norm_epsilon) for layers in groups_alike(seen)]
        ratio, exclude_max = settings.diversity_ratio, settings.diversity_exclude_max
        total = torch.cat([mean_spread(spread, ratio, exclude_max) for spread in spreads]).sum()
        return total / settings.diversity_blocks if settings.diversity_norm == "sum_per_block" else total

    def _visit(self, tokens: Tensor) -> dict[str, Tensor]:
        """Looks for a change of domain; on one, stores the code and goes on with what the bank gives (imse §1.7)."""
        self.last_retrieval = self.last_distances = None
        zero = torch.zeros((), device=tokens.device)
        record = {"shift": zero, "shift_distance": zero, "bank_size": zero, "stored": zero - 1, "retrieved": zero - 1}
        if self.bank is None or self.tracker is None:
            return record
        batch = self._describe(tokens)
        record["shift_distance"], ended, nearest = self.tracker.observe(batch, len(tokens), self.bank.nearest)
        if ended is not None:
            stored = self.bank.store(ended, self._code(), self._memory(), nearest)
            record |= {"shift": zero + 1, "stored": zero + stored}
            if len(self.bank) > self.settings.num_seen_domains:
                record["retrieved"] = self._retrieve(self.bank.retrieve(batch, stored), self.bank.memories)
        return record | {"bank_size": zero + len(self.bank)}

    def _retrieve(self, found: Retrieval, memories: Tensor) -> Tensor:
        """Goes on with a retrieved code; returns the entry `()` that it is closest to."""
        self.last_retrieval, self.last_distances = found.weights, found.distances
        sizes = [sigma.numel() for sigma in self.trained]
        put_back(self.trained, found.code.split(sizes))
        if self.settings.optimizer_state == "reset":
            self.optimizer.state.clear()
        elif self.settings.optimizer_state == "load":
            load_adam_memory(self.optimizer, self.trained, memories.index_select(0, found.entry.view(1))[0])
        return found.entry

    def _code(self) -> Tensor:
        """All trained singular values `(scalars,)`, one layer behind the other; a copy."""
        return torch.cat([sigma.detach() for sigma in self.trained])

    def _memory(self) -> Tensor:
        """Adam's memory, if it will ever be loaded; empty otherwise."""
        if self.settings.optimizer_state == "load":
            return adam_memory(self.optimizer, self.trained)
        return self.trained[0].new_zeros(0)


def _frozen_blocks(setting: int | str, depth: int) -> range | tuple[int, ...]:
    """The blocks, counted from 0, whose code is not trained.

    Raises:
        InputError: if none is left to train.
    """
    if setting == "official":
        return OFFICIALLY_FROZEN
    number = round(depth / 4) if setting == "auto" else int(setting)
    if number >= depth:
        raise InputError(
            f"frozen_last_blocks = {number} leaves none of this network's {depth} blocks to train: give at most "
            f"{depth - 1}"
        )
    return range(depth - number, depth)
