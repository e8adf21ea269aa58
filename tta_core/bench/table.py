"""What a benchmark found, as a table for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tta_core.backbones.spec import NETWORK_KINDS
from tta_core.bench.result import BenchResult, Row, Setting
from tta_core.bench.subject import PASSING_MARGIN
from tta_core.methods.layer_counts import layers_text
from tta_core.methods.registry import method_spec
from tta_core.text_table import text_table

Column = tuple[str, Callable[[Row], str]]

COLUMNS: tuple[Column, ...] = (
    ("method", lambda row: row.method),
    ("preset", lambda row: row.preset + ("*" if row.settings else "")),
    ("activated", lambda row: _count(row.activated_parameters)),
    ("trainable", lambda row: _count(row.trainable_parameters)),
    ("forwards", lambda row: _percent(row.forward_share)),
    ("in loss", lambda row: _percent(row.backpropagated_share)),
    ("compiled", lambda row: {True: "yes", False: "no", None: ""}[row.compiled]),
    ("breaks", lambda row: str(sum(row.graph_breaks.values())) if row.graph_breaks is not None else ""),
    ("x source", lambda row: _ratio(row.ratio)),
    ("25-75 %", lambda row: f"{_ratio(row.ratio_low)}-{_ratio(row.ratio_high)}" if row.ratio is not None else ""),
    ("x tent", lambda row: _ratio(row.ratio_to_tent)),
    ("published", lambda row: _ratio(row.published_ratio)),
    ("peak MiB", lambda row: _mib(row.peak_memory_mib)),
    ("off CPU by", lambda row: f"{row.cpu_difference:.1e}" if row.cpu_difference is not None else ""),
)
LEFT_ALIGNED = ("method", "preset")


def as_text(result: BenchResult) -> str:
    """The setting, an aligned table, what its columns mean, and the reasons of methods that failed."""
    shown = [column for column in COLUMNS if column[0] == "method" or any(column[1](row) for row in result.rows)]
    parts = [_setting_text(result.setting), _table(shown, result.rows), _legend({name for name, _ in shown}, result)]
    layers = [f"  {row.method}:{row.preset}: {layers_text(row.layers)}" for row in result.rows if row.layers]
    if layers:
        parts.append("\n".join(["layers that are trained or replaced, of those found:", *layers]))
    breaks = [
        f"  {row.method}:{row.preset}: {method_spec(row.method).not_one_graph or 'not declared in its spec'}: "
        + "; ".join(f"{count} x {why}" for why, count in row.graph_breaks.items())
        for row in result.rows
        if row.graph_breaks
    ]
    if breaks:
        parts.append("\n".join(["graphs that break, and why:", *breaks]))
    failures = [f"failed: {row.method}:{row.preset}: {row.error}" for row in result.rows if row.error]
    left_out = [f"left out: {name}, which takes {NETWORK_KINDS[method_spec(name).network]}" for name in result.left_out]
    return "\n\n".join([*parts, "\n".join(left_out + failures)] if left_out + failures else parts)


def _setting_text(setting: Setting) -> str:
    head = "head as it is"
    if setting.head_scale is not None:
        head = f"head x {setting.head_scale:.3g}: half of the images pass {PASSING_MARGIN} ln {setting.num_classes}"
    lines = [
        f"{setting.device}, {setting.threads} CPU thread{'s' if setting.threads > 1 else ''}, torch {setting.torch}, "
        f"{setting.precision}{', compiled' if setting.compiled else ''}",
        f"{setting.backbone}, {setting.parameters / 1e6:.1f} M parameters, {setting.weights}, {head}",
        f"batches of {setting.batch_size} random images of {setting.image_size} x {setting.image_size}, "
        f"{setting.repeats} repeats",
    ]
    if setting.source_ms is not None:
        lines.append(
            f"source forward {setting.source_ms:.4g} ms ({setting.source_ms_low:.4g} to {setting.source_ms_high:.4g}), "
            f"{setting.clock}; {_mib(setting.source_peak_memory_mib)} MiB"
        )
    return "\n".join(lines)


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    names = [name for name, _ in columns]
    cells = [[show(row) for _, show in columns] for row in rows]
    return text_table(names, cells, [name not in LEFT_ALIGNED for name in names])


def _legend(shown: set[str], result: BenchResult) -> str:
    meanings = {
        "activated": "trained parameters that take part in predicting one sample; trainable: all of them",
        "forwards": "images that reach a classifier in a step, of those in the batch",
        "in loss": "images that are back-propagated, of those in the batch; mean of the timed steps",
        "compiled": "no: the step goes around the trunk (the blocks of a transformer), which is what was compiled",
        "breaks": "of the graph that torch.compile makes of the forward of the method's networks, whole",
        "x source": f"{result.setting.clock} in a step over that in the source forwards around it: median, quartiles",
        "x tent": "the same over Tent's in the same round",
        "published": "that of the released code, measured on other hardware; of cotta without views",
        "peak MiB": "tensors held by the method alone (networks, state, way back to the start) and at most by its step",
        "off CPU by": "largest difference of a logit to the same steps on the CPU, in float32",
    }
    lines = [f"{name:<11}{text}" for name, text in meanings.items() if name in shown]
    if any(row.settings for row in result.rows):
        own = [f"{row.method}.{key}={value}" for row in result.rows for key, value in row.settings.items()]
        lines.append(f"{'*':<11}with {', '.join(dict.fromkeys(own))}")
    return "\n".join(lines)


def _count(value: int | None) -> str:
    return f"{value:,}" if value is not None else ""


def _percent(share: float | None) -> str:
    return f"{100 * share:.0f} %" if share is not None else ""


def _ratio(value: float | None) -> str:
    return f"{value:.2f}" if value is not None else ""


def _mib(value: float | None) -> str:
    return (f"{value:,.0f}" if value >= 100 else f"{value:.1f}") if value is not None else ""
