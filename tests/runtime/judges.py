"""The judge of each argument by its name: which values of it are honest."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.runtime import nasty
from tests.runtime.nasty import (
    array,
    array_or_list,
    count,
    device,
    either,
    flag,
    module,
    modules,
    number,
    one_of,
    optional,
    path,
    program,
    seed,
    shape,
    sizes,
)

ACTIVATIONS = ("tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid")
POSITIVE = number(0)
PARTS = dict.fromkeys(("prior", "posterior", "classifier", "encoder"), optional(module))
LISTS = dict.fromkeys(("transitions", "posteriors", "encoders"), optional(modules))

# The judge of an argument by its name, where a call does not say another one.
JUDGES: dict[str, nasty.Judge] = {
    **dict.fromkeys(
        ("num_particles", "max_plate_nesting", "num_batches", "batch_size", "chunk_size", "num_epochs", "latent_dim",
         "num_codes", "code_dim", "hidden_dim", "num_layers", "num_heads", "num_components", "rank", "num_steps",
         "num_cycles", "num_pseudo_inputs", "num_transforms", "num_blocks", "num_outputs", "num_data_mi", "num_data",
         "in_features", "num_columns", "num_pairs", "num_rows", "levels", "num_reflections", "total_count"),
        count(),
    ),
    **dict.fromkeys(("num_classes", "num_levels", "num_categories", "eval_particles"), count(2)),
    **dict.fromkeys(("num_samples", "context_dim", "step"), count(0)),
    **dict.fromkeys(("lr", "clip_norm", "low", "high", "initial_scale", "df", "nats", "num_dims"), POSITIVE),
    **dict.fromkeys(("free_bits", "capacity_weight", "commitment", "start", "end", "threshold"), number(0)),
    **dict.fromkeys(("beta", "decay", "restart_below", "ramp"), number(0, 1)),
    **dict.fromkeys(("data_shape", "hidden_dims", "channels", "code_shape"), sizes()),
    **dict.fromkeys(("in_shape", "out_shape", "x_shape", "z_shape"), shape),
    **dict.fromkeys(("batch_norm", "progress", "resume", "mean", "shuffle", "drop_last", "dequantize"), flag),
    **dict.fromkeys(("model", "guide"), program),
    **dict.fromkeys(("network", "flow", "program"), module),
    **dict.fromkeys(("x", "data", "x_hat", "z", "images", "values"), array),
    **PARTS,
    **LISTS,
    "coordinates": array_or_list,
    "activation": one_of(*ACTIVATIONS),
    "gradient": one_of("reparam", "stl", "dreg"),
    "kl": one_of("sample", "analytic"),
    "free_bits_per": one_of("site", "unit"),
    "guide_phase": one_of("both", "wake", "sleep"),
    "precision": one_of("highest", "high", "medium", "bf16"),
    # True takes seconds, and may be refused here
    "compile": either(one_of("auto", False), lambda v: nasty._said(False, isinstance(v, (bool, np.bool_)))),
    "binarize": one_of("dynamic", "static", "threshold", None),
    "components": one_of("posterior", "start"),
    "likelihood": either(one_of("bernoulli", "gaussian"), module),
    "seed": optional(seed),
    "device": optional(device),
    "layer": one_of(1),
    "alpha": number(infinite=True),
    "capacity": optional(number(0)),
    "folder": path,
    "checkpoint": optional(path),
    "root": optional(path),
    "patience": optional(count()),
}  # fmt: skip


def meta(v: Any) -> str:
    """A split may be without values."""
    is_one = v.is_meta and v.dim() > 0 if isinstance(v, torch.Tensor) else isinstance(v, (str, torch.device))
    return nasty._said(False, is_one and (isinstance(v, torch.Tensor) or str(v) == "meta"))


def callbacks(v: Any) -> str:
    """A sequence of functions."""
    return nasty._said(False, isinstance(v, (tuple, list)) and all(callable(item) for item in v))
