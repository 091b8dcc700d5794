"""An honest call of everything that is public, in sizes so small that it takes a millisecond."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import pyro_vae
from pyro_vae import evaluation, plots, schedules, training
from pyro_vae.data import dequantisation
from pyro_vae.data.split import Split
from pyro_vae.diagnostics import activity, information
from pyro_vae.flows import Sylvester
from pyro_vae.runtime import precision
from tests.runtime import nasty
from tests.runtime.nasty import (
    anything,
    array,
    array_or_list,
    count,
    device,
    either,
    flag,
    function,
    labels,
    module,
    modules,
    names,
    nested_sizes,
    number,
    one_of,
    optional,
    path,
    program,
    seed,
    shape,
    sizes,
)  # fmt: skip


class Call(NamedTuple):
    """A function, honest arguments of it, and the judges of those that are to be replaced."""

    function: Callable[..., Any]
    arguments: Callable[[], dict[str, Any]]
    judges: dict[str, nasty.Judge]


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


class World:
    """What the calls share: programs and data, made once."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.folder = folder
        self.vae = pyro_vae.VAE((4,), 2, (3,))
        self.hvae = pyro_vae.HVAE((4,), (2, 2), (3,))
        self.m2 = pyro_vae.M2((4,), 3, 2, (3,))
        self.cvae = pyro_vae.ConditionalVAE((4,), 3, 2, (3,))
        self.vq = pyro_vae.VQVAE((4, 4), 3, 2, (2,))
        self.x = torch.bernoulli(torch.full((6, 4), 0.5))
        self.y = torch.tensor([0, 1, 2, 0, 1, 2])
        self.images = torch.bernoulli(torch.full((6, 4, 4), 0.5))
        self.split = Split(self.x)
        self.saved = folder / "saved"
        pyro_vae.save(self.vae, self.saved)
        self.linear = schedules.Linear(4)
        self.modules = {name: value for name, value in vars(self).items() if isinstance(value, nn.Module)}


def _network(*shapes: Any) -> nn.Module:
    return pyro_vae.MLP(*shapes, (2,))


def _pair(w: World, **more: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"model": w.vae.model, "guide": w.vae.guide, "x": w.x, **more}


def table(w: World) -> dict[str, Call]:
    """Every call by its name; ``w`` is what they share."""
    calls: dict[str, Call] = {}

    def add(name: str, made: Callable[..., Any], arguments: Any, /, **judges: nasty.Judge) -> None:
        make = arguments if callable(arguments) else lambda: dict(arguments)
        known = {argument: judges.get(argument, JUDGES.get(argument)) for argument in make()}
        missing = [argument for argument, judge in known.items() if judge is None]
        assert not missing, f"{name}: no judge of {missing}"
        calls[name] = Call(made, make, known)

    _objectives(add)
    _schedules(add, w)
    _networks(add)
    _parts(add, w)
    _likelihoods(add)
    _programs(add)
    _functions(add, w)
    _methods(add, w)
    _pictures(add)
    return calls


def _objectives(add: Any) -> None:
    common = {"num_particles": 2, "gradient": "reparam", "max_plate_nesting": 1}
    add("ELBO", pyro_vae.ELBO, {
        **common, "kl": "sample", "free_bits": 0.0, "free_bits_per": "site", "capacity": None, "capacity_weight": 1.0,
    })  # fmt: skip
    add("IWAE", pyro_vae.IWAE, common)
    add("MIWAE", pyro_vae.MIWAE, {"num_batches": 2, **common})
    add("PIWAE", pyro_vae.PIWAE, {"num_batches": 2, **common})
    add("CIWAE", pyro_vae.CIWAE, {"beta": 0.5, **common})
    add("RenyiBound", pyro_vae.RenyiBound, {"alpha": 0.5, **common})
    add("WakeSleep", pyro_vae.WakeSleep, {"num_particles": 1, "max_plate_nesting": 1})
    add("ReweightedWakeSleep", pyro_vae.ReweightedWakeSleep, {
        "num_particles": 2, "guide_phase": "both", "max_plate_nesting": 1,
    }, num_particles=count(2))  # fmt: skip


