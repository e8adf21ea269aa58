"""The sweep file: what a user writes in YAML, read and checked. Imports no torch, ray, mlflow or optuna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, field_validator, model_validator

from grid.plan.exclude import cannot_match
from grid.plan.search import Search
from tta_core.errors import InputError, closest_match, first_names, unknown_name
from tta_core.frozen import Count, Frozen, Seed, validated
from tta_core.methods.registry import methods
from tta_core.run.config import RunConfig
from tta_core.yaml_values import parse_yaml

CELL_FIELDS = tuple(name for name in RunConfig.model_fields if name not in ("settings", "seed"))
"""Keys of a cell that a sweep may set, beside `method.setting`; seeds have a list of their own."""

Section = TypeVar("Section", dict[str, Any], list[Any])

Axes = dict[str, list[Any]]
AxisGroups = Annotated[list[Axes], BeforeValidator(lambda given: [given] if isinstance(given, Mapping) else given)]
"""Groups of axes that step together; one group may stand without its list."""


SMALLEST_SHARE = 0.001
"""Ray counts in ten-thousandths."""

DEVICE = r"^(auto|cpu|(cuda|xpu|mps|npu|hpu|privateuseone)(:[0-9]{1,3})?)$"
"""Names that torch has for devices which compute."""

MOST_CORES = 10_000


class Resources(Frozen):
    """Where a cell runs; nothing here changes a result's meaning.

    Attributes:
        cpu: CPU cores of one trial.
        gpu: GPUs of one trial; a fraction lets trials share one.
        auto: whether each cell gets such a share of a GPU as its memory needs, see `grid.plan.memory`; where the driver
            starts Ray on a machine without a GPU, none. `resources: auto` says this alone.
        gpu_memory: GiB of one GPU, of `auto`.
        device: device of the network; `auto` takes a GPU if the trial has one.
        max_concurrent: trials at once; by default as many as fit.
        max_retries: how often a trial that died (not one that failed) is tried again.
        checkpoint_every: batches after which a trial saves itself, so that a killed one goes on from there; 0 for
            never: then it starts anew.
        corrupt_images: what happens to an image of the stream that cannot be decoded: `error` fails the cell, `skip`
            leaves the image out, names it, and counts it in `skipped_images` of the cell.
    """

    cpu: float = Field(default=1, ge=SMALLEST_SHARE, le=MOST_CORES)
    gpu: float = Field(default=0, ge=0, le=MOST_CORES)
    auto: bool = False
    gpu_memory: float = Field(default=24, gt=0, le=4096)
    device: str = Field(default="auto", pattern=DEVICE)
    max_concurrent: Count | None = None
    max_retries: int = Field(default=2, ge=0, le=1000)
    checkpoint_every: int = Field(default=0, ge=0, le=2**31 - 1)
    corrupt_images: Literal["error", "skip"] = "error"

    @field_validator("gpu")
    @classmethod
    def _as_ray_counts(cls, gpu: float) -> float:
        if 0 < gpu < SMALLEST_SHARE or (gpu > 1 and gpu != int(gpu)):
            raise ValueError(f"give a whole number of GPUs, or a share from {SMALLEST_SHARE} to 1 of one")
        return gpu

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.auto and self.gpu:
            raise ValueError(f"auto chooses the share of a GPU, and gpu = {self.gpu:g} says it: leave one out")
        return self


class Tracking(Frozen):
    """MLflow.

    Attributes:
        enabled: whether cells are logged at all.
        uri: tracking store; by default an sqlite file in the results folder.
        experiment: experiment; by default the sweep's name.
    """

    enabled: bool = True
    uri: str | None = Field(default=None, min_length=1)
    experiment: str | None = Field(default=None, min_length=1)


class Protocol(Frozen):
    """Where and how long a sweep is measured: what one of its protocols adds to the file.

    Attributes:
        base: values that all cells share; they replace those of the file.
        grid: axes; they replace those of the file with the same key.
        zip: further groups of axes that step together.
        variants: further points of which each cell takes one; they replace those of the file.
        exclude: further cells to leave out.
        seeds: seeds in place of those of the file.
        resources: entries that replace those of the file.
    """

    base: dict[str, Any] = Field(default_factory=dict)
    grid: Axes = Field(default_factory=dict)
    zip: AxisGroups = Field(default_factory=list)
    variants: list[dict[str, Any]] = Field(default_factory=list)
    exclude: list[dict[str, Any]] = Field(default_factory=list)
    seeds: list[Seed] = Field(default_factory=list)
    resources: dict[str, Any] = Field(default_factory=dict)


class Sweep(Frozen):
    """An ordered set of cells, as written in YAML.

    Attributes:
        sweep: the sweep's name: letters, digits, dot, underscore and hyphen; it names a folder.
        description: for people.
        base: values that all cells share.
        grid: axes that multiply; an axis `method.setting` multiplies only that method's cells.
        zip: groups of axes that step together, each group one axis of the product.
        variants: points of which each cell takes one, each written out: an axis of combinations, such as an ablation.
        exclude: cells that match all values of an entry are left out; a list of values matches any of them.
        protocol: which of `protocols` is used.
        protocols: named additions to this file, of which one is used: where the same questions are asked.
        seeds: seeds of stream order and method; each multiplies all cells.
        resources: where cells run.
        search: how settings are chosen; None to run the settings as they are.
        tracking: MLflow.
    """

    sweep: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    description: str = ""
    base: dict[str, Any] = Field(default_factory=dict)
    grid: Axes = Field(default_factory=dict)
    zip: AxisGroups = Field(default_factory=list)
    variants: list[dict[str, Any]] = Field(default_factory=list)
    exclude: list[dict[str, Any]] = Field(default_factory=list)
    protocol: str | None = None
    protocols: dict[str, Protocol] = Field(default_factory=dict)
    seeds: list[Seed] = Field(default=[0], min_length=1)
    resources: Resources = Resources()
    search: Search | None = None
    tracking: Tracking = Tracking()


def find_sweep(name: str) -> Path:
    """Returns the file of a sweep, given its path or the name of a sweep that ships with the package.

    Raises:
        InputError: if there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = {item.name.removesuffix(".yaml"): item for item in _shipped_sweeps()}
    if name in shipped:
        return shipped[name]
    if path.is_dir():
        raise InputError(f"sweep {name!r} is a folder: give the YAML file in it")
    match = closest_match(name, shipped)
    hint = f" Did you mean the shipped sweep {match!r}?" if match else ""
    raise InputError(
        f"no sweep file {name!r}.{hint} Give the path of a YAML file, or one of the shipped sweeps: "
        f"{', '.join(sorted(shipped))}"
    )


