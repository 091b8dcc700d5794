"""What cannot be compiled runs as it is, with one warning that names the reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyro_vae.compilation.compiled import Compiled
from tests.compilation.test_compiled import X
from tests.support.programs import traced

pytestmark = pytest.mark.usefixtures("without_validation")


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class TestFallback:
    def test_one_warning_that_names_the_reason(self):
        module = Branching()
        compiled = Compiled(lambda x: [module(x)], [module], name="training step", lower=traced)
        with pytest.warns(UserWarning, match=r"^the training step is not compiled: it reads the value of a tensor"):
            assert torch.equal(compiled(-X)[0], X)
        assert torch.equal(compiled(X)[0], X) and torch.equal(compiled(-X)[0], X)
        assert compiled.num_traces == 1

    @pytest.mark.parametrize("wrong", [1.01, float("nan")])
    def test_a_graph_that_gives_something_else(self, wrong):
        compiled = Compiled(lambda x: [x + 1], [], lower=lambda graph, inputs: lambda x: [x + wrong])
        with pytest.warns(UserWarning, match=r"its output 0 came out different by (\d\.\de-\d\d|inf) of its size$"):
            assert torch.equal(compiled(X)[0], X + 1)

    def test_a_graph_that_cannot_be_compiled(self):
        def fails(graph, inputs):
            raise RuntimeError("no compiler\nfound")

        compiled = Compiled(lambda x: [x + 1], [], lower=fails)
        with pytest.warns(UserWarning, match=r"^the function is not compiled: RuntimeError: no compiler$"):
            assert torch.equal(compiled(X)[0], X + 1)

    def test_a_failed_attempt_leaves_generators_and_buffers(self):
        norm = nn.BatchNorm1d(16)

        def function(x):
            return [norm(x.flatten(1)) + torch.rand(len(x), 16)]

        compiled = Compiled(function, [norm], lower=lambda graph, inputs: lambda x, *tensors: [x.flatten(1)])
        torch.manual_seed(3)
        with pytest.warns(UserWarning, match="came out different"):
            found = compiled(X)[0]
        mean = norm.running_mean.clone()
        norm.reset_running_stats()
        torch.manual_seed(3)
        assert torch.equal(found, function(X)[0]) and torch.equal(mean, norm.running_mean)
        assert norm.num_batches_tracked == 1