def _schedules(add: Any, w: World) -> None:
    common = {"num_steps": 4, "start": 0.0, "end": 1.0}
    add("Linear", schedules.Linear, common)
    add("Cosine", schedules.Cosine, common)
    add("Cyclical", schedules.Cyclical, {**common, "num_cycles": 2, "ramp": 0.5})
    add("Schedule.at", w.linear.at, {"step": 1})
    add("Schedule.set_step", schedules.Linear(4).set_step, {"step": 1})


def _networks(add: Any) -> None:
    add("MLP", pyro_vae.MLP, {
        "in_shape": 4, "out_shape": (2,), "hidden_dims": (3,), "activation": "tanh", "batch_norm": False,
    }, out_shape=optional(shape))  # fmt: skip
    add("ConditionalMLP", pyro_vae.ConditionalMLP, {
        "x_shape": 4, "z_shape": 2, "out_shape": (2,), "hidden_dims": (3,), "activation": "tanh",
    })  # fmt: skip
    add("ImageEncoder", pyro_vae.ImageEncoder, {
        "in_shape": (4, 4), "out_shape": 2, "channels": (2,), "activation": "relu",
    }, in_shape=sizes())  # fmt: skip
    add("ImageDecoder", pyro_vae.ImageDecoder, {
        "in_features": 2, "out_shape": (4, 4), "channels": (2,), "activation": "relu", "num_outputs": 1,
    }, out_shape=sizes())  # fmt: skip
    add("IndependentCodes", pyro_vae.IndependentCodes, {"code_shape": (2, 2), "num_codes": 3})
    add("AutoregressiveCodes", pyro_vae.AutoregressiveCodes, {
        "code_shape": (2, 2), "num_codes": 3, "hidden_dim": 4, "num_layers": 1, "num_heads": 2,
    })  # fmt: skip
    add("Codebook", pyro_vae.Codebook, {"num_codes": 3, "code_dim": 2, "decay": 0.9, "restart_below": 0.1})
    add("Sylvester", Sylvester, {"latent_dim": 2, "context_dim": 0, "num_reflections": 1})


def _parts(add: Any, w: World) -> None:
    bounds = {"low": 1e-2, "high": 1e2}
    add("StandardNormal", pyro_vae.StandardNormal, {"latent_dim": 2})
    add("LearnedNormal", pyro_vae.LearnedNormal, {"latent_dim": 2, **bounds})
    add("GaussianMixture", pyro_vae.GaussianMixture, {"num_components": 2, "latent_dim": 2, **bounds})
    add("VampPrior", pyro_vae.VampPrior, {
        "num_pseudo_inputs": 2, "posterior": w.vae.posterior, "data_shape": (4,), "components": "posterior",
    }, posterior=module)  # fmt: skip
    prior = pyro_vae.VampPrior(6, w.vae.posterior, (4,))
    add("VampPrior.start_at", prior.start_at, {"x": w.x})
    flow = {"transforms": "planar", "latent_dim": 2, "context_dim": 3, "num_transforms": 1, "hidden_dims": (3,)}
    flows = ("autoregressive", "spline", "coupling", "planar", "householder", "sylvester")
    add("Flow", pyro_vae.Flow, flow, transforms=either(one_of(*flows), modules))
    add("FlowPrior", pyro_vae.FlowPrior, lambda: {"flow": pyro_vae.Flow("autoregressive", 2, hidden_dims=(3,))})
    add("FlowPosterior", pyro_vae.FlowPosterior, lambda: {
        "flow": pyro_vae.Flow("planar", 2, 3, 1, (3,)), "network": _network(4, 3),
    })  # fmt: skip
    add("DiagonalNormal", pyro_vae.DiagonalNormal, lambda: {"network": _network(4, (2, 2)), **bounds})
    add("FullNormal", pyro_vae.FullNormal, lambda: {"network": _network(4, 5), **bounds})
    add("LowRankNormal", pyro_vae.LowRankNormal, lambda: {"network": _network(4, (3, 2)), "rank": 1, **bounds})
    add("MixturePosterior", pyro_vae.MixturePosterior, lambda: {
        "network": _network(4, (2, 5)), "latent_dim": 2, **bounds,
    }, latent_dim=count(2))  # fmt: skip


