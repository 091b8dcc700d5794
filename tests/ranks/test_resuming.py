"""A run on ranks goes on bit by bit, whatever scheduler, optimiser and guide it has."""

from __future__ import annotations

import pytest
import torch

from tests.ranks import resuming
from tests.support import groups

pytestmark = pytest.mark.cross


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_run_goes_on_as_if_nothing_had_been(size, tmp_path):
    if size == 1:
        results = [resuming.resuming(tmp_path)]
    else:
        for process in groups.start(size, tmp_path, f"resuming={tmp_path}"):
            assert process.returncode == 0, process.stderr
        results = groups.results(tmp_path, "resuming", size)
    for case in resuming.CASES:
        (expected, rates), *_ = [found[case, "whole"] for found in results]
        assert len(rates) == 5 and (len(set(rates)) > 1 or "scheduler" not in case)
        for found in results:
            for name in "whole", "resumed":
                weights, others = found[case, name]
                assert others == rates, case
                assert all(torch.equal(weights[key], value) for key, value in expected.items()), (case, name)
            weights, others = found[case, "interrupted"]
            assert len(others) == 2 and not all(torch.equal(weights[key], expected[key]) for key in weights)
