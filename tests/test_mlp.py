"""A policy without memory: its network, and everything that carries nothing for it."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from agents.actor_critics.mlp import Hidden, Mlp
from agents.agent import Agent, forget
from agents.critic_targets import SelfRegularised
from agents.returns import Percentiles
from agents.views import Momentary
from envs.probes import CountingGame
from envs.spaces import Vector
from runners.checkpoint import load, save
from runners.evaluate import play
from runners.opening import new_agent
from runners.train import restore
from runners.trainer import Stopped, Trainer
from tests.conformance import check_actor_critic
from tests.nets import NUM_ACTIONS, gradients, shake, shown
from tests.runs import HARDWARE, differences, essence, games, small, trainer_of
from worldmodels.batch import Batch
from worldmodels.nets.heads import VALUE_TARGETS
from worldmodels.protocols import State
from worldmodels.world_model import WorldModel

COUNTING = functools.partial(CountingGame, 4, 5, size=64, num_actions=NUM_ACTIONS, life_every=3)
FEATS = 4 * 4 * 3


class Pooled(Momentary):
    """Shows pictures as the means of their 16 parts (...,FEATS)."""

    looks = True

    def space(self, world_model: WorldModel) -> Vector:
        return Vector(FEATS)

    def real(self, world_model: WorldModel, window: Batch) -> Tensor:
        return self._pooled(window.obs)

    def imagined(self, world_model: WorldModel, state: State) -> Tensor:
        return self._pooled(shown(state))

    def _pooled(self, obs: Tensor) -> Tensor:
        unit = obs.flatten(0, -4).float().movedim(-1, 1) / 255
        return F.adaptive_avg_pool2d(unit, 4).flatten(1).unflatten(0, obs.shape[:-3])


def mlp(value: str = "two_hot", layers: int = 2, feats: int = FEATS) -> Mlp:
    return Mlp(space=Vector(feats), outputs=NUM_ACTIONS, hidden=16, layers=layers, value=value)


def trainer_with_mlp(folder: Path, **hooks: Any) -> Trainer:
    """A small run whose agent has no memory."""
    config = small("run.steps=45")
    usual = new_agent(config, COUNTING().spec, HARDWARE)
    torch.manual_seed(1)
    agent = Agent(
        world_model=usual.world_model,
        view=Pooled(env=COUNTING().spec, context=2),
        actor_critic=mlp("hl_gauss"),
        head=usual.head,
        gradient=usual.gradient,
        horizon=usual.horizon,
        gamma=usual.gamma,
        lam=usual.lam,
        entropy=usual.entropy,
        target_decay=usual.target_decay,
        critic_targets=SelfRegularised(weight=1.0),
        return_scale=Percentiles(low=5, high=95, decay=0.99, limit=1.0),
    )
    return trainer_of(config, folder, games(COUNTING), agent=agent, **hooks)


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("value", sorted(VALUE_TARGETS))
def test_it_keeps_the_promises_of_an_actor_critic(value: str, layers: int) -> None:
    net = mlp(value, layers)
    shake(net)
    check_actor_critic(net, torch.randn(3, 5, FEATS), NUM_ACTIONS)
    assert net.initial(3) == () == net.watch(torch.randn(3, 0, FEATS), torch.ones(3, 0).bool())


def test_it_starts_without_preferences_and_with_values_of_zero() -> None:
    for value in VALUE_TARGETS:
        net = mlp(value)
        decision, _ = net(torch.randn(20, 3, FEATS) * 10, ())
        assert 0 < decision.actor.detach().abs().max() < 0.1
        assert net.value.predict(decision.critic).abs().max() < 1e-4


def test_a_hidden_layer_is_linear_norm_and_silu() -> None:
    layer, x = Hidden(7, 5), torch.randn(4, 7)
    with torch.no_grad():
        layer.norm.weight.copy_(torch.rand(5) + 0.5)
    z = layer.linear(x)
    z = z / (z.square().mean(-1, keepdim=True) + 1e-4).sqrt() * layer.norm.weight
    torch.testing.assert_close(layer(x), z * z.sigmoid())


def test_its_outputs_are_float32_under_autocast() -> None:
    net, x = mlp(), torch.randn(30, 4, FEATS)
    shake(net)
    plain, _ = net(x, ())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decision, _ = net(x, ())
    for ours, exact in ((decision.actor, plain.actor), (decision.critic, plain.critic)):
        assert ours.dtype == torch.float32 and not torch.equal(ours, exact)
        torch.testing.assert_close(ours, exact, atol=0.2, rtol=0.1)
        assert (ours != ours.bfloat16().float()).float().mean() > 0.9


def test_policy_and_critic_share_nothing() -> None:
    net = mlp()
    shake(net)
    decision, _ = net(torch.randn(3, 4, FEATS), ())
    ours = gradients(net, decision.actor.square().sum())
    theirs = gradients(net, net(torch.randn(3, 4, FEATS), ())[0].critic.square().sum())
    assert not ours.keys() & theirs.keys()
    assert ours.keys() | theirs.keys() == {name for name, _ in net.named_parameters()}


def test_there_is_nothing_to_forget() -> None:
    assert forget((), torch.tensor([True, False])) == ()


def test_it_acts_learns_and_is_evaluated(tmp_path: Path) -> None:
    trainer = trainer_with_mlp(tmp_path)
    agent = trainer.agent
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    trainer.run()
    moved = {name for name, value in agent.state_dict().items() if (value != before[name]).any()}
    assert {"actor_critic.actor.weight", "target.critic.weight", "return_scale.spread"} <= moved
    assert trainer.collector.carry == ()
    evaluation, _ = play(agent, games(COUNTING), HARDWARE, episodes=4, seed=0)
    assert len(evaluation.games) == 4


@pytest.mark.parametrize("moments", [8, 20, 33])
def test_a_run_without_memory_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, moments: int
) -> None:
    whole = trainer_with_mlp(tmp_path / "whole")
    whole.run()
    save(tmp_path / "end", whole.state_dict())
    left = iter(range(moments))
    stopped = trainer_with_mlp(tmp_path / "parts", should_stop=lambda: next(left, None) is None)
    with contextlib.suppress(Stopped):
        stopped.run()
    assert stopped.schedule.epochs_left(stopped.at)
    save(tmp_path / "stopped", stopped.state_dict())
    stopped.replay.close()
    again = trainer_with_mlp(tmp_path / "parts")
    restore(again, load(tmp_path / "stopped"), tmp_path / "stopped")
    again.run()
    save(tmp_path / "again", again.state_dict())
    ends = [essence(load(tmp_path / name)) for name in ("end", "again")]
    assert differences(ends[0], ends[1]) == []
