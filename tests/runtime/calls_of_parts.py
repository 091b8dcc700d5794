"""Honest calls that build objectives, schedules, networks, parts, likelihoods and programs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import pyro_vae
from pyro_vae.flows import Sylvester
from pyro_vae.schedules import Cosine, Cyclical, Linear
from tests.runtime.nasty import (
    array,
    count,
    either,
    module,
    modules,
    nested_sizes,
    number,
    one_of,
    optional,
    shape,
    sizes,
)
from tests.runtime.world import World


def _network(*shapes: Any) -> nn.Module:
    return pyro_vae.MLP(*shapes, (2,))


def objectives(add: Any) -> None:
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


def schedules(add: Any, w: World) -> None:
    common = {"num_steps": 4, "start": 0.0, "end": 1.0}
    add("Linear", Linear, common)
    add("Cosine", Cosine, common)
    add("Cyclical", Cyclical, {**common, "num_cycles": 2, "ramp": 0.5})
    add("Schedule.at", w.linear.at, {"step": 1})
    add("Schedule.set_step", Linear(4).set_step, {"step": 1})


def networks(add: Any) -> None:
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


def parts(add: Any, w: World) -> None:
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


def likelihoods(add: Any) -> None:
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


def programs(add: Any) -> None:
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
