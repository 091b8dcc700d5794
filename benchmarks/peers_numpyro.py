"""NumPyro beside pyro_vae: the same programs, networks and weights, compiled as its users would; see peers.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from peers import HALF, HandWritten
from timing import Unsupported
from torch import Tensor, nn

import pyro_vae


def import_jax(device: torch.device) -> Any:
    """Import JAX, which must run on torch's device, and have it leave memory to the others."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    if (jax.default_backend() == "cpu") != (device.type == "cpu"):
        raise Unsupported(f"jax runs on {jax.default_backend()}, torch on {device.type}")
    return jax


def numpyro_programs(hidden_dims: Sequence[int], latent_dim: int, flow: int = 0) -> tuple[Callable, Callable]:
    """Return the VAE as NumPyro programs of flat images; ``flow`` is the width of the guide's flow, 0 for none."""
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from jax.example_libraries import stax
    from jax.nn import initializers
    from numpyro.distributions.flows import InverseAutoregressiveTransform
    from numpyro.nn import AutoregressiveNN

    def network(*widths: int) -> Any:
        layers: list[Any] = []
        for width in widths:
            layers += [stax.Dense(width, initializers.glorot_uniform(), initializers.zeros), stax.Tanh]
        return stax.serial(*layers[:-1])

    def model(x: Any) -> None:
        decode = numpyro.module("decoder", network(*hidden_dims[::-1], 784), (latent_dim,))
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(0, 1).expand([latent_dim]).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

    def guide(x: Any) -> None:
        encode = numpyro.module("encoder", network(*hidden_dims, 2 * latent_dim), (784,))
        loc, raw = jnp.split(encode(x), 2, -1)
        q = dist.Normal(loc, jnp.exp(HALF * jnp.tanh(raw / HALF))).to_event(1)
        if flow:
            made = numpyro.module("flow", AutoregressiveNN(latent_dim, [flow]), (latent_dim,))
            q = dist.TransformedDistribution(q, InverseAutoregressiveTransform(made))
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", q)

    return model, guide


def stax_weights(network: nn.Module) -> list[Any]:
    """Return the weights of torch's affine layers as stax has them, with ``()`` for each activation."""
    import jax.numpy as jnp

    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    pairs = [tuple(jnp.asarray(p.detach().cpu().numpy().T) for p in (m.weight, m.bias)) for m in layers]
    return [part for pair in pairs for part in (pair, ())][:-1]


class NumPyro:
    """NumPyro's ``SVI.update`` in a ``fori_loop``: one compiled call a round.

    Each number of steps is compiled anew, so all rounds should have the same. ``precision`` is JAX's, of products;
    ``None`` is its default, which on a GPU is TF32.
    """

    def __init__(
        self,
        data: Tensor,
        batch_size: int,
        hidden_dims: Sequence[int],
        latent_dim: int,
        flow: int = 0,
        precision: str | None = None,
    ) -> None:
        jax = import_jax(data.device)
        import jax.numpy as jnp
        import numpyro
        from numpyro.infer import SVI, Trace_ELBO

        self.jax, self.precision, self.batch_size = jax, precision, batch_size
        self.data = jnp.asarray(data.flatten(1).cpu().numpy())
        programs = numpyro_programs(hidden_dims, latent_dim, flow)
        svi = SVI(*programs, numpyro.optim.Adam(1e-3), Trace_ELBO())
        start = HandWritten(hidden_dims, latent_dim)  # the weights that the torch contestants start from
        networks = {"encoder$params": stax_weights(start.encoder), "decoder$params": stax_weights(start.decoder)}
        key = jax.random.PRNGKey(0)
        # Under jit it is one thing to compile; operation by operation it is fifty, some seconds on a GPU.
        self.state = jax.jit(svi.init)(key, self.data[:batch_size], init_params=networks)
        self.random, self.order, self.key = np.random.RandomState(0), np.empty(0, dtype=np.int64), key

        def run(state: Any, data: Any, order: Any) -> Any:
            def body(i: Any, carry: Any) -> Any:
                state, losses = carry
                rows = jax.lax.dynamic_slice_in_dim(order, i * batch_size, batch_size)
                state, loss = svi.update(state, jnp.take(data, rows, axis=0))
                return state, losses.at[i].set(loss / batch_size)

            steps = len(order) // batch_size
            return jax.lax.fori_loop(0, steps, body, (state, jnp.zeros(steps)))

        def shuffled(key: Any, num_rows: int) -> Any:
            keys = jax.random.split(key, -(-num_rows // len(data)))
            return jax.vmap(lambda key: jax.random.permutation(key, len(data)))(keys).flatten()[:num_rows]

        self.run, self.shuffled = jax.jit(run), jax.jit(shuffled, static_argnums=1)

    def rows(self, num_rows: int) -> Any:
        """Return the rows of a round, on the device; a GPU draws their order itself, which takes it less time."""
        if self.jax.default_backend() != "cpu":
            self.key, used = self.jax.random.split(self.key)
            return self.shuffled(used, num_rows)
        while len(self.order) < num_rows:
            self.order = np.concatenate([self.order, self.random.permutation(len(self.data))])
        order, self.order = np.split(self.order, [num_rows])
        return self.jax.numpy.asarray(order)

    def round(self, steps: int) -> list[float]:
        with self.jax.default_matmul_precision(self.precision):
            self.state, losses = self.run(self.state, self.data, self.rows(steps * self.batch_size))
        return losses.tolist()


def numpyro_log_likelihood(
    vae: pyro_vae.VAE, x: Tensor, num_particles: int, rows: int, precision: str | None = None
) -> Callable[[], float]:
    """Return NumPyro's estimate of the mean log p(x) of ``vae``: its vectorised RenyiELBO under ``jit``.

    It takes ``rows`` data at once, with all their particles. ``precision`` is as in :class:`NumPyro`.
    """
    jax = import_jax(x.device)
    import jax.numpy as jnp
    from numpyro.infer import RenyiELBO

    hidden_dims = [m.out_features for m in vae.posterior.network.hidden if isinstance(m, nn.Linear)]
    programs = numpyro_programs(hidden_dims, vae.prior.latent_dim)
    networks = {"encoder": vae.posterior.network, "decoder": vae.likelihood.network}
    params = {f"{name}$params": stax_weights(network) for name, network in networks.items()}
    elbo = RenyiELBO(alpha=0, num_particles=num_particles)

    @jax.jit
    def total(key: Any, params: Any, parts: Any) -> Any:
        keys = jax.random.split(key, len(parts))
        return jax.lax.map(lambda pair: -elbo.loss(pair[0], params, *programs, pair[1]), (keys, parts)).sum()

    parts, key = jnp.asarray(x.flatten(1).cpu().numpy()).reshape(-1, rows, 784), jax.random.PRNGKey(0)

    def run() -> float:
        nonlocal key
        key, used = jax.random.split(key)
        with jax.default_matmul_precision(precision):
            return total(used, params, parts).item() / len(x)

    return run
