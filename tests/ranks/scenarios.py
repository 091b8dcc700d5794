"""What processes of a group do in the tests, each by its own rank, and one process alone for comparison."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import distributed, nn

import pyro_vae
from pyro_vae.commands.options import parse
from pyro_vae.commands.training import run
from pyro_vae.evaluation import gaps
from pyro_vae.evaluation.bounds import mean_bound
from pyro_vae.runtime.ranks import Ranks, alone, ranks
from tests.ranks.given_noise import FORMS, B, D, GivenNoise, data, fit, result


def fit_forms():
    """Train on data of every form, with validation and clipping."""
    found = {}
    for name, make in FORMS.items():
        pair = GivenNoise()
        found[name] = result(pair, fit(pair, make(), valid=data(20), clip_norm=0.5))
    return found


def fit_compiled():
    pair = GivenNoise()
    pair.at_step = None  # a number that changes cannot be compiled
    return result(pair, fit(pair, compile=True))


def fit_normalised():
    """Train with batch normalisation, whose statistics are of whole batches."""
    pair = GivenNoise(normalised=True)
    return result(pair, fit(pair, compile="auto"))


@patch.multiple(gaps, _STEPS=((5, 0.01),), _MOST_DATA=2)  # four parts
def estimates():
    """Estimate log p(x) and what else is shared, by batches, or by chunks where there are fewer batches than ranks."""
    torch.manual_seed(5)
    vae = pyro_vae.VAE(data_shape=(D,), latent_dim=2, hidden_dims=(8,), likelihood="gaussian").double()
    pair, x = (vae.model, vae.guide), data()[0]
    found = {"likelihood": pyro_vae.log_likelihood(*pair, x, 40, batch_size=7, seed=2)}
    found["likelihood of few"] = pyro_vae.log_likelihood(*pair, x[:2], 50, chunk_size=8, seed=2)
    found["annealed"] = pyro_vae.ais(*pair, x[:9], 4, 5, batch_size=2, seed=2)
    found["annealed, few"] = pyro_vae.ais(*pair, x[:1], 1200, 2, seed=2)
    tables = {name: [*each, each.acceptance, each.num_dims] for name, each in found.items()}
    diagnosis = pyro_vae.diagnose(*pair, x, batch_size=7)
    evaluation = pyro_vae.evaluate(*pair, x, num_particles=30, num_refined=7, annealed=False, progress=False)
    tables["diagnosis"] = [diagnosis.elbo, diagnosis.elbo_error, diagnosis.kl["z"], diagnosis.activity["z"]]
    tables["evaluation"] = [figure.mean for figure in evaluation.figures.values()]
    return tables


@patch.multiple(gaps, _STEPS=((1, 0.01),), _MOST_DATA=2)
def failing_gaps():
    """Evaluate where the last rank cannot refine its part; return what is said of it, and the figures after it."""
    bounds_of = gaps._bounds_of

    def fails(*args):
        if ranks().rank == ranks().size - 1:
            raise ZeroDivisionError("of the last rank")
        return bounds_of(*args)

    pair = pyro_vae.VAE(data_shape=(D,), latent_dim=2, hidden_dims=(8,), likelihood="gaussian").double()
    data_of_both = pyro_vae.data.Splits(*(pyro_vae.data.Split(data(num)[0]) for num in (20, 8, 8)), name="own")
    with patch.object(gaps, "_bounds_of", fails):
        found = pyro_vae.evaluate(
            pair.model, pair.guide, data_of_both, num_particles=30, annealed=False, progress=False
        )
    return {"notes": list(found.notes), "figures": list(found.figures)}


def bound():
    """Take the mean bound of data that ranks share."""
    pair = GivenNoise()
    return mean_bound(pair.model, pair.guide, data(), pyro_vae.ELBO(), batch_size=B)


def fit_by_batch_means():
    """Train with a floor under the KL, and with a target of it, which act on means over whole batches."""
    found = {}
    for objective in pyro_vae.ELBO(free_bits=1.9), pyro_vae.ELBO(capacity=1.8):
        pair = GivenNoise()
        found[repr(objective)] = result(pair, fit(pair, objective=objective, valid=data(20), compile="auto"))
    return found


def stop(rank, signum=signal.SIGTERM):
    """Send a signal to the process of one rank."""
    if ranks().rank == rank:
        os.kill(os.getpid(), signum)


def interrupted(folder):
    """Train until rank 1, or one process alone, is told to stop in the second epoch."""
    pair = GivenNoise()
    pair.at_step = {10: lambda: stop(ranks().size - 1)}
    history = fit(pair, checkpoint=folder)
    return {"interrupted": history.interrupted, "records": len(history.records), "step": pair.num_steps}


def kept(folder):
    """Copy an interrupted run twice, for other numbers of ranks to go on with."""
    for name in ("kept", "kept for one") if ranks().is_first else ():
        shutil.copytree(folder, Path(folder).with_name(name))


def resumed(folder):
    pair = GivenNoise()
    return result(pair, fit(pair, checkpoint=folder, resume=True))


def draws(folder):
    """Train a program with draws of its own, in one go and with an interruption; each process has its own weights."""
    kept = []
    for name in ("whole", "parts", "parts"):
        pair = GivenNoise(is_given=False)
        nn.init.normal_(pair.encoder.weight, generator=torch.Generator().manual_seed(ranks().rank))
        if len(kept) == 1:
            pair.at_step = {10: lambda: stop(1)}
        fit(pair, checkpoint=Path(folder) / name, resume=len(kept) == 2)
        kept.append({name: value.clone() for name, value in pair.state_dict().items()})
    return dict(zip(("whole", "interrupted", "resumed"), kept, strict=True))


def diverged():
    """Train until the weights are infinite on all ranks; return what is said of it."""
    pair = GivenNoise()
    try:
        fit(pair, lr=1e200)
    except FloatingPointError as error:
        return str(error)
    return None


def callbacks():
    """Score in a callback, which rank 0 alone is called with."""
    pair, seen = GivenNoise(), []

    def callback(record):
        seen.append(mean_bound(pair.model, pair.guide, data(), pyro_vae.ELBO(), seed=0))

    fit(pair, num_epochs=2, callbacks=[callback])
    with alone():
        size = ranks().size
    return {"seen": seen, "size alone": size}


def command(folder):
    """Train by the command, in a folder that is named, and go on there as after a start by a launcher."""
    found = []
    for restarts in "0", "1":
        os.environ["TORCHELASTIC_RESTART_COUNT"] = restarts
        args = parse(["--epochs", "1", "--eval-particles", "20", "--no-report", "--out", folder], "")
        with redirect_stdout(io.StringIO()) as out:
            found.append(run(args, "train"))
    return {"status": found, "printed": out.getvalue(), "files": sorted(os.listdir(folder))}


def killed(folder):
    """Train until rank 1 is killed in the middle of an epoch."""
    pair = GivenNoise()
    pair.at_step = {10: lambda: stop(1, signal.SIGKILL)}
    return error_of(lambda: fit(pair, checkpoint=folder))


@patch.object(sys.modules[Ranks.__module__], "_GRACE", 1.0)
def failing():
    """Train until rank 1 alone meets an error in its program."""

    def fail():
        if ranks().rank == 1:
            raise ZeroDivisionError("of rank 1")

    pair = GivenNoise()
    pair.at_step = {5: fail}
    return [error_of(lambda: fit(pair)), error_of(lambda: fit(pair))]


def left():
    """Leave the group after all else, and return the names of the threads that go on."""
    distributed.destroy_process_group()
    return [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").glob("*")]


@patch.object(sys.modules[Ranks.__module__], "_GRACE", 1.0)
def different():
    """Call one function on rank 0 and another one on rank 1."""
    pair = GivenNoise()
    calls = [lambda: fit(pair), lambda: pyro_vae.diagnose(pair.model, pair.guide, data())]
    return error_of(calls[ranks().rank])


def error_of(function):
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def on_disk(folder):
    """Train on data on disk, in one go, on given noise and on own draws, and with an interruption in an epoch."""
    path, kept = Path(folder) / "x.npy", []
    ranks().first(lambda: np.save(path, data()[0].numpy()))
    for index, name in enumerate(("given", "whole", "parts", "parts")):
        stored = pyro_vae.data.Stored((path, data()[1]), window_bytes=800)  # 20 of the 50 rows
        pair = GivenNoise(is_given=name == "given")
        if index == 2:
            pair.at_step = {10: lambda: stop(ranks().size - 1)}
        history = fit(pair, stored, checkpoint=Path(folder) / f"{name}-{ranks().size}", resume=index == 3)
        assert history.interrupted == (index == 2)
        kept.append(result(pair, history))
    return dict(zip(("given", "whole", "interrupted", "resumed"), kept, strict=True))
