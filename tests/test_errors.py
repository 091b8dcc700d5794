"""Users' mistakes: each is refused before any training, by a message that says what was found and what was expected."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pyro_vae import ELBO, IWAE, ProgramError, log_likelihood, log_weights, training
from pyro_vae.data.split import Split
from tests.support.programs import TutorialGuide, TutorialModel, bits, packaged, refused, vae

X = bits(20)
BAD_COUNTS = [0, -1, 1.5, "3", None]


def with_value(value, index):
    x = X.clone()
    x[index] = value
    return x


class Nothing(IterableDataset):
    def __iter__(self):
        return iter(())


# (data, exception, what the message says after the name of the argument)
BAD_DATA = {
    "wrong shape": (
        torch.zeros(20, 3, 3),
        ValueError,
        r": found data of shape \(N, 3, 3\), expected \(N, 4, 4\) as the likelihood has them",
    ),
    "flat": (
        torch.zeros(20, 16),
        ValueError,
        r": found data of shape \(N, 16\), expected \(N, 4, 4\) as the likelihood has them",
    ),
    "a channel": (
        torch.zeros(20, 1, 4, 4),
        ValueError,
        r": found data of shape \(N, 1, 4, 4\), expected \(N, 4, 4\) as the likelihood has them",
    ),
    "with a mask": (
        torch.zeros(20, 2, 4, 4),
        ValueError,
        r": found data of shape \(N, 2, 4, 4\), expected .*; data with the mask .* take pyro_vae.observed_only",
    ),
    "one datum": (torch.zeros(4, 4), ValueError, r": found data of shape \(N, 4\), expected \(N, 4, 4\)"),
    "scalars": (torch.zeros(20), ValueError, r": found data of shape \(N\), expected \(N, 4, 4\)"),
    "sparse": (
        torch.zeros(20, 4, 4).to_sparse(),
        ValueError,
        r": found a tensor of .*, sparse, expected data, dense",
    ),
    "masked": (
        np.ma.masked_greater(with_value(1.0, (7, 1, 2)).numpy(), 0.5),
        ValueError,
        r": found \d+ masked entries of 320, expected none; pyro_vae.pack keeps the mask",
    ),
    "large numbers": (
        torch.full((20, 4, 4), 2**24 + 1),
        ValueError,
        r": found the whole number 16777217, expected at most 16777216, from where on torch.float32 rounds",
    ),
    "no array": ([[0.0, 1.0]], TypeError, r": found list, expected a tensor, a NumPy array, "),
    "text": (np.array([["a"]]), TypeError, r": found dtype <U1, expected real numbers"),
    "objects": (np.array([[None]]), TypeError, r": found dtype object, expected real numbers"),
    "complex": (X.to(torch.complex64), TypeError, r": found dtype torch.complex64, expected real numbers"),
    "grey": (
        with_value(0.25, (7, 1, 2)),
        ValueError,
        r": found the value 0.25 at \(7, 1, 2\), outside the support of site 'x',"
        r" expected what a Bernoulli covers, Boolean\(\); binarise it \(see pyro_vae.data.load\)",
    ),
    "grey in a split": (
        Split(torch.full((20, 4, 4), 51, dtype=torch.uint8), levels=255),
        ValueError,
        r": found the value 0.2 at \(0, 0, 0\), outside the support of site 'x'",
    ),
    "grey in a loader": (
        DataLoader(TensorDataset(with_value(0.25, (1, 0, 0))), batch_size=5),
        ValueError,
        r": found the value 0.25 at \(1, 0, 0\), outside the support of site 'x'",
    ),
    "bytes": (
        torch.full((20, 4, 4), 255, dtype=torch.uint8),
        ValueError,
        r": found the value 255 at \(0, 0, 0\), outside",
    ),
    "NaN": (with_value(np.nan, (3, 0, 1)), ValueError, r": found nan at index \(3, 0, 1\) of shape .*, expected fin"),
    "NaN array": (
        with_value(np.nan, (3, 0, 1)).numpy(),
        ValueError,
        r": found nan at index \(3, 0, 1\) of shape .*, expected finite numbers",
    ),
    "infinity": (
        with_value(-np.inf, (3, 0, 1)),
        ValueError,
        r": found -inf at index \(3, 0, 1\) of shape .*, expected finite numbers",
    ),
    "NaN in a split": (
        Split(with_value(np.nan, (8, 0, 1))),
        ValueError,
        r": found the value nan at \(8, 0, 1\), expected fin",
    ),
    "infinity in a loader": (
        DataLoader(with_value(np.inf, (2, 3, 3)), batch_size=5),
        ValueError,
        r": found the value inf at \(2, 3, 3\), expected finite numbers",
    ),
    "empty": (
        torch.zeros(0, 4, 4),
        ValueError,
        r": found shape \(0, 4, 4\), expected data \(N, \*data_shape\) with N of 1 or more",
    ),
    "empty split": (Split(torch.zeros(0, 4, 4)), ValueError, r": found no data, expected one"),
    "empty set": (TensorDataset(torch.zeros(0, 4, 4)), ValueError, r": found an empty .*, expected one datum or more"),
    "empty stream": (Nothing(), ValueError, r": found no data, expected one datum or more"),
    "loader without a batch": (
        DataLoader(X, batch_size=21, drop_last=True),
        ValueError,
        r": found no data, expected one",
    ),
    "loader of text": (DataLoader(["a", "b"]), TypeError, r"batch: found str, expected a tensor, or a tuple or list"),
}


@pytest.mark.parametrize(("data", "error", "message"), BAD_DATA.values(), ids=BAD_DATA)
class TestBadData:
    def named(self, name, message):
        return message if message.startswith("batch") else "^" + name + message

    def test_in_training(self, data, error, message, tmp_path):
        program = vae()
        num_data = data.shape[0] if isinstance(data, (torch.Tensor, Split)) else 20
        name = "data"
        if num_data < 5 and "expected data" not in message:  # the larger batch is noticed first
            name, message = "batch_size", f": found 5, expected at most the number of data, {num_data}$"
        refused(program.model, program.guide, data, error, self.named(name, message), tmp_path)

    def test_in_validation(self, data, error, message, tmp_path):
        program = vae()
        refused(program.model, program.guide, X, error, self.named("valid", message), tmp_path, valid=data)

    def test_in_scoring(self, data, error, message):
        program = vae()
        with pytest.raises(error, match=self.named("x", message)):
            log_likelihood(program.model, program.guide, data, num_particles=2, seed=0)


class TestSupport:
    def test_data_that_a_program_flattens_are_judged_too(self, tmp_path):
        # Pyro's tutorial observes x.reshape(-1, 784).
        message = (
            r"^data: found the value 0.25 at \(7, 1, 2\), outside the support of site 'x', expected what a Bernoulli"
        )
        refused(TutorialModel(), TutorialGuide(), with_value(0.25, (7, 1, 2)), ValueError, message, tmp_path)

    def test_what_a_program_makes_of_the_data_is_its_own_affair(self):
        class Threshold(TutorialModel):
            def forward(self, x):
                super().forward((x > 0.5).float())

        grey = X * 0.8 + 0.1
        history = training.fit(Threshold(), TutorialGuide(), grey, batch_size=5, num_epochs=1, progress=False)
        assert len(history.records) == 1

    def test_a_gaussian_takes_any_real_number(self):
        program = packaged("shared", "mlp")
        training.fit(program.model, program.guide, X * 100 - 50, batch_size=5, num_epochs=1, progress=False)

    def test_the_index_is_that_in_the_data_not_in_the_shuffled_batches(self, tmp_path):
        program = vae()
        for row in (0, 11, 19):
            message = rf"found the value 0.5 at \({row}, 0, 0\)"
            refused(program.model, program.guide, with_value(0.5, (row, 0, 0)), ValueError, message, tmp_path)


class TestArguments:
    def test_a_batch_larger_than_the_set(self, tmp_path):
        program = vae()
        message = "^batch_size: found 21, expected at most the number of data, 20$"
        refused(program.model, program.guide, X, ValueError, message, tmp_path, batch_size=21)
        refused(program.model, program.guide, TensorDataset(X), ValueError, message, tmp_path, batch_size=21)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            *(
                ({name: value}, ValueError, f"^{name}: found {value!r}, expected a positive integer$")
                for name in ("num_epochs", "batch_size", "patience")
                for value in (0, -1, 2.5)
            ),
            ({"lr": 0.0}, ValueError, "^lr: found 0.0, expected a positive number"),
            ({"lr": float("nan")}, ValueError, "^lr: found nan, expected a positive number"),
            ({"clip_norm": -1.0}, ValueError, "^clip_norm: found -1.0, expected a positive number"),
            ({"patience": 3}, ValueError, "^patience: found 3 without validation data, expected valid="),
            (
                {"precision": "low"},
                ValueError,
                "^precision: found 'low', expected one of 'highest', 'high', 'medium', 'bf16'$",
            ),
            ({"objective": "elbo"}, TypeError, "^objective: found 'elbo', expected one such as"),
            ({"objective": ELBO}, TypeError, "^objective: found <class .*ELBO'>, expected one such as"),
        ],
    )
    def test_arguments_of_fit(self, options, error, message, tmp_path):
        program = vae()
        refused(program.model, program.guide, X, error, message, tmp_path, **options)

    def test_programs_that_are_no_modules(self):
        program = vae()
        with pytest.raises(TypeError, match=r"^guide: found int, expected a program, which is called with data$"):
            training.fit(program.model, 3, X)
        with pytest.raises(ProgramError, match=r"^site 'z': found in the model, but the guide has the latent"):
            training.fit(program.model, lambda x: None, X, batch_size=6)

    @pytest.mark.parametrize("value", BAD_COUNTS)
    def test_counts_of_particles(self, value):
        program = vae()
        message = f"^num_particles: found {value!r}, expected a positive integer"
        for objective in (ELBO, IWAE):
            with pytest.raises(ValueError, match=message):
                objective(num_particles=value)
        with pytest.raises(ValueError, match=message):
            log_weights(program.model, program.guide, X, value)
        with pytest.raises(ValueError, match=message):
            log_likelihood(program.model, program.guide, X, value)

    @pytest.mark.parametrize("name", ["chunk_size", "batch_size"])
    @pytest.mark.parametrize("value", BAD_COUNTS)
    def test_counts_of_scoring(self, name, value):
        program = vae()
        with pytest.raises(ValueError, match=f"^{name}: found {value!r}, expected a positive integer"):
            log_likelihood(program.model, program.guide, X, 2, **{name: value})

    def test_modes_of_objectives(self):
        with pytest.raises(ValueError, match="^kl: found 'exact', expected one of 'sample', 'analytic'"):
            ELBO(kl="exact")
        with pytest.raises(ValueError, match="^max_plate_nesting: found 0, expected a positive integer"):
            IWAE(max_plate_nesting=0)
