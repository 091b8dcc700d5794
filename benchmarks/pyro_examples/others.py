"""Pyro's examples of sequences, counts and flows at toy size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.contrib.examples.polyphonic_data_loader as poly
import torch
from images import BATCH, SIZE, bits, in_batches, one_hot, shrunk, tuples
from program import Call, Change, Program, one_loader
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, init_to_feasible
from sources import notebook, script
from torch import Tensor

import pyro_vae

__all__ = ["dmm", "flow_as_density", "flow_as_guide", "flow_as_prior", "prod_lda", "scanvi", "sparse_gamma"]

Maker = Callable[[int], Program]


def counts(num_data: int, width: int, mean: float) -> Tensor:
    return torch.poisson(torch.full((num_data, width), mean), generator=torch.Generator().manual_seed(0))


def dmm(source: Path, num_iafs: int) -> Maker:
    """The deep Markov model: four arguments, one of them a packed sequence, made of each batch by Pyro's loader."""
    example = script(source, "examples/dmm.py")
    steps, width = 4, 5
    x = bits(SIZE, steps, width)
    lengths = torch.randint(2, steps + 1, (SIZE,), generator=torch.Generator().manual_seed(1))
    lengths[::BATCH] = steps
    x = x * (torch.arange(steps) < lengths[:, None])[..., None]
    calls = [Call(poly.get_mini_batch(rows, x, lengths)) for rows in torch.arange(SIZE).split(BATCH)]

    def make(seed: int) -> Program:
        net = example.DMM(
            input_dim=width, z_dim=2, emission_dim=4, transition_dim=4, rnn_dim=4, num_iafs=num_iafs, iaf_dim=4
        )
        data = one_loader(calls)
        return Program(net.model, net.guide, net, calls, data, BATCH, "z_minibatch")

    return make


def scanvi(source: Path, labelled: bool) -> Maker:
    example = script(source, "examples/scanvi/scanvi.py")
    genes, classes = 6, 3
    x, y = counts(SIZE, genes, 3.0), one_hot(SIZE, classes)

    def enumerating() -> TraceEnum_ELBO:  # the script's; Trace_ELBO has another gradient of a guide's factor
        return TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)

    def make(seed: int) -> Program:
        net: Any = example.SCANVI(
            num_genes=genes, num_labels=classes, l_loc=2.5, l_scale=0.5, latent_dim=2, alpha=10.0,
            scale_factor=1.0 / (BATCH * genes),
        )  # fmt: skip
        shrunk(net, 0.3)
        with torch.no_grad():  # the guide's l begins where the counts put it, so that weights are of one size
            net.z2l_encoder.fc[-1].bias[[2, 5]] = torch.tensor([2.9, -1.0])
        if not labelled:
            return Program(net.model, net.guide, net, in_batches(x), x, BATCH, "batch")
        return Program(
            net.model, net.guide, net, in_batches(x, y), tuples(x, y), BATCH, "batch", pyros=enumerating
        )  # fmt: skip

    return make


def prod_lda(source: Path) -> Maker:
    marks = ("import torch\n", "import torch.nn as nn", "class ProdLDA")
    names = notebook(source, "tutorial/source/prodlda.ipynb", *marks, all_statements=False)
    x = counts(SIZE, 9, 2.0)

    def make(seed: int) -> Program:
        net = names["ProdLDA"](vocab_size=9, num_topics=3, hidden=6, dropout=0.2)
        return Program(net.model, net.guide, net, in_batches(x), x, BATCH, "documents")

    return make


def sparse_gamma(source: Path, kind: str) -> Maker:
    """The sparse gamma deep exponential family, with the guide by hand (``custom``), ``easy`` or ``auto``."""
    example = script(source, "examples/sparse_gamma_def.py")
    x = counts(BATCH, 6, 2.0)

    def make(seed: int) -> Program:
        family = example.SparseGammaDEF()
        family.top_width, family.mid_width, family.bottom_width, family.image_size = 4, 3, 2, 6
        family.alpha_z, family.beta_z, family.alpha_w = torch.tensor(1.0), torch.tensor(1.0), torch.tensor(1.0)
        if kind == "custom":
            guide, module = family.guide, None
        elif kind == "easy":
            guide = module = example.MyEasyGuide(family.model)
        else:
            guide = module = AutoDiagonalNormal(family.model, init_loc_fn=init_to_feasible)
        calls = [Call((x,))]
        change = Change("at_global_means", *pyro_vae.at_global_means(family.model, guide), calls, x)
        return Program(family.model, guide, module, calls, x, BATCH, change=change, has_globals=True)

    return make


def flow_as_guide(source: Path) -> Maker:
    """The tutorial on a flow as guide: ``x`` is ``(5, N, 2)``, the data are its second dimension.

    Pyro trains the guide of seed 0 first: the posterior is so narrow that an untrained one has hardly any weight.
    """
    path = "tutorial/source/svi_flow_guide.ipynb"
    x = torch.randn(5, SIZE, 2, generator=torch.Generator().manual_seed(0)) * 0.1
    x = x + torch.randn(SIZE, 2, generator=torch.Generator().manual_seed(1))

    def trained(names: dict[str, Any]) -> None:
        objective = Trace_ELBO(num_particles=16, max_plate_nesting=2, vectorize_particles=True)
        svi = SVI(names["model"], names["guide"], pyro.optim.ClippedAdam({"lr": 2e-3, "lrd": 0.998}), objective)
        for _ in range(600):
            svi.step(x)
        pyro.clear_param_store()

    state: dict[str, Tensor] = {}

    def make(seed: int) -> Program:
        names = notebook(source, path, "import zuko", "prior = ", "flow = zuko")
        if seed == 0 and not state:
            trained(names)
            state.update({name: value.clone() for name, value in names["flow"].state_dict().items()})
        elif seed == 0:
            names["flow"].load_state_dict(state)

        def model(x: Tensor) -> Any:
            return names["model"](x.transpose(0, 1))

        def guide(x: Tensor) -> Any:
            return names["guide"](x.transpose(0, 1))

        rows = x.transpose(0, 1)
        calls = [Call((batch,)) for batch in x.split(BATCH, 1)]
        change = Change("data first", model, guide, in_batches(rows), rows)
        data, flow = one_loader(calls), names["flow"]
        return Program(names["model"], names["guide"], flow, calls, data, BATCH, change=change, rate=1e-5)

    return make


def flow_as_prior(source: Path) -> Maker:
    marks = ("import zuko", "class GaussianEncoder", "class VAE")
    names = notebook(source, "tutorial/source/vae_flow_prior.ipynb", *marks, all_statements=False)
    x = bits(SIZE, 12)

    def make(seed: int) -> Program:
        net = names["VAE"](12, 2)
        return Program(net.model, net.guide, net, in_batches(x), x, BATCH, "batch", rate=1e-4)

    return make


def flow_as_density(source: Path) -> Maker:
    """The flow of the introduction as a program: an observed site and no latent, so that every bound is log p(x)."""
    path = "tutorial/source/normalizing_flows_intro.ipynb"
    x = torch.randn(SIZE, 2, generator=torch.Generator().manual_seed(0))

    def make(seed: int) -> Program:
        names = notebook(source, path, "import pyro.distributions.transforms as T", "T.Spline(2, count_bins=16)")
        flow, transform = names["flow_dist"], names["spline_transform"]

        def model(x: Tensor) -> None:
            pyro.module("spline", transform)
            with pyro.plate("data", len(x)):
                pyro.sample("x", flow.to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            pass

        return Program(model, guide, transform, in_batches(x), x, BATCH)

    return make
