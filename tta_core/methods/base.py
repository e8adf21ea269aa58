"""The contract that every test-time adaptation method keeps, and what all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from tta_core.errors import InputError, closest_match
from tta_core.methods.context import Artefact, Context
from tta_core.methods.given import admitted, check_images, check_trained
from tta_core.methods.half_weights import HalfWeights
from tta_core.methods.layer_counts import LayerCount, count_layers, layers_with_parameters
from tta_core.methods.stateful import Remembering, Stateful

Settings = TypeVar("Settings", bound=BaseModel)

Diagnostics = dict[str, dict[str, list[float]]]
"""Quantity -> layer (empty for the whole network) -> values."""

STUDENT = "student"
"""The name of the edited network among the networks of a method."""

SELF = "method"
"""The name of the method itself among its parts, in a state."""


class Method(Remembering, ABC, Generic[Settings]):
    """A network that adapts itself to the batches it predicts.

    A subclass edits the network and marks what it trains in `prepare`, makes its optimizer in `make_optimizer` and
    does one online step in `step`. It names what later steps depend on: other networks in `networks`, objects in
    `parts`, attributes of its own in `remembers`. Everything else is here: reset, state, diagnostics.

    Attributes:
        network: the edited network, always in eval mode.
        settings: the method's resolved settings.
        context: what the method may know beyond them.
        num_classes: number of logits.
        artefact: what the method made before the stream; empty if it makes nothing.
        record: what the last step recorded, as tensors of no dimensions on the network's device. `selected` is the
            number of samples that entered the loss; `loss` (nat) is absent if the step made no update; the others are
            the scalars that the method's spec declares. Kept as tensors so that a step waits for no device.
        generator: the method's own random numbers, on the CPU, so that initial values agree on all devices.
        layer_counts: how many layers of each kind there were, and how many of them the method trains or replaces.
    """

    layer_counts: Mapping[str, LayerCount]

    @torch.inference_mode(False)
    def __init__(
        self, network: nn.Module, settings: Settings, context: Context, initial: Mapping[str, Tensor] | None = None
    ) -> None:
        self.network = admitted(network, context.num_classes)
        found = layers_with_parameters(self.network)
        self.settings = settings
        self.context = context
        self.num_classes = context.num_classes
        self.record: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(context.seed)
        self.artefact: Artefact = (
            self.make_artefact(self.network, settings, context) if context.artefact is None else context.artefact
        )
        self._added: list[str] = []
        backbone = set(self.network.parameters())
        self.prepare()
        _set_initial(self.network, initial or {})
        self.begin()
        trained = self.trainable_parameters()
        check_trained(trained, network)
        self.layer_counts = count_layers(found, self.network)
        self._halves = HalfWeights(self.networks().values(), trained)
        self.optimizer = self.make_optimizer(list(trained.values()))
        self._source = self.state_dict()
        # All networks start equal, so one copy of the parameters serves them all.
        self._source["parameters"] = dict.fromkeys(self.networks(), self._source["parameters"][STUDENT])
        self._added = [name for name, parameter in trained.items() if parameter not in backbone]

    @torch.inference_mode(False)
    def __call__(self, images: Tensor) -> Tensor:
        """One online step: predicts a batch and adapts to it.

        Args:
            images: normalised images `(batch, channels, height, width)`, any batch size from 1.

        Returns:
            The logits that are scored, `(batch, classes)` or `(batch, classes, height, width)`, detached.

        Raises:
            InputError: for images that the network does not take.
        """
        check_images(images, self.network)
        if self.optimizer is not None:
            self.optimizer.zero_grad()  # Whoever called backward in between left gradients that are not the step's.
        with torch.enable_grad(), self._halves.lent(images.device):
            return self.step(images.clone() if images.is_inference() else images).detach()

    @torch.inference_mode(False)
    def predict(self, images: Tensor) -> Tensor:
        """Predicts a batch as things stand: adapts nothing, records nothing, leaves nothing behind.

        Args:
            images: normalised images `(batch, channels, height, width)`.

        Returns:
            Logits `(batch, classes)`.
        """
        with torch.no_grad(), self._undisturbed():
            return self.frozen_logits(images)

    def frozen_logits(self, images: Tensor) -> Tensor:
        """Logits `(batch, classes)` for `predict`; override it where the scored logits are not those of `network`.

        Runs without gradients. All that it changes is put back afterwards, but for parameters and the optimizer, which
        are not its to change.
        """
        logits: Tensor = self.network(images)
        return logits

    @classmethod
    def make_artefact(cls, network: nn.Module, settings: Settings, context: Context) -> Artefact:
        """Makes what the method's spec declares as its preparation, from what it needs beyond the stream.

        It depends on the network, on the settings that the spec names, on what `context` hands over and on nothing
        else: no seed but `PREPARATION_SEED`, no batch size. The runner keeps it on disk, and all cells share it.

        Args:
            network: the source network, frozen and in eval mode; it must be left as it is.
            settings: the method's resolved settings.
            context: what was handed over.

        Returns:
            Tensors by name, detached, on the network's device.

        Raises:
            InputError: if something that is needed was not handed over.
        """
        return {}

    @abstractmethod
    def prepare(self) -> None:
        """Edits `self.network` and sets `requires_grad` on what is trained. Called once, with everything frozen."""

    def begin(self) -> None:
        """Called once, with all initial values in place: makes what starts equal to the network, such as a teacher."""

    @abstractmethod
    def make_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer | None:
        """Returns the optimizer of the trained parameters; None if nothing is trained."""

    @abstractmethod
    def step(self, images: Tensor) -> Tensor:
        """Predicts and adapts; returns the scored logits `(batch, classes)` and fills `self.record`."""

    def at_border(self) -> None:
        """Called where a domain of the stream has ended. No method should know; some released code does."""

    def networks(self) -> dict[str, nn.Module]:
        """The networks that predict, by name. All have the parameters of the student's, and equal ones at first."""
        return {STUDENT: self.network}

    def parts(self) -> dict[str, Stateful]:
        """What later steps depend on beyond networks, optimizer and generator, by name."""
        return {}

    def descend(self, loss: Tensor | None = None) -> None:
        """One step of the optimizer down a loss, or down the gradients that are there; leaves no gradients."""
        assert self.optimizer is not None, "whoever descends has made an optimizer"
        if loss is not None:
            self.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def backward(self, loss: Tensor, inputs: Sequence[Tensor] | None = None) -> None:
        """Adds the gradients of a loss to those of all tensors, or of `inputs`, outside of the autocast of the forward.

        A gradient has the precision of what it is the gradient of. Under autocast, functions that write their backward
        out would have their products cast again.
        """
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward(inputs=inputs)

    def diagnostics(self) -> Diagnostics:
        """Quantities of more than one value, since the last reset. Waits for the device."""
        return {}

    def activated_parameters(self) -> int:
        """Trained scalars that take part in predicting one sample: fewer than all where experts are chosen."""
        return sum(parameter.numel() for parameter in self.trainable_parameters().values())

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that steps change, by qualified name in `network`; the live ones, not copies."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    @property
    def watched(self) -> nn.Module | None:
        """The network whose first forward of a step is of the batch as it came, for observers that read its modules.

        None if there is none, as where each image has weights of its own.
        """
        return self.network

    @property
    def source_parameters(self) -> Mapping[str, Tensor]:
        """The trained parameters as they were at construction, by qualified name; not to be written to."""
        source: Mapping[str, Tensor] = self._source["parameters"][STUDENT]
        return source

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Puts back what a forward changes: buffers, parts, and what modules and the method keep."""
        modules = dict.fromkeys(module for network in self.networks().values() for module in network.modules())
        attributes = [(owner, dict(vars(owner))) for owner in (self, *modules)]
        buffers = [(m, name, own, own.clone()) for m in modules for name, own in m.named_buffers(recurse=False)]
        generator, states = self.generator.get_state(), self._part_states()
        try:
            yield
        finally:
            for owner, before in attributes:
                vars(owner).clear()
                vars(owner).update(before)
            for module, name, own, value in buffers:
                setattr(module, name, own.copy_(value))
            self.generator.set_state(generator)
            self._load_parts(states)

    @torch.inference_mode(False)
    def reset(self) -> None:
        """Returns to the state at construction, bit for bit."""
        self.load_state_dict(self._source)
        self.record = {}

    @torch.inference_mode(False)
    def state_dict(self) -> dict[str, Any]:
        """Copies of everything that later steps depend on.

        Parameters that no step changes are left out: they come with the backbone. So do the source values of those
        that do, unless the method has added them. The result holds tensors and plain values only, so
        `torch.load(weights_only=True)` reads it back.
        """
        return {
            "parameters": _cloned(self._parameters()),
            "buffers": _cloned(self._buffers()),
            "added": {name: self.source_parameters[name].clone() for name in self._added},
            "optimizer": _cloned(self.optimizer.state_dict()) if self.optimizer is not None else {},
            "generator": self.generator.get_state().clone(),
            "parts": self._part_states(),
        }

    @torch.inference_mode(False)
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over a state that `state_dict` of the same method, settings and backbone gave.

        Raises:
            InputError: if names or shapes do not fit this method, such as those of an older version; nothing is taken
                over then.
        """
        _check_fit("entry", self._source, state)
        _check_fit("part", self._source["parts"], state["parts"])
        live = {"parameters": _flat(self._parameters()), "buffers": _flat(self._buffers())}
        given = {what: _flat(state[what]) for what in live}
        for what, tensors in live.items():
            _check_fit(what, tensors, given[what])
        self._load_parts(_cloned(state["parts"]))
        with torch.no_grad():
            for what, tensors in live.items():
                for name, tensor in tensors.items():
                    tensor.copy_(given[what][name])
        self._source["parameters"][STUDENT].update(_cloned(state["added"]))
        if self.optimizer is not None:
            self.optimizer.load_state_dict(_cloned(state["optimizer"]))
            self.optimizer.zero_grad()
        self.generator.set_state(state["generator"].clone())

    def _parameters(self) -> dict[str, dict[str, Tensor]]:
        """The parameters that move, by network and name; not copies."""
        trained = self.trainable_parameters()
        return {
            name: {n: p for n, p in network.named_parameters() if n in trained}
            for name, network in self.networks().items()
        }

    def _buffers(self) -> dict[str, dict[str, Tensor]]:
        """All buffers, by network and name; not copies."""
        return {name: dict(network.named_buffers()) for name, network in self.networks().items()}

    def _part_states(self) -> dict[str, Any]:
        """Copies of what the method itself and its parts remember, by part."""
        parts = {name: part.state_dict() for name, part in self.parts().items()}
        states: dict[str, Any] = _cloned({SELF: super().state_dict(), **parts})
        return states

    def _load_parts(self, states: Mapping[str, Any]) -> None:
        super().load_state_dict(states[SELF])
        for name, part in self.parts().items():
            part.load_state_dict(states[name])


