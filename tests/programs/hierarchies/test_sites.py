"""The sites of a hierarchy: their order, what they depend on, and how often the networks run."""

from __future__ import annotations

import torch
from pyro import poutine

from pyro_vae import ELBO
from pyro_vae.inference.importance import trace_pair
from pyro_vae.inference.kl import analytic_kl
from pyro_vae.inference.pair import ProgramPair
from tests.support.hierarchies import X
from tests.support.programs import HIERARCHIES


class TestSites:
    def test_they_are_the_layers_in_the_order_of_the_programs(self, name, program):
        top_first = [*program.latents[::-1]]
        guide = poutine.trace(program.guide).get_trace(X)
        model = poutine.trace(poutine.replay(program.model, guide)).get_trace(X)
        assert [*program.latents] == [f"z{t}" for t in range(1, len(program.latents) + 1)]
        assert [n for n in guide.stochastic_nodes if n != "data"] == top_first[:: -1 if name == "hvae" else 1]
        assert [n for n in model.stochastic_nodes if n != "data"] == top_first
        assert model.observation_nodes == ["x"] and model.nodes["x"]["value"] is X
        for trace, sites in ((guide, top_first), (model, [*top_first, "x"])):
            for site in sites:
                frames = [(frame.name, frame.dim, frame.size) for frame in trace.nodes[site]["cond_indep_stack"]]
                assert frames == [("data", -1, 5)]
                assert trace.nodes[site]["fn"].batch_shape == (5,)
        for site in top_first:
            assert guide.nodes[site]["fn"].event_shape == model.nodes[site]["fn"].event_shape

    def test_the_networks_of_the_data_run_once_a_batch(self, name, program):
        guide = program.guide
        if name == "conv-ladder":
            of_data = [*guide.upward.stages, *(correction.from_data for correction in guide.corrections)]
        elif name.startswith("ladder"):
            of_data = [*guide.encoders, *guide.posteriors]
        else:
            of_data = [guide.posteriors[0 if name == "hvae" else -1]]
            if name == "hvae-top-down":
                of_data += [posterior.network.from_x for posterior in guide.posteriors[:-1]]
        rows = []
        for module in of_data:
            module.register_forward_hook(lambda module, given, _: rows.append((module, len(given[0]))))
        bound = ELBO(num_particles=7).bound(program.model, guide, X)
        assert bound.shape == (5,)
        assert sorted((id(module), n) for module, n in rows) == sorted((id(module), 5) for module in of_data)

    def test_each_layer_depends_on_the_one_above_and_the_guide_on_the_data(self, name, program):
        guide = poutine.trace(program.guide).get_trace(X)
        other = poutine.trace(poutine.replay(program.guide, guide)).get_trace(1 - X)
        blind = program.latents[1:] if name == "hvae" else ()  # bottom-up, a layer sees the one below and no data
        for site in program.latents:
            moved = not torch.equal(guide.nodes[site]["fn"].mean, other.nodes[site]["fn"].mean)
            assert moved == (site not in blind), site
        model = poutine.trace(poutine.replay(program.model, guide)).get_trace(X)
        top = program.latents[-1]
        shifted = poutine.condition(program.model, {**guide_values(guide, program), top: guide.nodes[top]["value"] + 1})
        again = poutine.trace(shifted).get_trace(X)
        below = program.latents[-2]
        assert not torch.equal(model.nodes[below]["fn"].mean, again.nodes[below]["fn"].mean)
        # A chain has forgotten the top once the layer below is given; in the deep ladder all reaches the data.
        assert torch.equal(model.nodes["x"]["fn"].mean, again.nodes["x"]["fn"].mean) == (name != "conv-ladder")


def guide_values(trace, program):
    return {site: trace.nodes[site]["value"] for site in program.latents}


def test_kl_of_a_gaussian_that_is_moved_from_the_prior():
    # With a mean moved by d and a scale multiplied by r, KL = 1/2 (d² / σ² + r² - 1 - log r²), σ the prior's scale.
    program = HIERARCHIES["conv-ladder"]().double()
    x = X.double()
    with torch.no_grad():
        for correction in program.guide.corrections:
            correction.output.weight.normal_()
    pair = trace_pair(ProgramPair(program.model, program.guide), x)
    for site in program.latents:
        prior, moved = pair.model_sites[site]["fn"].base_dist, pair.guide_sites[site]["fn"].base_dist
        d, r = moved.loc - prior.loc, moved.scale / prior.scale
        kl = 0.5 * (d.square() / prior.scale.square() + r.square() - 1 - 2 * r.log())  # (B, C, H, W)
        torch.testing.assert_close(analytic_kl(pair, site, False).sum(-1)[0], kl.flatten(1).sum(1), rtol=1e-10, atol=0)
        assert kl.max() > 0.1
