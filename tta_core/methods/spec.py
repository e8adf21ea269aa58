"""What describes a method: settings, presets, needs. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from tta_core.backbones.spec import NetworkKind
from tta_core.data.spec import Task
from tta_core.errors import unknown_name
from tta_core.frozen import Frozen, validated

SOURCE_IMAGES = "source images"
LABELLED_SOURCE_IMAGES = "labelled source images"
HELD_OUT_IMAGES = "held-out corruptions"
HELD_OUT_LABELS = "labels of held-out corruptions"

NEEDS: Mapping[str, str] = MappingProxyType(
    {
        SOURCE_IMAGES: "clean, unlabelled images of the source",
        LABELLED_SOURCE_IMAGES: "training images of the source with their labels",
        HELD_OUT_IMAGES: "images under the corruptions that no table reports",
        HELD_OUT_LABELS: "their labels",
    }
)
"""What a method can need beyond the stream -> what that is. `Context` hands it over."""

Scored = Literal["pre-update", "perturbed", "post-update"]
"""Which logits are scored: those computed before the method learned from the batch; those at weights that a
sharpness-aware step has moved up the gradient; those that the batch itself has already changed.
"""


class _Range(Frozen):
    """What `Real` and `Integer` share; `log` says that a search spreads the logarithm evenly."""

    kind: Literal["real", "integer"]
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low} is not below high = {self.high}: give the smaller one as low")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low} has no logarithm: give a low above 0, or log = false")
        return self


class Real(_Range):
    """A search looks at all numbers from `low` to `high`."""

    kind: Literal["real"] = "real"


class Integer(_Range):
    """A search looks at all whole numbers from `low` to `high`."""

    kind: Literal["integer"] = "integer"
    low: int
    high: int


class Choice(Frozen):
    """A search looks at these values alone: for settings that are no numbers, and where few numbers make sense."""

    kind: Literal["choice"] = "choice"
    values: tuple[Any, ...] = Field(min_length=1)


SearchSpace = Real | Integer | Choice
"""Where a search may look for one setting."""


class ScalarSpec(Frozen):
    """One scalar that a method records at every step."""

    description: str
    unit: str = "1"


class PreparationSpec(Frozen):
    """What a method makes once from more than the stream, before any stream. It is kept on disk.

    Attributes:
        artefact: what is made, for people.
        settings: the settings of the method that it depends on.
        version: raised whenever other values are made from the same.
    """

    artefact: str
    settings: tuple[str, ...] = ()
    version: int = 1


class MethodSpec(Frozen):
    """A test-time adaptation algorithm, described without importing it.

    Attributes:
        name: the name used in YAML, in tables and on the command line; also the folder in `tta_core/methods`.
        title: one line for people.
        paper: authors, title, venue.
        changes: what the method changes in the network.
        task: what it predicts. A method that does both has two of these: `SPEC` in `spec.py`, and `PIXELS` in
            `pixel_spec.py` for segmentation.
        not_for_pixels: why it does not do segmentation; empty if it does.
        implementation: name of the `Method` class in the folder's `method.py`, for segmentation in its `pixels.py`.
        version: raised whenever the numbers that the method produces change; part of the cell id.
        settings: the data model of the method's settings; its defaults are the `recommended` preset.
        presets: named settings that differ from the defaults. `recommended` is always there and empty.
        search: where a search looks for a setting, by its name: `Real` for a float, `Integer` for an int, `Choice` for
            anything. Every default and preset lies within.
        traces: repositories, with commit, whose runs the method was compared with step by step (`tests/golden`); empty
            if it was compared with slow versions of its formulas alone.
        tables: the published tables that presets have the settings of, by preset.
        scalars: what the method adds to each row of `batches`.
        scores: which logits are scored; a function of the settings where they decide it.
        needs: what the method needs beyond the stream, keys of `NEEDS`; shown wherever methods are compared.
        needs_with: the part of `needs` that given settings ask for, where some ask for less.
        preparation: what is made of that before the stream; None if nothing is.
        network: which networks the method takes.
        relative_cost: cost of a step in source forwards, with its defaults; only used to estimate time before anything
            ran, and to put methods in a row.
        cost_with: the cost with given settings, where they decide it.
        published_cost: the same, measured of the method's released code on a vision transformer; None if it was not.
        trains: whether the method trains parameters of the network, with its defaults.
        episodic: whether it forgets what it trained before the next sample, so that no step leaves a parameter changed.
        recovers: whether it finds back from predicting few classes by itself, so that this must last to be a collapse.
        starts_at_source: whether the first batch gets the logits of the source network. It does not where something
            random or trained is added, or where the batch itself has a say.
        amplifies_rounding: by how much more than other methods the first steps enlarge a difference in rounding.
        waits: how often a step waits for the device at most; a function of the settings where they decide it.
        draws_on_device: whether random numbers are drawn on the device, which gives others there than on the CPU; a
            function of the settings where they decide it.
        not_one_graph: why `torch.compile` cannot make one graph of the forward of its networks; empty if it can.
        learns_from_noise: settings, beside the preset `digits-c`, with which the method learns from images of noise;
            empty if it does so anyway. Methods that select their samples may select none of these.
        quick: settings with which a step does all of its work in little time, and so does what comes before the stream:
            for the tests that run every method.
        scores_as_it_stands: settings with which a step scores the parameters that the last step left; empty if it does
            so anyway. Only methods with `pre-update` logits are asked.
    """

    name: str
    title: str
    paper: str
    changes: str
    task: Task = "classification"
    not_for_pixels: str = ""
    implementation: str
    version: int = 1
    settings: type[BaseModel]
    presets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    search: Mapping[str, SearchSpace] = Field(default_factory=dict)
    traces: tuple[str, ...] = ()
    tables: Mapping[str, str] = Field(default_factory=dict)
    scalars: dict[str, ScalarSpec] = Field(default_factory=dict)
    scores: Scored | Callable[[Any], Scored] = "pre-update"
    needs: tuple[str, ...] = ()
    needs_with: Callable[[Any], tuple[str, ...]] | None = None
    preparation: PreparationSpec | None = None
    network: NetworkKind = "any"
    relative_cost: float = 1.0
    cost_with: Callable[[Any], float] | None = None
    published_cost: float | None = None
    trains: bool = True
    episodic: bool = False
    recovers: bool = False
    starts_at_source: bool = True
    amplifies_rounding: float = Field(default=1.0, ge=1)
    waits: int | Callable[[Any], int] = 0
    draws_on_device: bool | Callable[[Any], bool] = False
    not_one_graph: str = ""
    learns_from_noise: dict[str, Any] = Field(default_factory=dict)
    quick: dict[str, Any] = Field(default_factory=dict)
    scores_as_it_stands: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _search_fits_the_settings(self) -> Self:
        for name, space in self.search.items():
            for value in _probes(space):
                read = getattr(validated(self.settings, {name: value}, where=f"search of {self.name}"), name)
                if (type(read), read) != (type(value), value):
                    raise ValueError(
                        f"search of {self.name}: {name} reads {value!r} as {read!r}: give Real for a float, Integer "
                        "for an int, and Choice for all else"
                    )
        return self

    @model_validator(mode="after")
    def _tables_name_presets(self) -> Self:
        for name in self.tables:
            if name not in self.preset_names():
                raise unknown_name(f"preset of {self.name}", name, self.preset_names())
        return self

    def takes(self, kinds: Iterable[NetworkKind]) -> bool:
        """Whether the method takes a network of these kinds."""
        return self.network == "any" or self.network in kinds

    def preset_names(self) -> list[str]:
        """The presets of this method, `recommended` first."""
        return ["recommended", *sorted(set(self.presets) - {"recommended"})]

    def needs_of(self, settings: BaseModel) -> tuple[str, ...]:
        """What the method needs beyond the stream with these settings, in the order of `NEEDS`."""
        needed = self.needs if self.needs_with is None else self.needs_with(settings)
        return tuple(need for need in NEEDS if need in needed)

    def cost_of(self, settings: BaseModel) -> float:
        """Cost of a step with these settings, in source forwards."""
        return self.relative_cost if self.cost_with is None else self.cost_with(settings)

    def scores_of(self, settings: BaseModel) -> Scored:
        """Which logits are scored with these settings."""
        return self.scores(settings) if callable(self.scores) else self.scores

    def waits_of(self, settings: BaseModel) -> int:
        """How often a step waits for the device at most with these settings."""
        return self.waits(settings) if callable(self.waits) else self.waits

    def draws_on_device_with(self, settings: BaseModel) -> bool:
        """Whether random numbers are drawn on the device with these settings."""
        return self.draws_on_device(settings) if callable(self.draws_on_device) else self.draws_on_device

    def resolve(self, preset: str, overrides: dict[str, Any]) -> BaseModel:
        """Returns the complete settings: defaults, then the preset, then `overrides`.

        Raises:
            InputError: if the preset or a setting is unknown, or a value is not allowed.
        """
        if preset not in self.preset_names():
            raise unknown_name(f"preset of {self.name}", preset, self.preset_names())
        return validated(self.settings, {**self.presets.get(preset, {}), **overrides}, where=self.name)


def _probes(space: SearchSpace) -> tuple[Any, ...]:
    """Values that the settings must allow. Those beside the ends find rules such as "an even number"."""
    if isinstance(space, Choice):
        return space.values
    if isinstance(space, Integer):
        return space.low, space.low + 1, space.high - 1, space.high
    return space.low, space.high
