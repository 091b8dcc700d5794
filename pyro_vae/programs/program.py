"""A program pair as one module.

Pyro runs ``model`` and ``guide``. One module holds both, so that they are moved, saved and listed together. Each of the
two also carries the recipe of the pair, so that a checkpoint of the two can rebuild it.

Samples, encodings and reconstructions are runs of the same two programs with some latents fixed. A sample runs the
model. An encoding runs the guide with every latent at its mean. A reconstruction runs the model on the encoding. The
same code therefore serves any number of layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Protocol, cast

import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae.data.batch import Batch
from pyro_vae.errors import failing_on
from pyro_vae.inference.handlers import AtMeans
from pyro_vae.inference.isolation import isolated
from pyro_vae.inference.missing import check_mask
from pyro_vae.inference.pairing import check_batched
from pyro_vae.nn.recipes import Rebuildable
from pyro_vae.programs.in_batches import in_batches, joined
from pyro_vae.runtime.arguments import AnyData, PositiveInteger, checked
from pyro_vae.runtime.exclusive import exclusive
from pyro_vae.runtime.kinds import Integers
from pyro_vae.runtime.modules import placement
from pyro_vae.runtime.state import evaluating

__all__ = ["GenerativeModel", "NumSamples", "Program"]


class GenerativeModel(Protocol):
    """A model that also runs without data."""

    def generate(self, num_data: int, x: Tensor | None = None) -> Tensor:
        """Draw ``num_data`` data, or score data ``x`` ``(num_data, *data_shape)``; return them."""


NumSamples = Annotated[int, Integers("0 or more, as an integer", 0)]


class Program(Rebuildable):
    """A generative ``model`` and its amortised ``guide``, both called with data of shape ``(B, *data_shape)``.

    Layers count from 1, next to the data, to the top.
    """

    model: PyroModule
    guide: PyroModule
    latents: tuple[str, ...]
    """The names of the latent sites, from the data up."""

    def __init__(self, model: PyroModule, guide: PyroModule, latents: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.guide, self.latents = model, guide, latents
        for half in (model, guide):
            half.recipe, half.without_recipe = self.recipe, self.without_recipe

    @property
    def likelihood(self) -> nn.Module:
        """The module whose forward takes the latents next to the data and returns p(x|z)."""
        return cast(nn.Module, self.model.likelihood)

    @checked
    @torch.no_grad()
    def encode(self, x: AnyData, layer: int = 1, *, batch_size: PositiveInteger = 1000) -> Any:
        """Return the posterior means ``(N, *event_shape)`` of a layer for data ``(N, *data_shape)``.

        In a hierarchy the mean is given the means of the layers that the guide draws before it.

        Parameters
        ----------
        x
            An array of NumPy, for which the result is one too; a tensor; data and their mask as :func:`pyro_vae.pack`
            returns them; or whatever else training takes.
        layer
            The layer, from 1.
        batch_size
            How many data the guide is run on at once.

        Raises
        ------
        ValueError
            If there is no such layer, or a number in the data is not finite.
        """
        self._check_layer(layer)
        return self._in_batches(lambda batch: self._encode(batch, layer), x, batch_size)

    @checked
    @torch.no_grad()
    def reconstruct(self, x: AnyData, layer: int = 1, *, batch_size: PositiveInteger = 1000) -> Any:
        """Return the mean ``(N, *data_shape)`` of p(x|z) for latents that the guide infers from x.

        The given layer and those above it are at their posterior means. Those below are drawn from the model. So
        ``layer=1`` shows the information in all latents, and a higher one that in its layer and those above. Arguments
        are those of :meth:`encode`.

        Raises
        ------
        ValueError
            If there is no such layer, or a number in the data is not finite.
        """
        self._check_layer(layer)
        return self._in_batches(lambda batch: self._reconstruct(batch, layer), x, batch_size)

    @checked
    @torch.no_grad()
    def sample(
        self,
        num_samples: NumSamples,
        *,
        layer: int | None = None,
        mean: bool = False,
        batch_size: PositiveInteger = 1000,
    ) -> Tensor:
        """Draw ``(num_samples, *data_shape)`` from p(x); with ``mean=True`` return each draw's mean of p(x|z).

        Papers often print the means, which look smoother than the data. With ``layer``, the layers above it are drawn
        once and shared, so that the samples differ in that layer and those below. The model is run for ``batch_size``
        samples at once, and one seed gives other samples with another one.

        Raises
        ------
        ValueError
            If ``num_samples`` is negative, or there is no such layer.
        """
        return self._sample(num_samples, layer, mean, batch_size, {})

    def _sample(
        self, num_samples: int, layer: int | None, mean: bool, batch_size: int, given: dict[str, Tensor]
    ) -> Tensor:
        """Draw samples with the values ``(N, *event_shape)`` of some sites given."""
        num_data = max(num_samples, 1)  # Pyro has no empty plates
        shared: dict[str, Tensor] = {}
        if layer is not None:
            self._check_layer(layer)
            trace = self._trace_model(1, {name: value[:batch_size] for name, value in given.items()})
            nodes: dict[str, Any] = trace.nodes
            shared = {name: nodes[name]["value"] for name in self.latents[layer:]}  # (1, *event_shape) each

        def drawn(start: int) -> Tensor:
            size = min(batch_size, num_data - start)
            known = {name: value[start : start + size] for name, value in given.items()}
            known |= {name: value.expand(size, *value.shape[1:]) for name, value in shared.items()}
            site = self._generate(size, known)
            return site["fn"].mean if mean else site["value"]

        return joined(map(drawn, range(0, num_data, batch_size)), num_data)[:num_samples]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{type(self).__name__} is a pair of programs: call its .model or .guide, or an objective such as "
            "ELBO()(vae.model, vae.guide)"
        )

    def _check_layer(self, layer: int) -> None:
        top = len(self.latents)
        Integers(f"1 (next to the data) to {top} (the top)", 1, top).check("layer", layer)

    def _in_batches(self, function: Callable[[Tensor], Tensor], x: Any, batch_size: int) -> Any:
        def applied(batch: Batch) -> Tensor:
            data = self._tensor(batch)
            with exclusive("encode", brief=True), poutine.condition(data=self._given(data)):  # Pyro's stack is global
                return function(data)

        return in_batches(applied, x, batch_size, *placement(self), (self.model, self.guide))

    def _tensor(self, batch: Batch) -> Tensor:
        """Return a batch as the tensor that the guide takes."""
        if not isinstance(batch, Tensor):
            raise TypeError(f"x: found ({batch}), expected data of one entry")
        data_shape = getattr(self.likelihood, "data_shape", None)
        is_packed = data_shape is not None and tuple(batch.shape[1:]) == (2, *data_shape)
        if is_packed:
            check_mask(batch, "x")
        return batch[:, 0] if is_packed else batch  # zeros are where entries are missing, as in observed_only

    def _given(self, x: Tensor) -> dict[str, Tensor]:
        """Return the values of sites that the data tell beside the observed one, such as labels."""
        return {}

    def _encode(self, x: Tensor, layer: int) -> Tensor:
        return self._means(x)[self.latents[layer - 1]]

    def _reconstruct(self, x: Tensor, layer: int) -> Tensor:
        means = self._means(x)
        known = {name: means[name] for name in self.latents[layer - 1 :]}
        mean: Tensor = self._generate(len(x), known)["fn"].mean
        return mean

    def _means(self, x: Tensor) -> dict[str, Tensor]:
        check_batched(self.model, x, "x")
        with evaluating(self), AtMeans(), failing_on("x", x):
            trace = poutine.trace(isolated(self.guide)).get_trace(x)
        sites: dict[str, Any] = trace.nodes
        return {name: sites[name]["value"] for name in self.latents}

    def _generate(self, num_data: int, known: dict[str, Tensor]) -> Any:
        """Run the model with some latents known, and return its observed site."""
        return self._trace_model(num_data, known).nodes["x"]

    def _trace_model(self, num_data: int, known: dict[str, Tensor]) -> poutine.Trace:
        model = cast(GenerativeModel, self.model)
        with exclusive("sample", brief=True), evaluating(self):
            return poutine.trace(poutine.condition(isolated(model.generate), data=known)).get_trace(num_data)
