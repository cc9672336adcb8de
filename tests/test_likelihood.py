"""What frames cost world models of every kind, by names that compare."""

from __future__ import annotations

import numpy as np
import pytest

from runners.likelihood import likelihood_of
from runners.rollout import undisturbed
from tests.nets import small_agent, windows
from worldmodels.dynamics.diffusion import Diffusion

BATCH = windows([(0, 6, 0)] * 3)


@pytest.mark.parametrize("kind", ["autoregressive", "diffusion", "parallel"])
def test_every_kind_of_dynamics_tells_its_nats_by_one_name(kind: str) -> None:
    agent = small_agent(f"agent.dynamics.kind={kind}")
    with undisturbed(agent, 0):
        found = likelihood_of(agent.world_model, BATCH, 2, np.arange(3))
    tags = found.scalars()
    assert tags["imagination/nll"] > 0
    band = found.bands["nll"]
    assert band.low[0] < band.mean[0] < band.high[0]
    assert found.as_dict()["nll"]["mean"] == tags["imagination/nll"]
    if kind != "diffusion":
        assert list(tags) == ["imagination/nll"] and found.words().endswith("nats")
        return
    at = {n: tags[f"imagination/nll_at_{n}"] for n in (1, 2, 4)}
    assert tags["imagination/nll"] == at[4] and len(tags) == 5
    net = agent.world_model.dynamics
    assert isinstance(net, Diffusion)
    gap = at[net.sampler.steps] - at[4]
    assert tags["imagination/factorization_gap"] == pytest.approx(gap, abs=1e-4)


def test_what_a_dream_remembers_is_what_frames_are_judged_by() -> None:
    agent = small_agent("agent.dynamics.kind=parallel")
    costs = []
    for context in (None, 1, 0):
        agent.world_model.context = context
        with undisturbed(agent, 0):
            costs.append(likelihood_of(agent.world_model, BATCH, 3, np.arange(3)))
    later, agent.world_model.context = BATCH.last(4), None
    with undisturbed(agent, 0):
        short = likelihood_of(agent.world_model, later, 1, np.arange(3))
    means = [c.scalars()["imagination/nll"] for c in (*costs, short)]
    assert means[1] == pytest.approx(means[3], rel=1e-6)
    assert len({round(x, 4) for x in means[:3]}) == 3


def test_noise_without_masks_has_no_nats() -> None:
    at = "agent.dynamics."
    agent = small_agent(
        "agent.dynamics.kind=diffusion", f"{at}process.kind=uniform", f"{at}sampler.kind=reverse"
    )
    with undisturbed(agent, 0):
        found = likelihood_of(agent.world_model, BATCH, 2, np.arange(3))
    assert found.scalars() == {} and found.words() == ""
