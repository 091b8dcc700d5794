"""Measure log p(x) of MNIST after a given time of training, by the recipes of this package, Pyro and NumPyro.

    python benchmarks/quality_per_minute.py --data-root DATA                  # 1, 3 and 10 minutes; about 40 in all
    python benchmarks/quality_per_minute.py --data-root DATA --minutes 0.2 --num-train 5000    # a trial

The figure is the mean importance-sampled log p(x) of the first test images, in nats, always by
``pyro_vae.log_likelihood``: what others trained is copied into programs of the same sizes. Each recipe is a whole, its
network and optimiser included, so this compares recipes and not steps:

pyro_vae    ``fit`` as examples/train_vae.py calls it, but for validation: 200-200-50, tanh, batches of 100, Adam from
            2e-3 down a cosine to zero. A budget is a run of its own, of as many epochs as fit into it; how long one
            takes, and compiling, is measured first, outside the budget.
Pyro        the loop of its VAE example: SVI with Trace_ELBO, 400-50, softplus, torch's initial weights, batches of 256,
            Adam at 1e-3. One run, looked at as each budget runs out.
NumPyro     its VAE example: one compiled ``fori_loop`` an epoch, 400-50, softplus, stax with normal weights, batches of
            128, Adam at 1e-3. One run, looked at after the last epoch that ends within a budget.

All train on the same 50,000 images, binarised anew at each use on the device (Pyro's example trains on grey levels,
which are no data for a Bernoulli). Compilation counts as training time for all. The contestants run one after the
other, on the CPU.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import peers_numpyro
import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from timing import machine, present, table
from torch import Tensor, nn

import pyro_vae
from pyro_vae.data.loading import Split, Splits

Result = tuple[float, float, pyro_vae.VAE]  # the budget and what was used of it, in seconds, and what came out


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", metavar="DIR", required=True, help="folder that holds MNIST")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 3, 10], help="budgets (default: 1 3 10)")
    parser.add_argument("--particles", type=int, default=500, help="K of log p(x), 2 or more (default: 500)")
    parser.add_argument("--num-test", type=int, default=1000, help="the first so many test images (default: 1000)")
    parser.add_argument("--num-train", type=int, default=50_000, help="the first so many images (default: all 50,000)")
    parser.add_argument("--seed", type=int, default=0, help="of each run (default: 0)")
    args = parser.parse_args(argv)
    for name, least in (("particles", 2), ("num_test", 1), ("num_train", 256)):
        if getattr(args, name) < least:
            parser.error(f"argument --{name.replace('_', '-')}: found {getattr(args, name)}, expected {least} or more")
    if min(args.minutes) <= 0:
        parser.error(f"argument --minutes: found {min(args.minutes)}, expected positive numbers")
    args.minutes.sort()
    return args


def fit(train: Split, num_epochs: int, seed: int, **options: Any) -> tuple[pyro_vae.VAE, list[float]]:
    """Train by the recipe of pyro_vae; return the VAE and the seconds from the start to the end of each epoch."""
    torch.manual_seed(seed)
    ends, started = [], time.perf_counter()
    vae = pyro_vae.VAE((28, 28), 50, (200, 200))
    vae.likelihood.start_at_mean(train.mean())
    pyro_vae.fit(vae.model, vae.guide, train, num_epochs=num_epochs, batch_size=100, seed=seed,
                 lr=lambda done: 2e-3 * 0.5 * (1 + math.cos(math.pi * done)),
                 callbacks=[lambda record: ends.append(time.perf_counter() - started)], **options)  # fmt: skip
    return vae, ends


def epochs_within(seconds: float, pilot: Sequence[float]) -> int:
    """Return how many epochs fit into a time, given the ends of a pilot's epochs, the first of which compiled."""
    epoch = pilot[-1] - pilot[-2]
    return max(int((seconds - (pilot[0] - epoch)) / epoch), 1)


def packaged(train: Split, budgets: Sequence[float], seed: int) -> Iterator[Result]:
    pilots = {compile: fit(train, 3, seed, compile=compile)[1] for compile in (True, False)}
    for budget in budgets:
        num_epochs = epochs_within(budget, pilots[True])
        if num_epochs * math.ceil(len(train) / 100) < 10_000:  # compile="auto" will not
            num_epochs = epochs_within(budget, pilots[False])
        vae, ends = fit(train, num_epochs, seed)
        yield budget, ends[-1], vae


def pyro_example(train: Split, budgets: Sequence[float], seed: int) -> Iterator[Result]:
    torch.manual_seed(seed)
    pyro.clear_param_store()
    started = time.perf_counter()
    vae = pyro_vae.VAE((28, 28), 50, (400,), activation="softplus")
    for module in vae.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    left = list(budgets)
    while left:
        for x in train.batches(256):
            svi.step(x)
            used = time.perf_counter() - started
            if used >= left[0]:
                kept = copy.deepcopy(vae)
                paused = time.perf_counter()
                yield left.pop(0), used, kept
                started += time.perf_counter() - paused
                if not left:
                    return


