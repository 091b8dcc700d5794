"""One long run at a time in a process; short ones wait for each other."""

from __future__ import annotations

import threading

import pytest
import torch

import pyro_vae
from pyro_vae.errors import ConcurrentRunError
from pyro_vae.runtime.exclusive import exclusive

X = torch.bernoulli(torch.full((12, 4), 0.5))


def in_a_thread(function):
    """The result of a function that is run in another thread, or the error that it raised."""
    results = []

    def run():
        try:
            results.append(function())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, name="another")
    thread.start()
    thread.join()
    return results[0]


def vae():
    return pyro_vae.VAE((4,), 2, (5,))


def fit(program, **options):
    return pyro_vae.fit(program.model, program.guide, X, num_epochs=1, batch_size=6, progress=False, **options)


REFUSED = {
    "fit": lambda program: fit(program),
    "log_likelihood": lambda program: pyro_vae.log_likelihood(program.model, program.guide, X, 2),
    "diagnose": lambda program: pyro_vae.diagnose(program.model, program.guide, X),
    "refine": lambda program: pyro_vae.refine(program.model, program.guide, X, 1, progress=False),
    "evaluate": lambda program: pyro_vae.evaluate(
        program.model, program.guide, X, num_particles=2, num_refined=0, annealed=False, progress=False
    ),
    "impute": lambda program: pyro_vae.impute(program.model, program.guide, X, num_particles=2),
    "sample": lambda program: program.sample(2),
    "encode": lambda program: program.encode(X),
    "log_weights": lambda program: pyro_vae.log_weights(program.model, program.guide, X),
}


@pytest.mark.parametrize("name", REFUSED)
def test_while_a_run_is_under_way_another_thread_is_refused(name):
    found = []
    fit(vae(), callbacks=[lambda record: found.append(in_a_thread(lambda: REFUSED[name](vae())))])
    assert isinstance(found[0], ConcurrentRunError)
    assert str(found[0]).startswith(f"{name}: found fit under way in thread 'MainThread', expected one run at a time")
    assert not isinstance(in_a_thread(lambda: REFUSED[name](vae())), Exception)  # once it is over


def test_two_fits_in_two_threads():
    """One of the two, or both one after the other; never a mixture."""
    alone = fit(vae_of(0), seed=0).records[0]["train_bound"]
    start, results, programs = threading.Barrier(2), [], [vae_of(0), vae_of(0)]

    def run():
        program = programs.pop()
        start.wait()
        try:
            results.append(fit(program, seed=0).records[0]["train_bound"])
        except ConcurrentRunError:
            results.append(alone)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [alone, alone]


def vae_of(seed):
    torch.random.default_generator.manual_seed(seed)
    return vae()


def test_the_thread_of_a_run_may_score_within_it():
    program, found = vae(), []
    fit(program, callbacks=[lambda record: found.append(REFUSED["log_likelihood"](program))])
    assert len(found[0].values) == 12


def test_brief_runs_wait_for_each_other():
    program = vae()
    expected, found = program.encode(X), []
    threads = [
        threading.Thread(target=lambda: found.extend(program.encode(X) for _ in range(10))) for _ in range(4)
    ]  # the threads take turns within a run of the guide
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40 and all(torch.equal(each, expected) for each in found)


def test_brief_runs_of_several_particles_wait_for_each_other():
    program = vae()
    results = []

    def run():
        results.extend(pyro_vae.IWAE(3).bound(program.model, program.guide, X).shape for _ in range(20))
        results.extend(pyro_vae.log_weights(program.model, program.guide, X, 3).shape for _ in range(20))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count((12,)) == results.count((3, 12)) == 80


def test_it_is_let_go_after_an_error():
    with pytest.raises(KeyError), exclusive("one"):
        raise KeyError
    assert in_a_thread(lambda: fit(vae())).records
