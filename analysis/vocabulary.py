"""The words in the result files: what both sides of the contract spell. `analysis.schema` has the columns.

`tta_core` writes these words and does not import this package; `analysis` reads them and imports nothing of `tta_core`.
So both spell them, and tests compare the two (`tests/test_vocabulary.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

SOURCE = "source"
"""The method that adapts nothing, to which the others are compared; also the domain of a bank's first entry."""

HELD_OUT = "held-out"
ORACLE = "oracle"
DEFAULT = "default"
"""Rules by which a search chose settings: on other corruptions, on the reported ones, or not at all."""

CLEAN = "clean"
"""The domain of images without corruption."""

PRE_UPDATE = "pre-update"
PERTURBED = "perturbed"
POST_UPDATE = "post-update"

SCORED: Mapping[str, str] = {
    PRE_UPDATE: "the logits computed before the method learned from the batch",
    PERTURBED: "the logits at weights that a sharpness-aware step on the same batch has moved up the gradient",
    POST_UPDATE: "the logits after the update on the same batch: it has already changed what predicts it",
}
"""Which logits are scored -> what these are, for people; in the order in which sections are shown."""

SOURCE_IMAGES = "source images"
LABELLED_SOURCE_IMAGES = "labelled source images"
HELD_OUT_IMAGES = "held-out corruptions"
HELD_OUT_LABELS = "labels of held-out corruptions"

NEEDS = (SOURCE_IMAGES, LABELLED_SOURCE_IMAGES, HELD_OUT_IMAGES, HELD_OUT_LABELS)
"""What a method can need beyond the stream: the column `needs` of `cells` names them."""

SCORED_LOGITS = "scored_logits"
DOMAINS = "domains"
RESET = "reset"
STREAM_ORDER = "stream_order"
PROTOCOL_HEAD = ("benchmark", "stream", "severity")
"""Entries of a protocol that are read by name; that of the order only begins like this."""

NEVER_RESET = "never"
"""The entry `reset` of a protocol whose stream never resets the method."""

EVENTS = ("shift", "stored", "retrieved")
"""Scalars of steps that are events or numbers of entries: their mean over steps means nothing."""

TELLING = ("threshold", "balance_coefficient", "balance_loss", "effective_experts", "shift_distance")
"""Scalars of steps that tell most."""


class Quantity(StrEnum):
    """What is measured beside the outcomes: the column `quantity` of `diagnostics`.

    Attributes:
        unit: of the values, as an axis says it; `1` for plain numbers.
        meaning: what is measured, for people.
        header: how its column of the overview is headed; empty for what is not in the overview.
    """

    unit: str
    meaning: str
    header: str

    def __new__(cls, name: str, unit: str, meaning: str, header: str = "") -> Quantity:
        """A quantity of this name, which is its value."""
        made = str.__new__(cls, name)
        made._value_ = name
        made.unit, made.meaning, made.header = unit, meaning, header
        return made

    EXPERT_USAGE = "expert_usage", "share", "part that each expert had in serving the samples since the last reset"

    SIMILARITY_WEIGHT = "expert_similarity_weight", "mean cosine", "between experts' weights", "Similarity, weights"
    SIMILARITY_BIAS = "expert_similarity_bias", "mean cosine", "between experts' biases", "Similarity, biases"

    ROUTING = "routing", "images", "samples of a domain that each expert served"
    ROUTING_INFORMATION = (
        "routing_information",
        "nat",
        "mutual information of domain and expert",
        "Mutual information, nat",
    )
    ROUTING_ENTROPY = "routing_entropy", "share of the largest", "entropy of the use of experts", "Entropy of use"
    ROUTING_COLLAPSE = "routing_collapse", "0 or 1", "whether few experts of a layer serve nearly all samples"
    ROUTING_CHANGE = "routing_change", "share", "samples that the first router would have sent elsewhere"
    LOAD_BALANCE = "load_balance", "1", "load-balancing loss of a batch; 1: balanced", "Load balance"
    TOP1_PROBABILITY = "top1_probability", "1", "largest routing probability"

    CODE_DRIFT = "code_drift", "relative change", "change of a layer's singular values since the source", "Code drift"
    CODE_CHANGE = "code_change", "1", "change of a singular value, of those that changed most"
    CODE_SIMILARITY = "code_similarity", "cosine", "between the changes of the singular values in two domains"

    SHIFT_PRECISION = "shift_precision", "share", "detected shifts that are true, by tolerance in batches"
    SHIFT_RECALL = "shift_recall", "share", "true shifts that are detected, by tolerance in batches"
    SHIFT_F1 = "shift_f1", "share", "harmonic mean of precision and recall", "Shift F1, exact batch"
    SHIFT_TAILS = "shift_tail_triggers", "batches", "shifts detected in a short last batch of a domain"
    BANK_SIZE = "bank_size", "entries", "size of the bank", "Bank size"
    RETRIEVAL = "retrieval", "share", "weight of a bank's entry in what was retrieved, by the domain it was stored in"

    ALIGNMENT = "alignment_std", "standard deviation", "of inputs along the source's singular vectors", "Alignment"
    ALIGNMENT_Q10 = "alignment_std_q10", "standard deviation", "the same, 10 % quantile instead of the mean"
    ALIGNMENT_Q50 = "alignment_std_q50", "standard deviation", "the same, median instead of the mean"
    ALIGNMENT_Q90 = "alignment_std_q90", "standard deviation", "the same, 90 % quantile instead of the mean"
    ALIGNMENT_SOURCE = "alignment_std_source", "standard deviation", "the same in the source", "That of the source"

    HIDDEN_HISTOGRAM = "hidden_histogram", "share", "hidden activations in each bin of sizes; bin 0: exact zeros"
    HIDDEN_ZEROS = "hidden_zero_share", "share", "hidden activations that are exactly 0"
    ROUTER_WEIGHT = "router_weight", "share", "mean weight of each expert in a domain"
    KEPT_ENERGY = "kept_energy", "share", "what selection leaves of an expert's squared activations", "Kept energy %"
    KEPT_ENERGY_ALARM = "kept_energy_alarm", "0 or 1", "whether selection leaves next to nothing of an expert"
    GATE_MEAN = "gate_mean", "share", "mean of an expert's gate"

    JS_DIVERGENCE = "js_divergence", "nat", "Jensen-Shannon divergence of the features of two domains"
    CLASS_SCATTER = "intra_class_scatter", "1", "mean squared distance of features to the centroid of their class"

    DISPLACEMENT_NORM = "displacement_norm", "1", "how far a domain moves the trained parameters"
    DISPLACEMENT_COSINE = "displacement_cosine", "cosine", "between the displacements that two domains cause"
    DISPLACEMENT_MEAN = "displacement_cosine_mean", "cosine", "mean of that over pairs of domains", "Agreement, mean"
    DISPLACEMENT_MIN = "displacement_cosine_min", "cosine", "least of that over pairs of domains", "Least agreeing pair"

    FORGETTING_ACCURACY = "forgetting_accuracy", "[0, 1]", "accuracy of the frozen network on a domain, after another"
    CLEAN_DROP = (
        "forgetting_clean_drop",
        "[0, 1]",
        "frozen accuracy on clean images at the end, minus that of the source",
        "Clean images, to source",
    )
    BACKWARD_TRANSFER = (
        "backward_transfer",
        "[0, 1]",
        "mean change of the frozen accuracy on earlier domains by the end",
        "Backward transfer",
    )
