"""Diagnostics in numbers: routing, shift detection, agreement between domains, forgetting, single domains."""

from __future__ import annotations

from collections.abc import Mapping

from analysis.diagnosis.measurements import Measurements
from analysis.figures.table import Table
from analysis.texts import NOT_AVAILABLE, cosine, count, number, points, spaced
from analysis.vocabulary import Quantity

MOST_COLUMNS = 6
"""So many configurations stand side by side in a table of domains."""
LARGEST_CHANGES = 5
"""So many of the most increased and of the most decreased spectral experts are listed."""

PUBLISHED_AGREEMENT: Mapping[str, float] = {"tent": 0.69, "sar": 0.64, "eata": 0.66, "deyo": 0.71}
"""Mean cosine between domains as published for ViT-B/16 on ImageNet-C (MoETTA poster, AAAI 2026; moetta §6.2)."""

_PUBLISHED_NOTE = (
    "Published: mean over pairs, from the poster of MoETTA (AAAI 2026). It used ViT-B/16 on ImageNet-C and started "
    "each domain from the source. Network, images and settings are others, so these values are not comparable to "
    "results on the embedded benchmark."
)


def routing_table(measured: Measurements) -> Table:
    """Mutual information, use of experts and collapse of each configuration that routes."""
    found = measured.query(
        f"""
        with each_layer as (
            select number, layer,
                avg(value) filter (where quantity = '{Quantity.ROUTING_INFORMATION}') as information,
                avg(value) filter (where quantity = '{Quantity.ROUTING_ENTROPY}') as entropy,
                max(value) filter (where quantity = '{Quantity.ROUTING_COLLAPSE}') > 0 as collapsed
            from measured where last group by all
        )
        select number, count(*), avg(information), max(information), arg_max(layer, information), avg(entropy),
            min(entropy), arg_min(layer, entropy), count(*) filter (where collapsed)
        from each_layer where information is not null or entropy is not null group by number order by number
        """
    )
    rows = tuple(
        (
            measured.label(each),
            number(information),
            f"{number(most)} ({most_layer})" if most is not None else NOT_AVAILABLE,
            number(entropy),
            f"{number(least)} ({least_layer})" if least is not None else NOT_AVAILABLE,
            f"{collapsed} of {layers}",
        )
        for each, layers, information, most, most_layer, entropy, least, least_layer, collapsed in found
    )
    return Table(
        headers=(
            "Configuration",
            Quantity.ROUTING_INFORMATION.header,
            "Largest (layer)",
            Quantity.ROUTING_ENTROPY.header,
            "Smallest (layer)",
            "Collapsed layers",
        ),
        rows=rows,
        numeric=(False, True, False, True, False, True),
        kinds=tuple("" if row[-1].startswith("0 ") else "alarm" for row in rows),
        notes=(
            "Mutual information of domain and expert: 0 if routing ignores the domain, at most the logarithm of the "
            "number of domains or of experts. Entropy of use: share of the largest possible, 1 if all experts are used "
            "equally. Means over seeds; a layer has collapsed if it has with any seed.",
        ),
    )


def detection_table(measured: Measurements) -> Table:
    """Precision, recall and F1 of shift detection by tolerance."""
    found = measured.query(
        f"""
        select number, item, avg(value) filter (where quantity = '{Quantity.SHIFT_PRECISION}'),
            avg(value) filter (where quantity = '{Quantity.SHIFT_RECALL}'),
            avg(value) filter (where quantity = '{Quantity.SHIFT_F1}')
        from measured where quantity in (select unnest($scores)) group by all order by all
        """,
        scores=[Quantity.SHIFT_PRECISION, Quantity.SHIFT_RECALL, Quantity.SHIFT_F1],
    )
    tails = measured.at_end(Quantity.SHIFT_TAILS)
    rows = tuple(
        (
            measured.label(each),
            str(tolerance),
            *(NOT_AVAILABLE if value is None else f"{value:.2f}" for value in values),
            count(tails.get(each)),
        )
        for each, tolerance, *values in found
    )
    return Table(
        headers=("Configuration", "Tolerance, batches", "Precision", "Recall", "F1", "Set off by a short last batch"),
        rows=rows,
        numeric=(False, True, True, True, True, True),
        kinds=("",) * len(rows),
        notes=("Means over seeds. A short last batch of a domain has noisy statistics, which may look like a shift.",),
    )