def _likelihoods(add: Any) -> None:
    more: dict[str, dict[str, Any]] = {
        "Bernoulli": {}, "ContinuousBernoulli": {},
        "Binomial": {"total_count": 3},
        "Categorical": {"num_levels": 3}, "Nominal": {"num_categories": 3},
        "DiscretizedLogistic": {"num_levels": 3, "low": 1e-3, "high": 1e1},
        "DiscretizedLogisticMixture": {"num_components": 2, "num_levels": 3, "low": 1e-3, "high": 1e1},
        "Poisson": {"low": 1e-3, "high": 1e1}, "ZeroInflatedPoisson": {"low": 1e-3, "high": 1e1},
    }  # fmt: skip
    scales = {"scale": "shared", "mean": "identity", "initial_scale": 1.0, "low": 1e-3, "high": 1e1}
    more |= {"Gaussian": scales, "Laplace": scales, "StudentT": {**scales, "df": 4.0}}
    counts = {"inverse_dispersion": "shared", "low": 1e-3, "high": 1e1}
    more |= {"NegativeBinomial": counts, "ZeroInflatedNegativeBinomial": counts}
    judges = {
        "network": optional(module), "data_shape": sizes(), "scale": one_of("fixed", "shared", "per_pixel", "decoder"),
        "mean": one_of("identity", "sigmoid"), "inverse_dispersion": one_of("shared", "per_entry", "decoder"),
        "df": number(1),
    }  # fmt: skip
    for name, options in more.items():
        make = getattr(pyro_vae, name)
        add(name, make, lambda o=options: {"network": _network(2, 4), "data_shape": (4,), **o}, **judges)
    add("Heterogeneous", pyro_vae.Heterogeneous, lambda: {
        "network": _network(2, 3), "parts": [pyro_vae.Bernoulli(None, (1,)), pyro_vae.Gaussian(None, (1,))],
    }, network=optional(module), parts=modules)  # fmt: skip
    add("Bernoulli.start_at_mean", pyro_vae.Bernoulli(_network(2, 4), (4,)).start_at_mean, {
        "mean": torch.full((4,), 0.5),
    }, mean=array)  # fmt: skip


def _programs(add: Any) -> None:
    common = {"likelihood": "bernoulli", "activation": "tanh", "prior": None}
    vae = {"data_shape": (4,), "latent_dim": 2, "hidden_dims": (3,), **common, "posterior": None}
    # No size is needed where all parts are given; here none is, so that a size of None is refused.
    add("VAE", pyro_vae.VAE, vae)
    add("M2", pyro_vae.M2, {**vae, "num_classes": 3, "classifier": None})
    add("ConditionalVAE", pyro_vae.ConditionalVAE, {**vae, "num_classes": 3})
    chain = {"data_shape": (4,), "latent_dims": (2, 2), "hidden_dims": (3,), **common, "transitions": None}
    judges = {"hidden_dims": nested_sizes, "latent_dims": sizes()}
    guide = {"guide": "bottom-up", "posteriors": None}
    add("HVAE", pyro_vae.HVAE, chain | guide, guide=one_of("bottom-up", "top-down"), **judges)
    ladder = {"batch_norm": False, "encoders": None, "posteriors": None}
    add("LadderVAE", pyro_vae.LadderVAE, chain | ladder, **judges)
    add("ConvLadderVAE", pyro_vae.ConvLadderVAE, {
        "data_shape": (4, 4), "num_layers": (1, 1), "latent_channels": (1, 1), "channels": (2, 2),
        "likelihood": "bernoulli", "num_blocks": 1,
    }, num_layers=sizes(0), latent_channels=sizes())  # fmt: skip
    add("VQVAE", pyro_vae.VQVAE, {
        "data_shape": (4, 4), "num_codes": 3, "code_dim": 2, "channels": (2,), "likelihood": "bernoulli",
        "prior": "independent", "encoder": None, "codebook": None, "commitment": 0.25,
    }, prior=either(one_of("independent", "autoregressive"), module), codebook=optional(module))  # fmt: skip


