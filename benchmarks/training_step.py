"""Measure one training step of a VAE, here and in other packages.

    python benchmarks/training_step.py                             # random bits; about ten minutes on two cores
    python benchmarks/training_step.py --data-root DATA --extra    # MNIST; deeper programs, IWAE and a flow as well
    python benchmarks/training_step.py --fit                       # and what the training loop adds to the step

A step picks a batch of binarised 28 x 28 images out of a tensor on the device, computes the ELBO with one sample and
its gradient, and takes one step of Adam at 1e-3. The network is 784-400-50-400-784 with tanh. Everything runs in one
process: in each round all contestants take the same number of steps in turn, and the table holds medians over rounds.
Compilation is over before the first round that counts. Every contestant really trains, from the same weights: the
mean loss of the last fifth of its steps is in the table, and these must agree within 5 nats. Runs of the same code on
other draws differ by one or two nats after some hundred steps; another loss would differ by tens.

pyro_vae multiplies matrices as ``fit`` does, see ``pyro_vae.runtime.precision``. Its peers keep their own settings; one
row shows the compiled hand-written step under pyro_vae's. On a GPU JAX's own setting is TF32, so another row shows
pyro_vae's compiled step in it. The limit of the products is the time of a step's matrix products at the rate of a large
one, measured in the same run.

On a GPU the table has two columns of memory, in MiB: the peak of what one step allocates that is not captured as a
graph, weights and optimiser included, and what is held for later steps, a graph's memory included. The data are left
out of both.

--extra adds a hierarchy of two layers, IWAE with 50 particles (also as Pyro's vectorised RenyiELBO) and a guide with an
inverse autoregressive flow (also in NumPyro, whose masks are in another order and whose flow starts from its own
weights). Pythae and the hand-written code are left out there.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import peers
import peers_numpyro
import pyro
import pyro.distributions as dist
import torch
from measured_steps import measure, show
from packaged_step import PackagedStep
from pyro.nn import PyroModule
from timing import machine, product_rate, ratio, step_products, table
from torch import Tensor

import pyro_vae
from pyro_vae import HVAE, IWAE, MLP, VAE
from pyro_vae.runtime.precision import precise

HIDDEN_DIMS, LATENT_DIM = (400,), 50
FLOW = 100  # hidden units of the flow's network


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", metavar="DIR", help="folder that holds MNIST; random bits without it")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", metavar="B", help="default: 20 100 256, on a GPU also 1024"
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count (default: 9)")
    parser.add_argument("--steps", type=int, help="steps of each contestant a round (default: about 0.5 s of them)")
    parser.add_argument("--extra", action="store_true", help="also a hierarchy, IWAE and a flow")
    parser.add_argument("--fit", action="store_true", help="also pyro_vae.fit against its bare step")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of torch's draws (default: 0)")
    args = parser.parse_args(argv)
    for name in ("rounds", "steps"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"argument --{name}: found {getattr(args, name)}, expected 1 or more")
    if args.batch_sizes is None:
        args.batch_sizes = [20, 100, 256] + [1024] * (args.device == "cuda")
    return args


def images(data_root: str | None, device: torch.device) -> tuple[Tensor, Any]:
    """Return 50,000 binarised images, ``(N, 28, 28)`` float32, and the data for ``fit``: of MNIST, the bytes."""
    if data_root is not None:
        split = pyro_vae.data.load("mnist", root=data_root).train
        return split[:].to(device), split
    generator = torch.Generator().manual_seed(0)
    data = torch.randint(2, (50_000, 28, 28), generator=generator, dtype=torch.uint8).to(device).float()
    return data, data


class FlowGuide(PyroModule):
    """A diagonal Gaussian under an inverse autoregressive flow."""

    def __init__(self) -> None:
        super().__init__()
        self.base = pyro_vae.DiagonalNormal(MLP((28, 28), (2, LATENT_DIM), HIDDEN_DIMS))
        self.flow = dist.transforms.affine_autoregressive(LATENT_DIM, [FLOW])

    def forward(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.TransformedDistribution(self.base(x), [self.flow]))


class FlowVAE(torch.nn.Module):
    """The packaged model with that guide."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.guide = VAE((28, 28), LATENT_DIM, HIDDEN_DIMS).model, FlowGuide()