def _set_initial(network: nn.Module, initial: Mapping[str, Tensor]) -> None:
    parameters = dict(network.named_parameters())
    for name, value in initial.items():
        if name not in parameters:
            match = closest_match(name, parameters)
            hint = f", did you mean {match!r}?" if match else ""
            raise InputError(f"initial value for {name!r}: the edited network has no such parameter{hint}")
        if parameters[name].shape != value.shape:
            raise InputError(
                f"initial value of {name!r} has shape {tuple(value.shape)}, the parameter has "
                f"{tuple(parameters[name].shape)}: give one of that shape"
            )
        with torch.no_grad():
            parameters[name].copy_(value)


def _cloned(value: Any) -> Any:
    """Copies nested dictionaries, lists and tuples with every tensor in them."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _cloned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_cloned(item) for item in value)
    return value


def _flat(networks: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors by network and name, joined by a dot."""
    return {f"{network}.{name}": tensor for network, tensors in networks.items() for name, tensor in tensors.items()}


def _check_fit(what: str, own: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuses entries of other names, or tensors of other shapes."""
    wrong = sorted(set(own) ^ set(given)) or sorted(n for n in own if _shape(own[n]) != _shape(given[n]))
    if wrong:
        raise InputError(
            f"the state does not fit this method: {what} {wrong[0]!r}"
            + (f" and {len(wrong) - 1} more differ" if len(wrong) > 1 else " differs")
            + "; load it into the same version of the same method with the same settings and backbone"
        )


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None
