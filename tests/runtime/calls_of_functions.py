"""Honest calls of functions, methods and pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pyro_vae
from pyro_vae import evaluation, plots, training
from pyro_vae.data import dequantisation
from pyro_vae.data.split import Split
from pyro_vae.diagnostics import activity, information
from pyro_vae.runtime import precision
from tests.runtime import nasty
from tests.runtime.judges import POSITIVE, callbacks, meta
from tests.runtime.nasty import (
    anything,
    array,
    array_or_list,
    count,
    device,
    either,
    function,
    labels,
    module,
    names,
    number,
    one_of,
    optional,
    seed,
)
from tests.runtime.world import World


def _pair(w: World, **more: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"model": w.vae.model, "guide": w.vae.guide, "x": w.x, **more}


def functions(add: Any, w: World) -> None:
    objective = pyro_vae.ELBO()
    fit = {
        "model": w.vae.model, "guide": w.vae.guide, "data": w.x, "objective": None, "num_epochs": 1, "batch_size": 6,
        "lr": 1e-3, "optimizer": None, "scheduler": None, "clip_norm": None, "valid": None, "patience": None,
        "device": None, "precision": "highest", "compile": False, "seed": 0, "checkpoint": None, "resume": False,
        "callbacks": (), "progress": False,
    }  # fmt: skip
    add("fit", training.fit, fit, model=module, guide=module, objective=optional(lambda v: nasty.NONSENSE),
        optimizer=optional(function), scheduler=optional(function), clip_norm=optional(POSITIVE),
        valid=optional(array), callbacks=callbacks, lr=either(POSITIVE, function))  # fmt: skip
    add("log_likelihood", pyro_vae.log_likelihood, _pair(w, num_particles=2, chunk_size=2, batch_size=6,
        precision="highest", compile=False, seed=0, max_plate_nesting=1, progress=False),
        **dict.fromkeys(("chunk_size", "batch_size"), either(count(), one_of("auto"))))  # fmt: skip
    add("mean_bound", evaluation.mean_bound, _pair(w, objective=objective, batch_size=6, seed=0),
        objective=lambda v: nasty.NONSENSE)  # fmt: skip
    add("log_weights", pyro_vae.log_weights, _pair(w, num_particles=2, max_plate_nesting=1))
    add("diagnose", pyro_vae.diagnose, _pair(w, batch_size=6, num_data_mi=6, seed=0, threshold=0.01,
        max_plate_nesting=1))  # fmt: skip
    add("information", information, _pair(w, num_data=6, batch_size=6, seed=0, max_plate_nesting=1))
    add("active_units", pyro_vae.active_units, {"guide": w.vae.guide, "x": w.x, "threshold": 0.01})
    add("posterior_means", activity.posterior_means, {"guide": w.vae.guide, "x": w.x, "batch_size": 6, "seed": 0},
        seed=seed) if hasattr(activity, "posterior_means") else None  # fmt: skip
    add("refine", pyro_vae.refine, _pair(w, num_steps=1, lr=0.01, num_particles=1, eval_particles=2, seed=0,
        family="own", progress=False), seed=optional(seed), family=one_of("own", "flow"))  # fmt: skip
    add("evaluate", pyro_vae.evaluate, {"model": w.vae.model, "guide": w.vae.guide, "data": w.x, "num_particles": 2,
        "num_iwae_particles": 2, "num_data": 3, "num_refined": 0, "annealed": False, "num_annealed": 1,
        "chunk_size": 2, "seed": 0, "progress": False}, num_data=optional(count(2)), num_iwae_particles=count(2),
        num_refined=count(0), annealed=one_of(True, False, "auto"), num_annealed=count(),
        chunk_size=either(count(), one_of("auto")))  # fmt: skip
    add("compare", pyro_vae.compare, {"first": w.x[:, 0], "second": w.x[:, 1]}, first=array, second=array)
    add("impute", pyro_vae.impute, _pair(w, mask=None, num_particles=2, num_samples=1, chunk_size=2, batch_size=6,
        seed=0), mask=optional(array))  # fmt: skip
    pair = {"model": w.vae.model, "guide": w.vae.guide}
    add("anneal_kl", pyro_vae.anneal_kl, {**pair, "weight": 0.5, "sites": None}, sites=optional(names),
        weight=either(number(0), lambda v: nasty._said(False, array(v) == nasty.EITHER or
                                                       (isinstance(v, torch.Tensor) and v.dim() == 0))))  # fmt: skip
    add("observed_only", pyro_vae.observed_only, pair)
    add("pack", pyro_vae.pack, {"x": w.x, "mask": None}, x=array_or_list, mask=optional(array_or_list))
    add("perplexity", pyro_vae.perplexity, {"program": w.vq, "x": w.images, "batch_size": 6})
    add("save", pyro_vae.save, lambda: {"program": w.vae, "folder": Path(tempfile.mkdtemp(dir=w.folder))})
    add("load", pyro_vae.load, {"folder": w.saved, "program": None}, program=optional(module))
    many = np.arange(40.0).reshape(20, 2) / 40
    add("data.load", pyro_vae.data.load, {
        "name": many, "root": None, "binarize": "auto", "seed": 0, "labels": None, "dequantize": False,
        "key": None, "size": None, "channels": "auto",
    }, name=array, labels=optional(labels), seed=seed, key=one_of(None), size=one_of(None),
        channels=one_of("auto", "first"), binarize=one_of("auto", None, "dynamic", "static", "threshold"))  # fmt: skip
    add("Split", Split, {"values": w.x, "levels": 1, "num_levels": 1, "binarize": None, "labels": None,
        "dequantize": False}, values=either(array, meta), labels=optional(either(array, meta)))  # fmt: skip
    add("Split.batches", lambda **k: list(w.split.batches(**k)), {
        "batch_size": 3, "shuffle": False, "drop_last": False, "dtype": torch.float32,
    }, dtype=one_of(torch.float32, torch.float64))  # fmt: skip
    add("Split.to", w.split.to, {"device": "cpu"}, device=either(device, meta))
    add("tensorboard", training.tensorboard, {"folder": w.folder / "events"}) if _has_tensorboard() else None
    add("precise", lambda **k: precision.precise(**k).__enter__() and None, {"precision": "highest", "device": "cpu"},
        device=either(device, lambda v: nasty._said(False, v == "cuda:7")))  # fmt: skip  # it need not be there
    add("bits_per_dim", dequantisation.bits_per_dim, {"nats": -1.0, "num_dims": 4, "num_levels": 1},
        nats=either(number(infinite=True), nasty.nan), num_levels=count())  # fmt: skip
    add("ELBO.bound", objective.bound, _pair(w))


def _has_tensorboard() -> bool:
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        return False
    return True


def methods(add: Any, w: World) -> None:
    layers = one_of(1, 2)
    packed = w.m2.pack(w.x, w.y)
    sampled = {"num_samples": 2, "layer": None, "mean": False, "batch_size": 4}
    add("VAE.sample", w.vae.sample, sampled, layer=optional(one_of(1)))
    add("VAE.encode", w.vae.encode, {"x": w.x, "layer": 1, "batch_size": 4})
    add("VAE.reconstruct", w.vae.reconstruct, {"x": w.x, "layer": 1, "batch_size": 4})
    add("HVAE.sample", w.hvae.sample, sampled, layer=optional(layers))
    add("HVAE.encode", w.hvae.encode, {"x": w.x, "layer": 1, "batch_size": 4}, layer=layers)
    add("HVAE.reconstruct", w.hvae.reconstruct, {"x": w.x, "layer": 1, "batch_size": 4}, layer=layers)
    add("M2.classify", w.m2.classify, {"x": w.x})
    add("M2.pack", w.m2.pack, {"x": w.x, "y": w.y}, y=labels)
    add("M2.sample", w.m2.sample, {**sampled, "y": None}, layer=optional(one_of(1)), y=optional(labels))
    add("M2.encode", w.m2.encode, {"x": packed, "layer": 1, "batch_size": 4})
    add("ConditionalVAE.reconstruct", w.cvae.reconstruct, {"x": packed, "layer": 1, "batch_size": 4})
    add("VQVAE.codes", w.vq.codes, {"x": w.images})


def pictures(add: Any) -> None:
    images = np.zeros((4, 2, 2))
    records = [{"epoch": 1, "train_bound": -2.0, "valid_bound": -3.0}, {"epoch": 2, "train_bound": -1.0}]
    mapping = lambda v: nasty._said(False, isinstance(v, dict))  # noqa: E731
    sequence = lambda v: nasty._said(False, isinstance(v, (list, tuple)))  # noqa: E731
    add("learning_curve", plots.learning_curve, {"records": records, "entropy_floor": None},
        records=sequence, entropy_floor=optional(number()))  # fmt: skip
    add("reconstructions", plots.reconstructions, {"x": images, "x_hat": images, "num_pairs": 2})
    add("samples", plots.samples, {"x": images, "num_columns": 2})
    add("layers", plots.layers, {"rows": {"z": images}}, rows=mapping)
    add("kl_per_unit", plots.kl_per_unit, {"kl": {"z": np.ones(2)}, "active": None}, kl=mapping,
        active=optional(mapping))  # fmt: skip
    add("latent_grid", plots.latent_grid, {"num_rows": 2})
    add("manifold", plots.manifold, {"images": images, "coordinates": np.zeros(2)})
    add(
        "latent_space",
        plots.latent_space,
        {"z": np.zeros((4, 2)), "labels": None},
        z=array_or_list,
        labels=optional(anything),
    )
