"""IRIS's actor-critic."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from agents.actor_critics.pool_lstm import PoolEncoder, pool_lstm
from envs.spaces import Image
from runners.settings.policies import PoolLstmSettings
from tests.nets import gradients, no_waiting, small_agent, windows

PAST = [(0, 3, 0), (2, 1, 0), (3, 0, 0), (1, 2, 0)]
KIND = "agent.actor_critic.kind=pool_lstm"


@pytest.mark.parametrize("patch", [1, 4])
def test_a_stage_is_convolution_pooling_relu(patch: int) -> None:
    net, x = PoolEncoder(3, widths=(8, 4), patch=patch), torch.rand(2, 3, 64, 64)
    y = F.pixel_unshuffle(2 * x - 1, patch)
    for conv in (net.net[1], net.net[4]):
        assert isinstance(conv, torch.nn.Conv2d)
        y = F.relu(F.max_pool2d(F.conv2d(y, conv.weight, conv.bias, padding=1), 2))
    torch.testing.assert_close(net(x), y)
    assert net.scale == 4 * patch and y.shape == (2, 4, 16 // patch, 16 // patch)


def test_the_defaults_have_as_many_parameters_as_published() -> None:
    numbers = PoolLstmSettings(value="scalar").model_dump(exclude={"kind"})
    with torch.device("meta"):
        net = pool_lstm(space=Image((64, 64, 3)), outputs=18, **numbers)
    counts = [sum(p.numel() for p in part.parameters()) for part in net.children()]
    assert counts == [65_568, 3_149_824, 9_234, 513]


def test_every_parameter_learns_from_imagination() -> None:
    agent, past = small_agent(KIND), windows(PAST)
    loss = agent.policy_loss(agent.lesson(past)).total
    policy = agent.actor_critic
    assert isinstance(policy, torch.nn.Module)
    grads = gradients(policy, loss)
    assert grads.keys() == dict(policy.named_parameters()).keys()
    assert all(g.abs().max() > 0 for g in grads.values())


def test_nothing_waits_for_the_host() -> None:
    agent, past = small_agent(KIND), windows(PAST)
    with no_waiting():
        agent.policy_loss(agent.lesson(past)).total.backward()