def agreement_table(measured: Measurements) -> Table:
    """Mean and least cosine between the displacements of two domains, beside published values."""
    means = measured.at_end(Quantity.DISPLACEMENT_MEAN, layers=False)
    least = measured.at_end(Quantity.DISPLACEMENT_MIN, layers=False)
    members = measured.section.configurations
    rows = tuple(
        (
            measured.label(each),
            cosine(means.get(each)),
            cosine(least.get(each)),
            cosine(PUBLISHED_AGREEMENT.get(members[each].method)),
        )
        for each in sorted({*means, *least})
    )
    return Table(
        headers=("Configuration", "Mean over pairs", Quantity.DISPLACEMENT_MIN.header, "Published, other setting"),
        rows=rows,
        numeric=(False, True, True, True),
        kinds=("",) * len(rows),
        notes=(_PUBLISHED_NOTE,),
    )


def forgetting_table(measured: Measurements) -> Table:
    """Backward transfer and loss on clean images."""
    transfer, drop = measured.at_end(Quantity.BACKWARD_TRANSFER), measured.at_end(Quantity.CLEAN_DROP)
    rows = tuple(
        (
            measured.label(each),
            points(transfer[each]) if each in transfer else NOT_AVAILABLE,
            points(drop[each]) if each in drop else NOT_AVAILABLE,
        )
        for each in sorted({*transfer, *drop})
    )
    return Table(
        headers=("Configuration", f"{Quantity.BACKWARD_TRANSFER.header}, points", "Clean images, points"),
        rows=rows,
        numeric=(False, True, True),
        kinds=("",) * len(rows),
        notes=(
            "Backward transfer: accuracy on each domain at the end of the stream minus that right after the domain, "
            "mean over all domains but the last; negative: forgotten. Clean images: accuracy at the end minus that of "
            "the source network. Frozen, means over seeds.",
        ),
    )


def changed_codes_table(measured: Measurements) -> Table:
    """The spectral experts that changed most, of the best configuration that has them."""
    numbers = measured.numbers(Quantity.CODE_CHANGE)[:1]
    found = measured.query(
        f"""
        with each_expert as (
            select layer, item, avg(value) as change, count(distinct seed) as seeds from measured
            where quantity = '{Quantity.CODE_CHANGE}' and number in (select unnest($numbers)) group by all
        ), ranked as (
            select *, row_number() over (order by change desc, layer, item) as up,
                row_number() over (order by change, layer, item) as down
            from each_expert
        )
        select layer, item, change, seeds from ranked
        where (up <= $most and change > 0) or (down <= $most and change < 0) order by change desc, layer, item
        """,
        numbers=numbers,
        most=LARGEST_CHANGES,
    )
    rows = tuple(
        (layer, str(item), ("+" if change > 0 else "") + number(change), str(seeds))
        for layer, item, change, seeds in found
    )
    label = measured.label(numbers[0]) if numbers else ""
    return Table(
        headers=("Layer", "Spectral expert", "Change of its singular value", "Seeds"),
        rows=rows,
        numeric=(False, True, True, True),
        kinds=("",) * len(rows),
        notes=(
            f"The most increased and the most decreased spectral experts of {label} at the end of the stream; expert 0 "
            "has the largest singular value. Seeds: how many of them have it among the most changed of its layer. The "
            "mean is over these seeds.",
        ),
    )


def domain_table(measured: Measurements, quantity: Quantity) -> Table:
    """A quantity of single domains or of pairs: one row a domain or pair, one column a configuration."""
    found = measured.query(
        """
        select number, domain, against, avg(value) from measured where quantity = $quantity and last
        group by all
        """,
        quantity=quantity,
    )
    numbers = sorted({each for each, *_ in found})[:MOST_COLUMNS]
    values = {(each, domain, against): value for each, domain, against, value in found}
    domains = measured.ordered("domain", (domain for _, domain, _, _ in found))
    places = sorted(
        {(domain, against) for _, domain, against, _ in found}, key=lambda pair: (domains.index(pair[0]), pair)
    )
    rows = tuple(
        (
            _place(domain, against),
            *(number(values[key]) if (key := (each, domain, against)) in values else NOT_AVAILABLE for each in numbers),
        )
        for domain, against in places
    )
    return Table(
        headers=("Domain", *(measured.label(each) for each in numbers)),
        rows=rows,
        numeric=(False, *(True for _ in numbers)),
        kinds=("",) * len(rows),
        notes=(),
    )


def _place(domain: str, against: str) -> str:
    name = spaced(domain) or "all domains"
    return f"{name} to {spaced(against)}" if against else name
