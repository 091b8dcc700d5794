"""Ranks that share a run do what one process does, on the same draws: weights, records, estimates, files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.ranks import agreement, given_noise, scenarios
from tests.support import groups

SHARED = (
    "fit_forms", "fit_normalised", "fit_by_batch_means", "estimates", "failing_gaps", "bound", "diverged", "callbacks",
    "different_calls", "generators", "least_size",
)  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The results of all scenarios on two ranks, and the run that they were interrupted in."""
    folder = tmp_path_factory.mktemp("two")
    run = folder / "run"
    _finished(2, folder, *SHARED, f"interrupted={run}", f"kept={run}", f"resumed={run}", f"draws={folder / 'mixed'}",
              f"command={folder / 'command'}", f"on_disk={folder}", f"drawn_stream={folder}",
              f"different_data={folder}", "left")  # fmt: skip
    return 2, folder, folder / "kept"


@pytest.fixture(scope="module")
def three(two, tmp_path_factory):
    """The results on three ranks, which go on with the run of two."""
    folder, kept = tmp_path_factory.mktemp("three"), two[2]
    _finished(3, folder, *SHARED, f"interrupted={folder / 'run'}", f"resumed={kept}", f"draws={folder / 'mixed'}",
              f"drawn_stream={folder}",
              f"different_data={folder}", "left")  # fmt: skip
    return 3, folder, kept


@pytest.fixture(params=["two", pytest.param("three", marks=pytest.mark.cross)])
def shared(request):
    """The number of ranks, and the folder of their results."""
    return request.getfixturevalue(request.param)[:2]


def _finished(size, folder, *calls):
    for process in groups.start(size, folder, *calls):
        assert process.returncode == 0, process.stderr


@pytest.fixture(scope="module")
def alone():
    """What one process does, each scenario once."""
    kept = {}

    def of(name):
        if name not in kept:
            kept[name] = getattr(scenarios, name)()
        return kept[name]

    return of


def same(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found["weights"], expected["weights"], rtol=0, atol=tolerance)
    for one, other in zip(found["records"], expected["records"], strict=True):
        assert one == pytest.approx(other, rel=0, abs=tolerance)


@pytest.mark.parametrize("form", given_noise.FORMS)
def test_training(shared, alone, form):
    size, folder = shared
    expected = alone("fit_forms")[form]
    first, *others = groups.results(folder, "fit_forms", size)
    same(first[form], expected)
    for other in others:  # bit by bit
        assert all(torch.equal(first[form]["weights"][name], each) for name, each in other[form]["weights"].items())
        assert other[form]["records"] == first[form]["records"]


@pytest.mark.cross
def test_compiled(alone, tmp_path):
    """In float64, to the rounding of other kernels."""
    _finished(2, tmp_path, "fit_compiled", "left")
    for found in groups.results(tmp_path, "fit_compiled", 2):
        same(found, alone("fit_compiled"))
    assert_left(tmp_path, 2)


def assert_left(folder, size):
    if not Path("/proc/self/task").exists():
        pytest.skip("needs the list of threads of Linux")
    for names in groups.results(folder, "left", size):
        assert names and not [name for name in names if "gloo" in name]


def test_a_group_that_is_left_keeps_no_thread(shared):
    """One that ran on while Python ends would abort the process."""
    size, folder = shared
    assert_left(folder, size)


def test_batch_normalisation(shared, alone):
    size, folder = shared
    for found in groups.results(folder, "fit_normalised", size):
        same(found, alone("fit_normalised"))


def test_floors_and_targets_of_the_kl_are_those_of_whole_batches(shared, alone):
    size, folder = shared
    for found in groups.results(folder, "fit_by_batch_means", size):
        for name, expected in alone("fit_by_batch_means").items():
            same(found[name], expected)


def test_calls_that_differ_are_refused_by_all(shared):
    size, folder = shared
    for found in groups.results(folder, "different_calls", size):
        for name, error in found.items():
            assert error is not None and error.startswith(f"ValueError: {name}"), (name, error)
            assert "the same on all" in error


def test_data_that_differ_are_refused_by_all(shared):
    size, folder = shared
    first, *others = groups.results(folder, "different_data", size)
    end = f"found an end after {7 - 2 * size} batches on rank {size - 1} of {size} and more on others"
    assert first["shorter"][0].startswith(f"ValueError: data: {end}")
    assert first["shorter valid"][0].startswith(f"ValueError: valid: {end}")
    assert first["shorter score"][0].startswith(f"ValueError: x: found {[5, 3, 1][:size]} batches on {size} ranks")
    for name in "tensors", "rows", "disk", "sparse":
        assert first[name][0].startswith("ValueError: data: found (") and "the same on all" in first[name][0]
    assert first["drawn"] == first["same"] == (None, [])
    assert first["split"][0] is None and len(first["split"][1]) == 3  # epochs
    for other in others:
        assert other == first | {"split": (None, [])}  # the first one says it