def numpyro_example(train: Split, budgets: Sequence[float], seed: int) -> Iterator[Result]:
    jax = peers_numpyro.import_jax(torch.device("cpu"))
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from jax.example_libraries import stax
    from numpyro.infer import SVI, Trace_ELBO

    batch_size, num_steps = 128, len(train) // 128
    images = jnp.asarray((train.values.float() / train.levels).flatten(1).numpy())

    def dense(width: int) -> Any:
        return stax.Dense(width, W_init=stax.randn())

    encoder = stax.serial(dense(400), stax.Softplus, stax.FanOut(2),
                          stax.parallel(dense(50), stax.serial(dense(50), stax.Exp)))  # fmt: skip
    decoder = stax.serial(dense(400), stax.Softplus, dense(784), stax.Sigmoid)

    def model(x: Any) -> None:
        decode = numpyro.module("decoder", decoder, (50,))
        with numpyro.plate("batch", len(x)):
            z = numpyro.sample("z", dist.Normal(0, 1).expand([50]).to_event(1))
            numpyro.sample("obs", dist.Bernoulli(decode(z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        encode = numpyro.module("encoder", encoder, (784,))
        loc, scale = encode(x)
        with numpyro.plate("batch", len(x)):
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())

    @jax.jit
    def epoch(state: Any, images: Any, key: Any) -> Any:
        order_key, key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(images))

        def body(i: Any, carry: Any) -> Any:
            state, key = carry
            key, used = jax.random.split(key)
            grey = jnp.take(images, jax.lax.dynamic_slice_in_dim(order, i * batch_size, batch_size), axis=0)
            return svi.update(state, jax.random.bernoulli(used, grey).astype(grey.dtype))[0], key

        return jax.lax.fori_loop(0, num_steps, body, (state, key))[0]

    started = time.perf_counter()
    key = jax.random.PRNGKey(seed)
    state = svi.init(key, images[:batch_size])
    used, before, left = 0.0, (0.0, state), list(budgets)
    while left:
        key, epoch_key = jax.random.split(key)
        state = jax.block_until_ready(epoch(state, images, epoch_key))
        used = time.perf_counter() - started
        while left and used >= left[0]:
            seconds, kept = before if before[0] else (used, state)  # if no epoch ended within, the first one
            paused = time.perf_counter()
            yield left.pop(0), seconds, copied(svi.get_params(kept))
            started += time.perf_counter() - paused
        before = used, state


def copied(params: dict[str, Any]) -> pyro_vae.VAE:
    """Return a VAE with NumPyro's weights.

    The model, and so log p(x), is copied exactly. The guide's scale has bounds so wide that it differs by a percent.
    """

    def put(layer: nn.Linear, *parts: tuple[Any, Any]) -> None:
        layer.weight.copy_(torch.cat([torch.tensor(weight.tolist()).T for weight, _ in parts]))
        layer.bias.copy_(torch.cat([torch.tensor(bias.tolist()) for _, bias in parts]))

    network = pyro_vae.MLP((28, 28), (2, 50), (400,), "softplus")
    vae = pyro_vae.VAE((28, 28), 50, (400,), activation="softplus",
                       posterior=pyro_vae.DiagonalNormal(network, 1e-30, 1e30))  # fmt: skip
    encoder, decoder = params["encoder$params"], params["decoder$params"]
    loc, (scale, *_) = encoder[3]
    with torch.no_grad():
        put(network.hidden[0], encoder[0])
        put(network.output, loc, scale)
        put(vae.likelihood.network.hidden[0], decoder[0])
        put(vae.likelihood.network.output, decoder[2])
    return vae


def first(train: Split, num_data: int) -> Split:
    return Split(train.values[:num_data], levels=train.levels, binarize=train.binarize)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        splits: Splits = pyro_vae.data.load("mnist", root=args.data_root)
    except (ValueError, OSError, ImportError) as error:
        print(f"quality_per_minute.py: {error}", file=sys.stderr)
        return 2
    train, test = first(splits.train, args.num_train), splits.test[: args.num_test]
    budgets = [60 * minutes for minutes in args.minutes]
    recipes: dict[str, Callable[..., Iterator[Result]]] = {
        "pyro_vae": packaged, "Pyro's example": pyro_example, "NumPyro's example": numpyro_example
    }  # fmt: skip
    print(f"{machine(torch.device('cpu'))}; {len(train)} training images of MNIST; log p(x) of {len(test)} test images "
          f"by K = {args.particles} particles, ± its Monte Carlo error\n", flush=True)  # fmt: skip

    def run(name: str) -> list[list[str]]:
        return [[name, *scored(*result, test, args)] for result in recipes[name](train, budgets, args.seed)]

    results = present({name: lambda n=name: run(n) for name in recipes})
    rows = sorted((row for rows in results.values() for row in rows), key=lambda row: float(row[1]))
    table(["", "minutes", "seconds used", "log p(x), nats", "±"], rows)
    return 0


def scored(budget: float, used: float, vae: pyro_vae.VAE, test: Tensor, args: argparse.Namespace) -> list[str]:
    estimate = pyro_vae.log_likelihood(vae.model, vae.guide, test, args.particles, seed=args.seed)
    return [f"{budget / 60:g}", f"{used:.1f}", f"{estimate.mean():.2f}{estimate.mark}", f"{estimate.mean_error():.2f}"]


if __name__ == "__main__":
    sys.exit(main())
