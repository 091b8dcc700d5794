"""The bits per dimension of a report: of probabilities, and of densities of grey levels that were dequantised."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae.reporting.findings import Findings
from pyro_vae.reporting.sections import numbers
from pyro_vae.reporting.subject import subject_of

LEVELS = np.random.default_rng(0).integers(0, 256, (40, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("program", "data", "num_levels"),
    [
        (pyro_vae.VAE((3,), 2, (4,)), torch.from_numpy(LEVELS % 2).float(), 1),
        (pyro_vae.VAE((3,), 2, (4,), likelihood="gaussian"), pyro_vae.data.load(LEVELS, dequantize=True), 256),
        (pyro_vae.VAE((3,), 2, (4,), likelihood="gaussian"), pyro_vae.data.load(LEVELS, dequantize=True).train, 256),
        (pyro_vae.VAE((3,), 2, (4,), likelihood="gaussian"), pyro_vae.data.load(LEVELS), None),
        (
            pyro_vae.VAE((3,), 2, likelihood=pyro_vae.DiscretizedLogistic(pyro_vae.MLP(2, (2, 3)), (3,))),
            pyro_vae.data.load(LEVELS),
            1,
        ),
    ],
)
def test_bits_per_dimension_are_those_of_levels(program, data, num_levels):
    found = Findings(subject_of(program, data, 4), 5, progress=False)
    shown = {each["name"]: each for each in numbers(found)["numbers"]}
    assert ("bits per dimension" in shown) == (num_levels is not None)
    if num_levels is not None:
        expected = pyro_vae.log_likelihood(program.model, program.guide, found.subject.x, 5, seed=0)
        bits = float(shown["bits per dimension"]["value"])
        assert bits == pytest.approx(expected.bits_per_dim(num_levels), abs=1e-4)


def test_bits_per_dimension_of_a_table_with_a_real_column_are_left_out():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": np.linspace(-1.0, 1.0, 20), "b": ["u", "v"] * 10})
    for names, has_bits in ((["a", "b"], False), (["b"], True)):
        table = pyro_vae.Table.from_frame(frame[names])
        program = table.vae(2, (4,))
        found = Findings(subject_of(program, table.pack(frame[names]), 4), 5, progress=False)
        assert ("bits per dimension" in {each["name"] for each in numbers(found)["numbers"]}) == has_bits