def shipped_sweeps() -> list[dict[str, Any]]:
    """The sweeps that ship with the package: name, description and protocols, the default protocol first."""
    rows = []
    for path in _shipped_sweeps():
        values = parse_yaml(_read_text(path), where=str(path))
        default = values.get("protocol")
        others = sorted(set(values.get("protocols", {})) - {default})
        protocols = [default, *others] if default else others
        rows.append({"name": values["sweep"], "description": values["description"], "protocols": protocols})
    return rows


def _shipped_sweeps() -> list[Path]:
    folder = Path(str(resources.files("grid").joinpath("sweeps")))
    return sorted(folder.glob("*.yaml"))


def read_sweep(name: str, overrides: Sequence[str] = ()) -> Sweep:
    """Reads a sweep file and applies `key=value` overrides.

    Args:
        name: path of a YAML file, or name of a shipped sweep.
        overrides: texts as given to `--set`, see `apply_override`.

    Raises:
        InputError: for a missing or malformed file, unknown keys (with the closest match) and values not allowed.
    """
    path = find_sweep(name)
    values = parse_yaml(_read_text(path), where=str(path))
    if not isinstance(values, dict):
        raise InputError(f"{path}: a sweep is a mapping with keys such as sweep, base, grid, seeds; this is not one")
    choosing = [override for override in overrides if override.partition("=")[0].strip() == "protocol"]
    for override in choosing:
        values = apply_override(values, override)
    values = with_protocol(values, chosen=bool(choosing), where=str(path))
    for override in overrides:
        if override not in choosing:
            values = apply_override(values, override)
    return checked_sweep(values, where=str(path))


