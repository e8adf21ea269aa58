"""Reads a learned optimizer of MGTTA from a file of the user."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tta_core.backbones.weights import VARIABLE
from tta_core.backbones.weights_files import read_weights
from tta_core.errors import InputError
from tta_core.methods.mgtta.learned_optimizer import HIDDEN, MetaParameters, shapes

PREFIX = "mgg."
"""Of the meta parameters' names in an artefact, and in a file with our names."""

PUBLISHED_PREFIX = "seq_modeling_block."

PUBLISHED: Mapping[str, str] = {
    "query": "q_proj.weight",
    "key": "k_proj.weight",
    "value": "v_proj.weight",
    "rate_offset": "learnable_token_idx",
    "rate_weight": "learnable_ttt_lr_weight",
    "rate_bias": "learnable_ttt_lr_bias",
    "start_matrix": "W1",
    "start_bias": "b1",
    "inner_scale": "ttt_norm_weight",
    "inner_bias": "ttt_norm_bias",
    "outer_scale": "post_norm.weight",
    "outer_bias": "post_norm.bias",
    "output": "o_proj.weight",
}
"""Our name -> the published one, after `seq_modeling_block.`. The shapes differ by axes of length 1."""


def read_meta(file: str, sha256: str | None) -> MetaParameters:
    """Reads meta parameters, under their published names or under ours.

    Args:
        file: setting `mgg_file`.
        sha256: checksum that it must have; None if any will do.

    Raises:
        InputError: if there is no such file, or it holds something else.
    """
    path = Path(file).expanduser()
    folder = os.environ.get(VARIABLE)
    if folder and not path.is_absolute():
        path = Path(folder).expanduser() / path
    if not path.is_file():
        raise InputError(
            f"mgg_file = {file!r}: there is no file {path}. Give a whole path, or one that starts at the folder that "
            f"{VARIABLE} names (now {folder or 'not set'}); or leave mgg_file out, to train an optimizer on held-out "
            "corruptions"
        )
    return meta_from(read_weights(path, sha256), str(path))


def meta_from(tensors: Mapping[str, Tensor], where: str) -> MetaParameters:
    """Meta parameters from tensors by name; other tensors are not looked at.

    Args:
        tensors: under the names of an artefact, or under the published ones with any prefix.
        where: where they come from, for the message.

    Raises:
        InputError: if one is missing, or has another shape.
    """
    published = {
        name.rpartition(PUBLISHED_PREFIX)[2]: tensor for name, tensor in tensors.items() if PUBLISHED_PREFIX in name
    }
    names = PUBLISHED if published else {name: PREFIX + name for name in MetaParameters._fields}
    found = published or dict(tensors)
    missing = [name for name in names.values() if name not in found]
    if missing:
        raise InputError(
            f"{where} holds no learned optimizer of MGTTA: {missing[0]!r} is missing"
            + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
            + "; give the checkpoint of one, as published or as trained here"
        )
    output = found[names["output"]]
    wanted = shapes(output.numel() or HIDDEN)
    for name, shape in wanted.items():
        given = tuple(found[names[name]].shape)
        if tuple(size for size in given if size != 1) != tuple(size for size in shape if size != 1):
            raise InputError(
                f"{where}: {names[name]!r} has shape {given}, a learned optimizer with {output.numel()} hidden units "
                f"has {shape}; give the checkpoint of one with a single head"
            )
    return MetaParameters(**{name: found[names[name]].detach().reshape(shape) for name, shape in wanted.items()})
