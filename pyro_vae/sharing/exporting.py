"""Write the encoder and the decoder of a VAE to files that run without Pyro and without this package.

``torch`` is a program of ``torch.export``, which PyTorch alone loads. ``onnx`` is read by ONNX Runtime and others, in
many languages. The number of data in a batch stays free. Each file is loaded again before it gets its name, and run on
random data beside the network that it was made from. No file says where on this machine the sources of a network are.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyro
import torch
from torch import Tensor

from pyro_vae.programs.vae import VAE
from pyro_vae.runtime.arguments import PathLike, checked
from pyro_vae.runtime.files import replacing
from pyro_vae.runtime.optional import imported, install
from pyro_vae.runtime.state import seeded
from pyro_vae.sharing.networks import Decoder, Encoder, Network

__all__ = ["Format", "export", "write_network"]

Format: TypeAlias = Literal["onnx", "torch"]
Run: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]
_SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
_TOLERANCE = 1e-5
_OLDEST_FOR_ONNX = (2, 7)


@checked
def export(vae: VAE, folder: PathLike, format: Format = "onnx") -> tuple[Path, Path]:
    """Write the networks of a VAE to ``encoder`` and ``decoder``, ``.onnx`` or ``.pt2``, in a folder.

    The encoder takes ``x``, ``(B, *data_shape)``, and returns ``mean`` and ``scale``, the means and the standard
    deviations of q(z|x); what :meth:`VAE.encode` returns is the first. The decoder takes ``z``, ``(B, latent_dim)``,
    and returns ``mean``, the mean of p(x|z), ``(B, *data_shape)``. Both compute on the CPU, in the dtype of the VAE.

    Parameters
    ----------
    vae
        A :class:`VAE`, whose posterior has a mean and a variance in closed form; a flow has none.
    folder
        Where to write; it is made if it is missing.
    format
        ``"onnx"``, with the libraries of the extra ``export``, or ``"torch"``, with PyTorch alone.

    Returns
    -------
    The paths of the two files.

    Raises
    ------
    ValueError
        For an unknown format, a torch before 2.7 with ONNX, a posterior or likelihood that has no mean, a network that
        cannot be exported, and an exported one that differs by more than 1e-5 of the largest value.
    TypeError
        For anything but a VAE.
    ImportError
        If a library of the extra ``export`` is missing.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> vae = VAE(data_shape=(8, 8), latent_dim=3)
    >>> with TemporaryDirectory() as folder:
    ...     encoder, decoder = export(vae, folder, format="torch")
    ...     mean, scale = torch.export.load(encoder).module()(torch.rand(5, 8, 8))
    >>> mean.shape, scale.shape
    (torch.Size([5, 3]), torch.Size([5, 3]))
    """
    if format == "onnx":
        if tuple(map(int, torch.__version__.split(".")[:2])) < _OLDEST_FOR_ONNX:
            wanted = ".".join(map(str, _OLDEST_FOR_ONNX))
            found = f"found 'onnx' with torch {torch.__version__}, which cannot write it"
            raise ValueError(f"format: {found}, expected torch {wanted} or newer, or format='torch'")
        for module in ("onnx", "onnxscript", "onnxruntime"):
            imported(module, module, "export", install("export"))
    vae = copy.deepcopy(vae).cpu().eval().requires_grad_(False)
    with torch.no_grad(), seeded(0), pyro.validation_enabled(False):  # checks of values cannot be exported
        z = vae.model.prior().expand([3]).sample()  # (3, latent_dim)
        x = vae.sample(3).to(z)  # (3, *data_shape)
        networks: tuple[tuple[Network, Tensor], ...] = (
            (Encoder(vae.posterior).eval(), x),
            (Decoder(vae.likelihood).eval(), z),
        )
        encoder, decoder = (write_network(network, data, Path(folder), format) for network, data in networks)
    return encoder, decoder


def write_network(network: Network, data: Tensor, folder: Path, format: Format) -> Path:
    """Export a network, hold what was written against the network itself, on data, and return the path."""
    try:
        expected = network(data)
    except NotImplementedError as error:
        reason = "found a distribution without mean and variance"
        raise ValueError(f"{network.title}: {reason}, expected one that has both in closed form") from error
    path = folder / f"{network.title}{_SUFFIX[format]}"
    with replacing(path) as temporary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch to its own developers
            shapes = {network.argument: {0: torch.export.Dim("batch", max=2**31 - 1)}}  # torch 2.6 asks for an end
            program = torch.export.export(network, (data[:2],), dynamic_shapes=shapes, strict=False)
            _forget_sources(program)
            found = (_write_onnx if format == "onnx" else _write_torch)(program, network, temporary)(data)
        for name, output, value in zip(network.outputs, found, expected, strict=True):
            difference = float((output - value).abs().max() / value.abs().max().clamp(min=1))
            if not difference <= _TOLERANCE:
                raise ValueError(f"{path}: found {name} to differ by {difference:.1e}, expected at most {_TOLERANCE}")
    return path


def _forget_sources(program: Any) -> None:
    """Take the lines that each operation comes from out of a program: they have the paths of this machine."""
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)


def _write_torch(program: Any, network: Network, path: Path) -> Run:
    with path.open("wb") as file:
        torch.export.save(program, file)
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _write_onnx(program: Any, network: Network, path: Path) -> Run:
    names: dict[str, Any] = {"input_names": [network.argument], "output_names": list(network.outputs)}
    try:
        torch.onnx.export(program, (), str(path), dynamo=True, external_data=False, verbose=False, **names)
    except RuntimeError as error:  # those of torch.onnx and of onnxscript are
        reason: BaseException = error
        while reason.__cause__ is not None:
            reason = reason.__cause__
        found = f"found what torch {torch.__version__} cannot write as ONNX ({str(reason).splitlines()[0]})"
        raise ValueError(f"{network.title}: {found}, expected format='torch', or a newer torch") from error
    _strip(path)
    session = import_module("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda data: tuple(map(torch.from_numpy, session.run(None, {network.argument: data.numpy()})))


def _strip(path: Path) -> None:
    """Take the notes out of an ONNX file: they say which lines of which files it was made from."""
    onnx = import_module("onnx")
    model = onnx.load(str(path))
    functions = [part for function in model.functions for part in (function, *function.node)]
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info,
                 *functions):  # fmt: skip
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    path.write_bytes(model.SerializeToString())