def _functions(add: Any, w: World) -> None:
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
        precision="highest", compile=False, seed=0, max_plate_nesting=1, progress=False))  # fmt: skip
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
        progress=False), seed=optional(seed))  # fmt: skip
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
    }, name=array, labels=optional(labels), seed=seed,
        binarize=one_of("auto", None, "dynamic", "static", "threshold"))  # fmt: skip
    add("Split", Split, {"values": w.x, "levels": 1, "binarize": None, "labels": None, "dequantize": False},
        values=either(array, meta), labels=optional(either(array, meta)))  # fmt: skip
    add("Split.batches", lambda **k: list(w.split.batches(**k)), {
        "batch_size": 3, "shuffle": False, "drop_last": False, "dtype": torch.float32,
    }, dtype=one_of(torch.float32, torch.float64))  # fmt: skip
    add("Split.to", w.split.to, {"device": "cpu"}, device=either(device, meta))
    add("tensorboard", training.tensorboard, {"folder": w.folder / "events"}) if _has_tensorboard() else None
    add("precise", lambda **k: precision.precise(**k).__enter__() and None, {"precision": "highest", "device": "cpu"},
        device=device)  # fmt: skip
    add("bits_per_dim", dequantisation.bits_per_dim, {"nats": -1.0, "num_dims": 4, "num_levels": 1},
        nats=either(number(infinite=True), nasty.nan), num_levels=count())  # fmt: skip
    add("ELBO.bound", objective.bound, _pair(w))


def meta(v: Any) -> str:
    """A split may be without values."""
    is_one = v.is_meta and v.dim() > 0 if isinstance(v, torch.Tensor) else isinstance(v, (str, torch.device))
    return nasty._said(False, is_one and (isinstance(v, torch.Tensor) or str(v) == "meta"))


def callbacks(v: Any) -> str:
    """A sequence of functions."""
    return nasty._said(False, isinstance(v, (tuple, list)) and all(callable(item) for item in v))


def _has_tensorboard() -> bool:
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        return False
    return True


def _methods(add: Any, w: World) -> None:
    layers = one_of(1, 2)
    packed = w.m2.pack(w.x, w.y)
    add("VAE.sample", w.vae.sample, {"num_samples": 2, "layer": None, "mean": False}, layer=optional(one_of(1)))
    add("VAE.encode", w.vae.encode, {"x": w.x, "layer": 1})
    add("VAE.reconstruct", w.vae.reconstruct, {"x": w.x, "layer": 1})
    add("HVAE.sample", w.hvae.sample, {"num_samples": 2, "layer": None, "mean": False}, layer=optional(layers))
    add("HVAE.encode", w.hvae.encode, {"x": w.x, "layer": 1}, layer=layers)
    add("HVAE.reconstruct", w.hvae.reconstruct, {"x": w.x, "layer": 1}, layer=layers)
    add("M2.classify", w.m2.classify, {"x": w.x})
    add("M2.pack", w.m2.pack, {"x": w.x, "y": w.y}, y=labels)
    add("M2.sample", w.m2.sample, {"num_samples": 2, "layer": None, "mean": False, "y": None},
        layer=optional(one_of(1)), y=optional(labels))  # fmt: skip
    add("M2.encode", w.m2.encode, {"x": packed, "layer": 1})
    add("ConditionalVAE.reconstruct", w.cvae.reconstruct, {"x": packed, "layer": 1})
    add("VQVAE.codes", w.vq.codes, {"x": w.images})


def _pictures(add: Any) -> None:
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
