r"""One page for a run: what it learnt, how well, and where to look, in a file that needs nothing else.

People look before they read. So the page has the curves, the reconstructions, the best and the worst data and a map of
the latents first, each with a sentence that says how to read it, and the table with all errors beside them. A part that
cannot be made for some programs stands there with its reason.

The decoder of the page runs in the browser,

.. math:: (a, b) \;\mapsto\; z = z_0 + a\, v_1 + b\, v_2 \;\mapsto\; \mathbb{E}[x|z] ,

from the same weights, by ONNX Runtime, so that the latent space can be walked without Python and without a network.
"""

from importlib.util import find_spec

if find_spec("matplotlib") is None:
    raise ImportError('reporting: found no matplotlib, expected one: pip install "pyro_vae[report]"')

from pyro_vae.reporting.writing import report

__all__ = ["report"]