def vae_makers(data: Tensor, batch_size: int) -> dict[str, Callable[[], peers.Contestant]]:
    make = functools.partial(VAE, (28, 28), LATENT_DIM, HIDDEN_DIMS)
    sizes = (data, batch_size, HIDDEN_DIMS, LATENT_DIM)
    same_products = functools.partial(precise, "highest", data.device)
    tf32 = {"pyro_vae, compiled, TF32": lambda: PackagedStep(make, data, batch_size, True, precision="high")}
    return {
        "pyro_vae, compiled": lambda: PackagedStep(make, data, batch_size, True),
        **(tf32 if data.device.type == "cuda" else {}),
        "pyro_vae, eager": lambda: PackagedStep(make, data, batch_size, False),
        "Pyro SVI": lambda: peers.pyro_svi(make().to(data.device), data, batch_size),
        "PyTorch by hand, eager": lambda: peers.hand_written(*sizes, compile=False),
        "PyTorch by hand, compiled": lambda: peers.hand_written(*sizes, compile=True),
        "the same, pyro_vae's products": lambda: peers.hand_written(*sizes, compile=True, context=same_products),
        "NumPyro": lambda: peers_numpyro.NumPyro(*sizes),
        "Pythae": lambda: peers.pythae(*sizes),
    }


def extra_makers(data: Tensor) -> dict[str, dict[str, Callable[[], peers.Contestant]]]:
    programs: dict[str, tuple[Callable[[], Any], Any]] = {
        "HVAE of two layers": (lambda: HVAE((28, 28), (100, 50), ((200, 200), (100, 100))), None),
        "IWAE, 50 particles, 200-200-50": (lambda: VAE((28, 28), 50, (200, 200)), IWAE(50)),
        "guide with an inverse autoregressive flow": (FlowVAE, None),
    }
    groups: dict[str, dict[str, Callable[[], peers.Contestant]]] = {
        name: {
            f"pyro_vae, {'compiled' if compile else 'eager'}": functools.partial(
                PackagedStep, make, data, 100, compile, objective
            )
            for compile in (True, False)
        }
        for name, (make, objective) in programs.items()
    }
    _, iwae, flow = groups
    groups[iwae]["Pyro SVI, RenyiELBO"] = lambda: peers.pyro_svi(
        programs[iwae][0]().to(data.device), data, 100, particles=50
    )
    groups[flow]["NumPyro"] = lambda: peers_numpyro.NumPyro(data, 100, HIDDEN_DIMS, LATENT_DIM, flow=FLOW)
    return groups


def fit_against_step(source: Any, device: torch.device, num_rounds: int) -> None:
    """Compare epochs of ``fit`` with as many bare steps, which run between two epochs from a callback.

    Both read the same data, and draw the pixels of MNIST anew at each use.
    """
    make, source = functools.partial(VAE, (28, 28), LATENT_DIM, HIDDEN_DIMS), source.to(device)
    bare, steps = PackagedStep(make, source, 100, True), len(source) // 100
    bare.round(steps)
    seconds: dict[str, list[float]] = {"bare step": [], "fit": []}
    since = time.perf_counter()

    def after_epoch(record: Any) -> None:
        nonlocal since
        seconds["fit"].append(time.perf_counter() - since)
        since = time.perf_counter()
        bare.round(steps)
        seconds["bare step"].append(time.perf_counter() - since)
        since = time.perf_counter()

    vae = make().to(device)
    pyro_vae.fit(vae.model, vae.guide, source, num_epochs=num_rounds + 1, compile=True, callbacks=[after_epoch])
    seconds = {name: values[1:] for name, values in seconds.items()}  # the first epoch compiled
    rows = [[name, f"{len(source) / median(values):,.0f}"] for name, values in seconds.items()]
    print(f"fit: epochs of {len(source)} images at a batch size of 100, compiled, with a progress bar")
    table(["", "images/s"], rows)
    print(f"fit over its bare step: {ratio(seconds, 'fit', 'bare step'):.3f} in time\n")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    device = torch.device(args.device)
    torch.manual_seed(args.seed)
    try:
        data, source = images(args.data_root, device)
    except (ValueError, OSError, ImportError) as error:
        print(f"training_step.py: {error}", file=sys.stderr)
        return 2
    rate = product_rate(device)
    print(f"{machine(device)}; {'MNIST' if args.data_root else 'random bits'}; a float32 product of 2048 x 2048 "
          f"matrices runs at {rate / 1e9:,.0f} GFLOP/s\n")  # fmt: skip
    agree, widths = True, [(784, *HIDDEN_DIMS, 2 * LATENT_DIM), (LATENT_DIM, *HIDDEN_DIMS, 784)]
    for batch_size in args.batch_sizes:
        flops = step_products(widths, batch_size)
        print(f"VAE 784-400-50, batch size {batch_size}: {flops / 1e9:.3f} GFLOP of products a step; limit of the "
              f"products {1e3 * flops / rate:.3f} ms")  # fmt: skip
        agree &= show(measure(vae_makers(data, batch_size), device, args.rounds, args.steps, args.seed), batch_size)
    if args.extra:
        for name, makers in extra_makers(data).items():
            print(f"{name}, batch size 100")
            agree &= show(measure(makers, device, args.rounds, args.steps, args.seed), 100)
    if args.fit:
        fit_against_step(source, device, args.rounds)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
