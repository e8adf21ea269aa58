"""Makes the studies of a sweep with `search:`: which there are, and what they try first. Imports no optuna."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from grid.plan.objectives import OBJECTIVES, check_pixels
from grid.plan.search import Search
from grid.plan.search_fit import check_first, check_seeds, check_select, check_trials, given_spaces, study_keys
from grid.plan.space import PRESET, Dimension, read_dimensions
from grid.plan.studies import DEFAULT, Settings, StudyPlan
from grid.plan.sweep import Sweep
from grid.plan.warm_start import KnownSettings, known_settings
from tta_core.errors import InputError
from tta_core.methods.spec import HELD_OUT_IMAGES
from tta_core.run.config import RunConfig

SHORT = 0.9
"""Below this share of the reported length a setting that collapses late cannot be seen."""


def plan_studies(sweep: Sweep, cells: Iterable[RunConfig]) -> tuple[StudyPlan, ...]:
    """The studies of a sweep; none if it has no `search:`.

    Args:
        sweep: the sweep.
        cells: its cells.

    Raises:
        InputError: for anything in `search:` that does not fit the sweep, its methods or their settings.
    """
    search = sweep.search
    if search is None:
        return ()
    where = f"sweep {sweep.sweep!r}: search"
    configs = list(cells)
    methods = list(dict.fromkeys(config.method for config in configs))
    given = given_spaces(search, methods, sweep, where=where)
    check_select(search, where=where)
    if any(config.task == "segmentation" for config in configs):
        check_pixels(search.measures, where=where)
    check_trials(search, given, where=where)
    check_first(search, methods, where=where)
    check_seeds(search, sweep, where=where)
    per = study_keys(search, sweep, where=where)
    studies = list[StudyPlan]()
    for values, points in _groups(configs, per).items():
        method = points[0].method
        if given.get(method):
            studies.append(_study(sweep, search, dict(zip(per, values, strict=True)), points, given[method], where))
    return tuple(studies)


def _study(
    sweep: Sweep,
    search: Search,
    per: Mapping[str, Any],
    configs: Sequence[RunConfig],
    given: Mapping[str, Any],
    where: str,
) -> StudyPlan:
    points = list({config.model_copy(update={"seed": 0}).cell_id(): config for config in configs}.values())
    points = [config.model_copy(update={"seed": 0}) for config in points]
    spec, fixed, notes = points[0].method_spec, points[0].settings, list[str]()
    space = read_dimensions(given, spec, fixed, where=f"{where}: space")
    if search.sampler_name == "grid":
        for each in space:
            if each.grid() is None or each.when:
                raise InputError(
                    f"{where}: space: {spec.name}.{each.name}: the sampler grid tries all values, and here is "
                    f"{each.text()}: give a list, or a step, without when; or another sampler"
                )
    first, space = _first(search, spec.name, points[0], space, notes, where)
    choosing = [_choosing(config, search, where) for config in points]
    rungs = [tuple(_shorter(config, samples, where) for config in choosing) for samples in search.ladder]
    made = StudyPlan(
        sweep=sweep.sweep,
        search=search,
        method=spec.name,
        per=per,
        points=tuple(points),
        choosing=tuple(choosing),
        seeds=tuple(dict.fromkeys(config.seed for config in configs)),
        space=space,
        first=first,
        rungs=tuple(rungs),
        notes=tuple(notes),
    )
    try:
        _ = made.all_references
    except InputError as error:
        raise InputError(
            f"{where}: the source cells that settings are compared with are not allowed: {error}"
        ) from None
    known = known_settings(search.warm_start, made, where=where) if search.warm_start else ()
    made = _with_known(made, known)
    if len(made.first) >= made.trials:
        notes.append(
            f"{len(made.first)} settings come first, so the sampler has nothing to do: raise trials, or give first: "
            "none"
        )
    if made.length_ratio < SHORT:
        notes.append("the choosing stream is shorter than the reported one: a setting that collapses late is not seen")
    if not search.oracle and any(HELD_OUT_IMAGES in config.needs() for config in choosing):
        notes.append(f"{spec.name} is itself prepared from held-out corruptions: it is chosen on what it has seen")
    return replace(made, notes=tuple(notes))


def _with_known(plan: StudyPlan, known: Sequence[KnownSettings]) -> StudyPlan:
    """The plan with settings of other results tried first, each once; these do not count as its trials."""
    first = {f"warm {number} ({each.folder.name})": dict(each.settings) for number, each in enumerate(known)}
    own = {origin: settings for origin, settings in plan.first.items() if settings not in first.values()}
    warm: dict[str, tuple[str, ...]] = {}
    for each in known:
        warm[str(each.folder)] = (*warm.get(str(each.folder), ()), *each.cells)
    # Of those that would have been tried anyway the trials that are asked for have fewer left.
    return replace(plan, first={**first, **own}, warm=warm, known=len(known) - (len(plan.first) - len(own)))


def _shorter(config: RunConfig, samples: int, where: str) -> RunConfig:
    """A choosing cell on a rung of a ladder."""
    if samples >= config.samples_per_domain:
        raise InputError(
            f"{where}: ladder: {samples} samples per domain are no fewer than the {config.samples_per_domain} of the "
            "choosing stream: give fewer"
        )
    return RunConfig.from_values(config.model_dump() | {"samples_per_domain": samples})


def _choosing(config: RunConfig, search: Search, where: str) -> RunConfig:
    """The cell that chooses in place of a reported one."""
    honest = {} if search.oracle else {"domains": "held-out", "samples_per_domain": "match"}
    select = honest | search.select
    match = select.get("samples_per_domain") == "match"
    values = config.model_dump() | {name: value for name, value in select.items() if value != "match"}
    if any(OBJECTIVES[name].reads == "outputs" for name in search.measures):
        values["diagnostics"] = sorted({*config.diagnostics, "outputs"})
    if match or (search.oracle and "domains" in search.select and "samples_per_domain" not in search.select):
        values.pop("samples_per_domain")
    try:
        found = RunConfig.from_values(values)
        longest = found.num_samples
    except InputError as error:
        what = str(error).rstrip(".")
        raise InputError(f"{where}: the cells that choose are not allowed: {what}. Change `select`") from None
    if not search.oracle and (shared := set(found.domains) & set(config.domains)):
        raise InputError(
            f"{where}: select has domains that are also reported: {', '.join(sorted(shared))}. A setting chosen there "
            "is chosen with the labels that it is judged by: give others, such as held-out, or oracle: true"
        )
    if not match or longest <= config.num_samples:
        return found
    low, high = 1, found.samples_per_domain
    while low < high:
        middle = (low + high) // 2
        enough = found.model_copy(update={"samples_per_domain": middle}).num_samples >= config.num_samples
        low, high = (low, middle) if enough else (middle + 1, high)
    return found.model_copy(update={"samples_per_domain": low})


def _first(
    search: Search, method: str, point: RunConfig, space: tuple[Dimension, ...], notes: list[str], where: str
) -> tuple[dict[str, Settings], tuple[Dimension, ...]]:
    """Settings that are tried first, each once, and the ranges with what these add to them."""
    if search.first == "none":
        return {}, space
    spec, dimensions = point.method_spec, dict[str, Dimension]()
    dimensions |= {each.name: each for each in space}
    candidates = dict[str, Mapping[str, Any]]()
    sweeps_own = point.settings | {PRESET: point.preset}
    if search.first == "presets":
        candidates[DEFAULT] = sweeps_own
        for preset in spec.preset_names():
            own = spec.resolve(preset, {}).model_dump(mode="json") | {PRESET: preset}
            candidates[f"preset {preset}"] = sweeps_own | {name: own[name] for name in dimensions}
    else:
        for number, entry in enumerate(search.first):
            own = {key.partition(".")[2]: value for key, value in entry.items() if key.startswith(f"{method}.")}
            for name in own:
                if name not in dimensions:
                    raise InputError(f"{where}: first: {method}.{name} is not in the space: put it in, or leave it out")
            if own:
                candidates[f"given {number}"] = sweeps_own | own
    found = dict[str, Settings]()
    for origin, settings in candidates.items():
        wider = _containing(dimensions, settings)
        if wider is None:
            if search.first != "presets":
                name = next(name for name, each in dimensions.items() if not _containing({name: each}, settings))
                raise InputError(
                    f"{where}: first: entry {origin.split()[-1]} has {method}.{name} = {settings[name]!r}, which is "
                    "not in its range: change one of the two"
                )
            notes.append(f"{origin} is left out: it has values that are not in the space")
            continue
        for name, each in wider.items():
            if each != dimensions[name]:
                notes.append(f"the range of {name} is extended to {settings[name]:g}, for {origin}")
        dimensions = wider
        values: Settings = {}
        for each in dimensions.values():
            if each.holds({**point.settings, **values}):
                values[each.name] = settings[each.name]
        if values not in found.values():
            found[origin] = values
    return found, tuple(dimensions.values())


def _containing(dimensions: Mapping[str, Dimension], settings: Mapping[str, Any]) -> dict[str, Dimension] | None:
    """The ranges, extended so that they contain settings; None if they cannot be."""
    found = {}
    for name, each in dimensions.items():
        wider = each if each.contains(settings[name]) or not each.holds(settings) else each.extended(settings[name])
        if wider is None:
            return None
        found[name] = wider
    return found


def _groups(configs: Sequence[RunConfig], per: Sequence[str]) -> dict[tuple[Any, ...], list[RunConfig]]:
    groups: dict[tuple[Any, ...], list[RunConfig]] = {}
    for config in configs:
        groups.setdefault(tuple(_plain(_axis_value(config, key)) for key in per), []).append(config)
    return groups


def _axis_value(config: RunConfig, key: str) -> Any:
    method, dot, setting = key.partition(".")
    if dot:
        return config.settings[setting] if method == config.method else None
    return config.weights_tag() if key == "weights" else getattr(config, key)


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
