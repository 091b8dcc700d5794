"""Write the networks of a trained VAE to files that run without Pyro."""

from __future__ import annotations

from pyro_vae.sharing import exporting
from pyro_vae.training.checkpoint import load

__all__ = ["export"]


def export(run: str, out: str | None = None, format: exporting.Format = "onnx") -> None:
    """Write the encoder and the decoder of a VAE to files that run without Pyro, by ONNX Runtime or PyTorch.

    Parameters
    ----------
    run
        folder that training or pyro_vae.save wrote
    out
        folder for encoder and decoder, .onnx or .pt2; the folder of the run unless given
    format
        torch is read by torch.export.load alone
    """
    for path in exporting.export(load(run), run if out is None else out, format):
        print(f"written to {path}, and compared with the program")