def test_a_stream_that_draws_its_order(shared, tmp_path):
    """All ranks see one order, whatever the caller's generators, and go on with it."""
    found = groups.results(shared[1], "drawn_stream", shared[0])
    alone = agreement.drawn_stream(tmp_path)
    for each in found:
        torch.testing.assert_close(each["score"], alone["score"], rtol=0, atol=1e-9)
        assert all(torch.equal(each["resumed"][name], value) for name, value in each["whole"].items())
        assert all(torch.equal(found[0]["whole"][name], value) for name, value in each["whole"].items())


def test_ranks_go_on_with_the_same_generators_and_workers_draw_apart(shared):
    size, folder = shared
    found = groups.results(folder, "generators", size)
    workers = [each.pop("workers") for each in found]
    assert found == [found[0]] * size
    drawn = [value for each in workers for value in each]
    assert len(set(drawn)) == len(drawn)


def test_a_size_by_memory_is_the_least_of_all_ranks(shared):
    assert groups.results(shared[1], "least_size", shared[0]) == [10] * shared[0]


def test_estimates(shared, alone):
    size, folder = shared
    for found in groups.results(folder, "estimates", size):
        assert len(found["evaluation"]) == 4 + 4  # bounds and KL, gaps
        torch.testing.assert_close(found, alone("estimates"), rtol=0, atol=1e-9, equal_nan=True)


def test_gaps_that_a_rank_cannot_find_are_left_out_by_all(shared):
    size, folder = shared
    for found in groups.results(folder, "failing_gaps", size):
        assert found["notes"] == ["Left out: the gaps of the posteriors. of the last rank"]
        assert "train_test_gap" in found["figures"] and "amortisation_gap_own" not in found["figures"]


def test_mean_bound(shared, alone):
    size, folder = shared
    assert groups.results(folder, "bound", size) == pytest.approx([alone("bound")] * size, rel=1e-12)


def test_divergence_is_found_by_all(shared, alone):
    size, folder = shared
    found = groups.results(folder, "diverged", size)
    assert len(set(found)) == 1 and found[0].partition(" (on rank")[0].startswith("epoch 1, ")
    assert found[0].partition(":")[0] == alone("diverged").partition(":")[0]


def test_callbacks_are_those_of_rank_0_and_score_alone(shared, alone):
    size, folder = shared
    first, *others = groups.results(folder, "callbacks", size)
    assert first["seen"] == pytest.approx(alone("callbacks")["seen"], abs=1e-9) and len(first["seen"]) == 2
    assert [other["seen"] for other in others] == [[]] * (size - 1)
    assert first["size alone"] == 1


def test_the_command(two):
    """Rank 0 prints and writes; a run that is started again goes on in the folder that it was given."""
    first, second = groups.results(two[1], "command", 2)
    assert first["status"] == second["status"] == [0, 0] and second["printed"] == ""
    assert first["printed"].splitlines()[0].endswith(f"results in {two[1] / 'command'}")
    assert {"config.json", "last.safetensors", "metrics.json", "learning_curve.png"} <= set(first["files"])
    lines = (two[1] / "command" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 1  # of as many epochs as it began with


class TestInterruption:
    def test_all_stop_when_one_is_told_to(self, shared):
        size, folder = shared
        found = groups.results(folder, "interrupted", size)
        assert found == [{"interrupted": True, "records": 1, "step": found[0]["step"]}] * size
        assert 10 <= found[0]["step"] < 14

    def test_the_run_goes_on_as_if_nothing_had_been(self, shared, alone):
        size, folder = shared
        pair = given_noise.GivenNoise()
        expected = given_noise.result(pair, given_noise.fit(pair))
        for found in groups.results(folder, "resumed", size):
            same(found, expected)

    def test_one_process_goes_on_with_the_run_of_two(self, two, tmp_path):
        folder = shutil.copytree(two[2].with_name("kept for one"), tmp_path / "run")
        pair = given_noise.GivenNoise()
        same(scenarios.resumed(folder), given_noise.result(pair, given_noise.fit(pair)))
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]

    def test_own_draws_go_on_bit_by_bit(self, shared):
        size, folder = shared
        found = groups.results(folder, "draws", size)
        for each in found:
            assert all(torch.equal(each["whole"][name], value) for name, value in each["resumed"].items())
            assert not torch.equal(each["interrupted"]["decoder.weight"], each["whole"]["decoder.weight"])
            assert all(torch.equal(found[0]["whole"][name], value) for name, value in each["whole"].items())


def test_data_on_disk(two, tmp_path):
    """Two ranks do what one process does, and resume in the middle of an epoch bit by bit."""
    alone, found = scenarios.on_disk(tmp_path), groups.results(two[1], "on_disk", 2)
    for each in found:
        same(each["given"], alone["given"])
    for each in (alone, *found):
        whole, resumed = each["whole"]["weights"], each["resumed"]["weights"]
        assert all(torch.equal(resumed[name], value) for name, value in whole.items())
        assert not torch.equal(each["interrupted"]["weights"]["decoder.weight"], whole["decoder.weight"])
        assert all(torch.equal(found[0]["whole"]["weights"][n], v) for n, v in found[1]["whole"]["weights"].items())