def checked_sweep(values: Mapping[str, Any], *, where: str) -> Sweep:
    """Builds a sweep from plain values.

    Args:
        values: as read from YAML, with no protocol left to be chosen.
        where: what they belong to, to start the message with.

    Raises:
        InputError: for unknown keys (with the closest match) and values not allowed.
    """
    values = {field: _spelt_out(field, value) for field, value in values.items()}
    for field, model in (("resources", Resources), ("search", Search), ("tracking", Tracking)):
        if isinstance(values.get(field), dict):
            values[field] = validated(model, values[field], where=f"{where}: {field}")
    sweep = validated(Sweep, values, where=where)
    _check_keys(sweep, where=where)
    return sweep


def with_protocol(values: dict[str, Any], *, chosen: bool, where: str) -> dict[str, Any]:
    """Returns the plain values of a sweep with those of its protocol put in.

    A protocol that the command line chose adds its name to the sweep's, so that its results get their own folder.

    Raises:
        InputError: if the protocol is unknown or its entries are not allowed.
    """
    protocols, name = _section(values, "protocols", {}, where), values.get("protocol")
    if name is None and not protocols:
        return values
    if not isinstance(name, str) or name not in protocols:
        raise unknown_name("protocol", name, protocols, f"({where}: protocol names an entry of protocols)")
    protocol = validated(
        Protocol, _section(protocols, name, {}, f"{where}: protocols"), where=f"{where}: protocols: {name}"
    )
    merged = {key: value for key, value in values.items() if key not in ("protocol", "protocols")}
    for field in ("base", "grid", "resources"):
        merged[field] = _section(values, field, {}, where) | getattr(protocol, field)
    groups = values.get("zip")
    merged["zip"] = [*([groups] if isinstance(groups, dict) else _section(values, "zip", [], where)), *protocol.zip]
    merged["exclude"] = [*_section(values, "exclude", [], where), *protocol.exclude]
    for field in ("variants", "seeds"):
        if getattr(protocol, field):
            merged[field] = getattr(protocol, field)
    if chosen:
        merged["sweep"] = f"{values.get('sweep')}-{name}"
    return merged


def _spelt_out(field: str, value: Any) -> Any:
    """`resources: auto` as a mapping."""
    return {"auto": True} if field == "resources" and value == "auto" else value


def _section(values: Mapping[str, Any], name: str, empty: Section, where: str) -> Section:
    """A part of a sweep file, which must be of the type of `empty`."""
    found = _spelt_out(name, values.get(name, empty))
    if not isinstance(found, type(empty)):
        kind = "mapping" if isinstance(empty, dict) else "list"
        raise InputError(f"{where}: {name} = {found!r} is not allowed: give a {kind}")
    return found


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the sweep file {path}: {error}. Give a readable YAML file") from None


def apply_override(values: Mapping[str, Any], override: str) -> dict[str, Any]:
    """Returns the plain values of a sweep with one `key=value` put in.

    `seeds=[0,1]`, `resources.cpu=2`, `grid.method=[tent]` set that entry of the file. Any other key is a cell's: one
    value fixes it for all cells (also where the file has an axis), a list makes it an axis.

    Raises:
        InputError: if the text is not `key=value`, or the file has no such place.
    """
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise InputError(f"--set {override!r}: write key=value, such as severity=5 or moetta.lambda_balance=[0.2,1]")
    value = parse_yaml(text, where=f"--set {override!r}")
    first, _, rest = key.partition(".")
    values = _without_excluded(values, "seed" if key == "seeds" else key.removeprefix("grid."), value)
    if first in Sweep.model_fields:
        if not rest:
            return values | {first: value}
        section = _spelt_out(first, values.get(first, {}))
        if not isinstance(section, dict):
            raise InputError(f"--set {override!r}: {first} has no named entries; set the whole of {first} instead")
        return values | {first: section | {rest: value}}
    if first == "weights" and rest:
        base = values.get("base")
        given = base.get("weights") if isinstance(base, dict) else None
        key, value = first, (given if isinstance(given, dict) else {}) | {rest: value}
    for name in ("base", "grid", "zip", "variants"):
        if name in values:
            values[name] = _without_key(values[name], key)
    target = "grid" if isinstance(value, list) and key not in ("domains", "diagnostics") else "base"
    section = values.get(target, {})
    if not isinstance(section, dict):
        raise InputError(f"--set {override!r}: {target} in the sweep file is not a mapping")
    return values | {target: section | {key: value}}


