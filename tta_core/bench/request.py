"""What to measure, read from the words of a command line. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from tta_core.backbones.table import BACKBONES
from tta_core.data.spec import Task
from tta_core.errors import InputError, unknown_name
from tta_core.frozen import Count, Frozen, Seed
from tta_core.methods.registry import method_spec, methods
from tta_core.methods.spec import MethodSpec
from tta_core.yaml_values import parse_yaml


class MethodChoice(Frozen):
    """One method with a preset and with settings that differ from it.

    Attributes:
        task: what it predicts.
        named: whether it was asked for by name; otherwise it is left out where the network is none that it takes.
    """

    name: str
    preset: str = "recommended"
    settings: dict[str, Any] = Field(default_factory=dict)
    named: bool = True
    task: Task = "classification"

    @property
    def spec(self) -> MethodSpec:
        """The description of the method, for the task."""
        return method_spec(self.name, self.task)

    @property
    def plain(self) -> bool:
        """Whether it is what a sweep runs without more: the preset `recommended` as it is."""
        return self.preset == "recommended" and not self.settings

    def resolve(self) -> BaseModel:
        """The complete settings; raises `InputError` for what the method does not know or allow."""
        return self.spec.resolve(self.preset, self.settings)


class BenchRequest(Frozen, strict=False):
    """What to measure and how; numbers may be the words of a command line.

    Attributes:
        methods: in the order of the table.
        backbone: a row of the backbone table, or any architecture of timm, which then has random weights.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `fp32`, or `bf16` for autocast.
        compiled: the trunk of the network goes through `torch.compile`, for the source and for every method.
        threads: threads of the CPU; None is 1 on the CPU and PyTorch's own choice beside a GPU. With one thread the
            CPU time of the process, which other jobs on the machine inflate little, is the time that the work takes.
        repeats: timed steps of each method.
        warmup: untimed steps of each method before the first timed one.
        image_size: height and width of the images in pixels; None for the network's own. A network that segments takes
            any.
        seed: seed of random weights, images and methods.
        one_at_a_time: build, measure and free one method after another, where memory does not hold all at once.
        check_cpu: compare a few steps of each method on the GPU with the same steps on the CPU.
    """

    methods: tuple[MethodChoice, ...]
    backbone: str = "vit_tiny_patch16_224"
    batch_size: Count = 16
    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    compiled: bool = False
    threads: int | None = Field(default=None, ge=1, le=4096)
    repeats: Count = 10
    warmup: int = Field(default=2, ge=0)
    image_size: Count | None = None
    seed: Seed = 0
    one_at_a_time: bool = False
    check_cpu: bool = False


def task_of(backbone: str) -> Task:
    """What a backbone of a request predicts."""
    return BACKBONES[backbone].task if backbone in BACKBONES else "classification"


def read_choices(
    given: Iterable[str], overrides: Sequence[str] = (), task: Task = "classification"
) -> tuple[MethodChoice, ...]:
    """Reads `name`, `name:preset` and lists of them with commas; no word at all is every method, cheapest first.

    Args:
        given: the words; the same choice twice is one choice.
        overrides: `method.setting=value`, for every choice of that method.
        task: what they predict.

    Raises:
        InputError: for a method, preset or setting that does not exist, or a value that is not allowed.
    """
    words = [word.strip() for text in given for word in text.split(",")]
    named = bool(words)
    known = methods(task)
    words = words or sorted(known, key=lambda name: known[name].relative_cost)
    settings = _read_overrides(overrides)
    choices = []
    for word in dict.fromkeys(words):
        name, colon, preset = word.partition(":")
        method_spec(name, task)
        own = settings.get(name, {})
        preset = preset if colon else "recommended"
        choice = MethodChoice(name=name, preset=preset, settings=own, named=named, task=task)
        choice.resolve()
        choices.append(choice)
    unused = sorted(set(settings) - {choice.name for choice in choices})
    if unused:
        raise unknown_name("method to set something of", unused[0], {choice.name for choice in choices})
    return tuple(choices)


def _read_overrides(overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    settings: dict[str, dict[str, Any]] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        name, dot, setting = key.partition(".")
        if not (name and dot and setting and equals):
            raise InputError(f"--set {text!r} is not allowed: give method.setting=value, such as tent.lr=0.001")
        settings.setdefault(name, {})[setting] = parse_yaml(value, where=f"--set {text!r}")
    return settings
