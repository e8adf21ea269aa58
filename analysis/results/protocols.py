"""Protocols: what makes results comparable, how protocols are told apart, and which of them share their source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import duckdb

from analysis.results.load import ResultsError, rows
from analysis.texts import spaced, value_text
from analysis.vocabulary import DOMAINS, PRE_UPDATE, PROTOCOL_HEAD, SCORED, SCORED_LOGITS, STREAM_ORDER

_SCORED_WORDS = spaced(SCORED_LOGITS)


def read_protocols(con: duckdb.DuckDBPyConnection) -> dict[str, dict[str, Any]]:
    """Fingerprint -> protocol, for all cells."""
    found = rows(con, "select fingerprint, min(protocol) from cells group by fingerprint order by fingerprint")
    return {fingerprint: mapping(protocol) for fingerprint, protocol in found}


def mapping(text: str) -> dict[str, Any]:
    """The JSON object that a column of `cells` holds.

    Raises:
        ResultsError: if it is none.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ResultsError(
            f"settings or protocol {text[:80]!r} in a cell.parquet is not a JSON object: delete that cell's folder "
            "and run the sweep again"
        )
    return value


def scored_logits(protocol: Mapping[str, Any]) -> str:
    """Which logits are scored under a protocol."""
    return str(protocol.get(SCORED_LOGITS, PRE_UPDATE))


def up_to_scoring(protocol: Mapping[str, Any]) -> str:
    """The protocol as text, but for which logits are scored. Protocols with the same text may share their `source`.

    It adapts nothing, so its logits are the same whenever they are scored.
    """
    return json.dumps({name: value for name, value in protocol.items() if name != SCORED_LOGITS}, sort_keys=True)


def flattened(protocol: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as `outer.inner`, and every value as text."""
    flat: dict[str, str] = {}
    for name, value in protocol.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat[prefix + name] = ", ".join(value_text(each) for each in value)
        else:
            flat[prefix + name] = value_text(value)
    return flat


def domains_of(protocol: Mapping[str, Any]) -> tuple[str, ...]:
    """The domains of the stream, in the order of the protocol."""
    domains = protocol.get(DOMAINS)
    return tuple(str(each) for each in domains) if isinstance(domains, list) else ()


def headings(protocols: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Fingerprint -> a heading that says what differs between the protocols.

    If nothing does, it says benchmark, stream and severity. Which logits are scored comes last. It is left out only if
    all protocols score the logits before the update.
    """
    scored = {fingerprint: scored_logits(each) for fingerprint, each in protocols.items()}
    flat = {fingerprint: flattened(each) for fingerprint, each in protocols.items()}
    names = [name for name in dict.fromkeys(name for each in flat.values() for name in each) if name != SCORED_LOGITS]
    differing = [name for name in names if len({each.get(name) for each in flat.values()}) > 1]
    # The hash of an order says nothing to a reader if the order has a name, and that differs too.
    differing = [name for name in differing if not name.startswith(STREAM_ORDER)] or differing
    several = len(set(scored.values())) > 1
    if not differing and (several or len(flat) == 1):
        differing = [name for name in PROTOCOL_HEAD if name in names]
    made = {}
    for fingerprint, each in flat.items():
        parts = [f"{spaced(name)} {_short(each.get(name, 'not given'))}" for name in differing]
        if several or scored[fingerprint] != PRE_UPDATE:
            parts.append(f"{_SCORED_WORDS} {scored[fingerprint]}")
        made[fingerprint] = ", ".join(parts) or f"protocol {fingerprint}"
    return made


def heading_order(heading: str) -> tuple[str, int]:
    """Sort key. Headings that differ only in what is scored stand together, in the order of `SCORED`."""
    rest, found, scored = heading.rpartition(_SCORED_WORDS)
    known = list(SCORED)
    if not found or scored.strip() not in known:
        return heading, 0
    return rest.removesuffix(", "), known.index(scored.strip())


def _short(value: str) -> str:
    """A list of many names by its length and ends."""
    parts = value.split(", ")
    return value if len(parts) <= 3 else f"{parts[0]} … {parts[-1]} ({len(parts)})"