def _without_key(section: Any, key: str) -> Any:
    """A section of a sweep, or a list of them, without the entries of one key."""
    if isinstance(section, list):
        return [_without_key(part, key) for part in section]
    if isinstance(section, dict):
        return {name: value for name, value in section.items() if name != key}
    return section


def _without_excluded(values: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The same without entries of `exclude` that can match nothing any more: they are no mistakes of the file."""
    entries, chosen = values.get("exclude"), value if isinstance(value, list) else [value]
    if not isinstance(entries, list):
        return dict(values)
    kept = [entry for entry in entries if not (isinstance(entry, dict) and cannot_match(entry, key, chosen))]
    return {**values, "exclude": kept}


def _check_keys(sweep: Sweep, *, where: str) -> None:
    sections: list[tuple[str, Mapping[str, Any]]] = [("base", sweep.base), ("grid", sweep.grid)]
    sections += [("zip", group) for group in sweep.zip]
    sections += [("variants", point) for point in sweep.variants]
    sections += [("exclude", entry) for entry in sweep.exclude]
    for name, section in sections:
        for key in section:
            check_cell_key(str(key), where=f"{where}: {name}", extra=("seed",) if name == "exclude" else ())
    for name, axes in [("grid", sweep.grid), *(("zip", group) for group in sweep.zip)]:
        for key, axis in axes.items():
            if not axis:
                raise InputError(f"{where}: {name}: the axis {key!r} is empty; give at least one value")
    axes_of = [key for group in (sweep.grid, *sweep.zip) for key in group]
    if twice := sorted({key for key in axes_of if axes_of.count(key) > 1}):
        raise InputError(f"{where}: {first_names(twice)} is an axis twice, in grid or zip: give each once")
    for group in sweep.zip:
        lengths = {key: len(axis) for key, axis in group.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"{where}: zip: axes that step together need equal lengths, got {lengths}")


def check_cell_key(key: str, *, where: str, extra: Sequence[str] = ()) -> None:
    """Raises `InputError` unless `key` is a field of a cell or a `method.setting`."""
    allowed = (*CELL_FIELDS, *extra)
    if key in allowed:
        return
    if key == "seed":
        raise InputError(f"{where}: 'seed' is set by the list 'seeds' at the top of the file")
    method, dot, setting = key.partition(".")
    if not dot:
        settings = [f"{name}.{field}" for name in methods() for field in _settings(name)]
        match = closest_match(key, [*allowed, *methods()])
        near = [match] if match else [setting for setting in settings if setting.endswith(f".{key}")]
        hints = [setting for setting in settings if setting.startswith(f"{key}.")] or near
        suggestion = f" Did you mean {' or '.join(map(repr, hints))}?" if hints else ""
        raise InputError(
            f"{where}: unknown key {key!r}.{suggestion} Allowed: {', '.join(sorted(allowed))}, "
            "or a method's setting written as method.setting"
        )
    if method not in methods():
        raise unknown_name(f"method in the key {key!r}", method, methods(), f"({where})")
    fields = _settings(method)
    if setting not in fields:
        raise unknown_name(f"setting of {method}", setting, fields, f"({where})")


def _settings(method: str) -> dict[str, None]:
    """Names of the settings of a method in any task; a cell refuses those of another than its own."""
    specs = (methods().get(method), methods("segmentation").get(method))
    return {field: None for spec in specs if spec is not None for field in spec.settings.model_fields}


def scoped_keys(values: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The entries `method.setting` of one method, by setting."""
    return {key.removeprefix(f"{method}."): value for key, value in values.items() if key.startswith(f"{method}.")}
