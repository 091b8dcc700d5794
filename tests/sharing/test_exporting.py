"""Exported networks, run by ONNX Runtime and by torch alone, give what the VAE gives."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from functools import cache

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae.sharing import exporting
from tests.support.parts import IMAGE, LATENT_DIM, POSTERIORS

onnxruntime = pytest.importorskip("onnxruntime")

WRITES_ONNX = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 7)
ONNX = pytest.mark.skipif(not WRITES_ONNX, reason="torch 2.6 cannot")


def convolutional() -> pyro_vae.VAE:
    """A VAE of convolutional networks, for real values with a scale of their own."""
    likelihood = pyro_vae.Gaussian(pyro_vae.ImageDecoder(LATENT_DIM, IMAGE, (3,), num_outputs=2), IMAGE)
    return pyro_vae.VAE(IMAGE, LATENT_DIM, (5,), likelihood, posterior=POSTERIORS["diagonal"]("convolutional"))


VAES = {
    "full": lambda: pyro_vae.VAE(IMAGE, LATENT_DIM, (5,), "gaussian", posterior=POSTERIORS["full"]("mlp")),
    "convolutional": convolutional,
}


def run(path, name, data):
    """Run a file on data, as someone without this package would."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(data)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(each) for each in session.run(None, {name: data.numpy()})]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function that exports a VAE by name, once, and returns it, its weights before and the files."""

    @cache
    def of(name, format):
        torch.manual_seed(0)
        vae = VAES[name]()
        before = {key: value.clone() for key, value in vae.state_dict().items()}
        return vae, before, pyro_vae.export(vae, tmp_path_factory.mktemp(name) / "new", format)

    return of


@pytest.mark.parametrize(
    ("name", "format"),
    [("full", "torch"), ("convolutional", "torch"), pytest.param("convolutional", "onnx", marks=ONNX)],
)
def test_the_files_give_what_the_vae_gives(name, format, exported):
    vae, before, (encoder, decoder) = exported(name, format)
    x, z = torch.rand(7, *IMAGE), torch.randn(7, LATENT_DIM)  # another number of data than at exporting
    mean, scale = run(encoder, "x", x)
    q = vae.posterior(x)
    torch.testing.assert_close(mean, q.mean.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scale, q.stddev.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mean, vae.encode(x), rtol=1e-5, atol=1e-5)
    (decoded,) = run(decoder, "z", z)
    torch.testing.assert_close(decoded, vae.likelihood(z).mean.detach(), rtol=1e-5, atol=1e-5)
    assert {path.name for path in encoder.parent.iterdir()} == {encoder.name, decoder.name}
    assert vae.training and all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())


@pytest.mark.cross
def test_a_file_of_torch_needs_neither_pyro_nor_the_package(tmp_path):
    vae = VAES["full"]()
    encoder, _ = pyro_vae.export(vae, tmp_path, "torch")
    x = torch.rand(5, *IMAGE)
    np.save(tmp_path / "x.npy", x.numpy())
    script = f"""
import sys
sys.modules["pyro"] = sys.modules["pyro_vae"] = None
import numpy, torch
x = torch.from_numpy(numpy.load({str(tmp_path / "x.npy")!r}))
numpy.save({str(tmp_path / "mean.npy")!r}, torch.export.load({str(encoder)!r}).module()(x)[0].numpy())
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "mean.npy"), vae.encode(x).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "format", "error", "message"),
    [
        (lambda: pyro_vae.HVAE(IMAGE, (3, 2)), "torch", TypeError, "vae: found HVAE"),
        (VAES["full"], "tflite", ValueError, "format: found 'tflite', expected one of 'onnx', 'torch'"),
        (
            lambda: pyro_vae.VAE(IMAGE, LATENT_DIM, (5,), posterior=POSTERIORS["planar"]("mlp")),
            "torch",
            ValueError,
            "encoder: found a distribution without mean and variance, expected",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(make, format, error, message, tmp_path):
    with pytest.raises(error, match=message):
        pyro_vae.export(make(), tmp_path, format)
    assert list(tmp_path.iterdir()) == []


def test_onnx_is_refused_by_a_torch_that_cannot_write_it(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "__version__", "2.6.0+cpu")
    message = "^format: found 'onnx' with torch 2.6.0.cpu, which cannot write it, expected torch 2.7 or newer, "
    with pytest.raises(ValueError, match=message):
        pyro_vae.export(VAES["full"](), tmp_path)
    assert list(tmp_path.iterdir()) == []


@ONNX
def test_what_onnx_does_not_have_is_named(monkeypatch, tmp_path):
    def fail(*_, **__):
        try:
            raise NotImplementedError("no operator for aten.linalg_cholesky_ex\nand 200 lines more")
        except NotImplementedError as error:
            raise torch.onnx.OnnxExporterError("a report of a page") from error

    monkeypatch.setattr(torch.onnx, "export", fail)
    found = rf"found what torch {re.escape(torch.__version__)} cannot write as ONNX \(no operator for aten.linalg_chol"
    with pytest.raises(ValueError, match=rf"^encoder: {found}esky_ex\), expected format='torch', or a newer torch$"):
        pyro_vae.export(VAES["full"](), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(exporting, "_write_torch", lambda *_: lambda data: (torch.zeros(3, 2), torch.ones(3, 2)))
    with pytest.raises(ValueError, match=r"encoder.pt2: found mean to differ by .*, expected at most 1e-05"):
        pyro_vae.export(VAES["full"](), tmp_path, "torch")
    assert list(tmp_path.iterdir()) == []


@ONNX
def test_a_missing_library_is_named_with_its_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r'export: found onnxscript .* pip install "pyro_vae\[export\]"'):
        pyro_vae.export(VAES["full"](), tmp_path)


def contents(path):
    """Return the bytes of a file; those of an archive are its members'."""
    if path.suffix != ".pt2":
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return b"".join(map(archive.read, archive.namelist()))


@pytest.mark.parametrize("format", ["torch", pytest.param("onnx", marks=ONNX)])
def test_no_file_has_a_path_of_this_machine(format, exported):
    for path in exported("convolutional", format)[2]:
        assert not re.findall(rb"[\w.-]*/[\w./-]+\.py|site-packages", contents(path)), path.name
