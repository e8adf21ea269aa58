"""Whether a method computes on an accelerator what it computes on the CPU, and how often it waits there."""

from __future__ import annotations

from dataclasses import replace

import torch

from tta_core.bench.request import MethodChoice
from tta_core.bench.subject import Subject
from tta_core.device import counted_waits

STEPS = 3
LARGEST_BATCH = 8
"""Enough to see a wrong sum; more would keep the CPU busy for long."""


def differences_to_cpu(subject: Subject, choice: MethodChoice, seed: int) -> list[float]:
    """Largest absolute difference of a logit between steps on the subject's device and on the CPU, step by step.

    Both start from the same state, without autocast, without TF32 in convolutions and uncompiled. Methods that decide
    by thresholds amplify rounding: a sample that falls on the other side of one shows as a jump.
    """
    small = replace(
        subject,
        batches=[images[:LARGEST_BATCH] for images in subject.batches[:STEPS]],
        source_images=[images[:LARGEST_BATCH] for images in subject.source_images],
    )
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        here, there = small.build(choice, seed), small.build(choice, seed, torch.device("cpu"))
        differences = [(here(images).cpu() - there(images.cpu())).abs().max() for images in small.batches]
    return torch.stack(differences).tolist()


def waits_of_steps(subject: Subject, choice: MethodChoice, seed: int) -> list[int]:
    """How often the host waits for the subject's device in a step, step by step."""
    method = subject.build(choice, seed)
    counts = []
    for images in subject.batches[:STEPS]:
        with counted_waits(images.device) as found:
            method(images)
        counts.append(len(found))
    return counts
