"""Policy gradients beside exact ones, and updates of every learner."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agents.agent import Agent, Lesson
from agents.protocols import Learner
from runners.hardware import Hardware
from runners.phases import Phase, rows
from tests.nets import (
    assert_same,
    cut,
    no_waiting,
    shake,
    small_agent,
    windows,
)
from worldmodels.batch import Batch
from worldmodels.nets.heads import VALUE_TARGETS

PAST = [(0, 3, 0), (2, 1, 0), (3, 0, 0), (1, 2, 0)]
CPU = Hardware(torch.device("cpu"), torch.float32)


def phase_of(learner: Learner, batch: int, **changed: Any) -> Phase:
    usual = {"updates": 1, "first_updates": 1, "after_epoch": 0, "lr": 1e-3, "weight_decay": 0.01}
    return Phase(learner, CPU, batch=batch, frames=4, **{**usual, "clip": 10.0, **changed})


def policy(agent: Agent) -> nn.Module:
    assert isinstance(agent.actor_critic, nn.Module)
    return agent.actor_critic


def target(agent: Agent) -> nn.Module:
    assert isinstance(agent.target, nn.Module)
    return agent.target


@dataclass(frozen=True)
class Table:
    actor: Tensor
    critic: Tensor


class Bandit(nn.Module):
    """A policy that ignores what it sees; a critic that says 0."""

    value = VALUE_TARGETS["scalar"]

    def __init__(self, probs: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(probs.log())

    def forward(self, x: Tensor, carry: Any) -> tuple[Table, Any]:
        shape = (*x.shape[:2], len(self.theta))
        return Table(self.theta.expand(shape), torch.zeros(*x.shape[:2], 1)), carry


@pytest.mark.parametrize("baseline", [0.0, 3.7])
def test_the_gradient_is_that_of_the_expected_return(baseline: float) -> None:
    agent, bandit = (
        small_agent("agent.behaviour.entropy=0"),
        Bandit(torch.tensor([0.5, 0.25, 0.25])),
    )
    agent.actor_critic = bandit  # type: ignore[assignment]
    # Two steps; every pair of actions as often as the policy takes it.
    often = torch.tensor([0, 0, 1, 2])
    act = torch.cartesian_prod(often, often)
    payoff = torch.tensor([1.0, -2.0, 0.5])
    rew = torch.stack((payoff[act[:, 0]], payoff[act[:, 1]] * (1 + act[:, 0])), 1)
    ret = torch.stack((rew.sum(1), rew[:, 1]), 1)
    same = torch.full_like(ret, baseline)
    frames = torch.zeros(16, 2, 1)
    lesson = Lesson(frames, act, ret, same, same, torch.ones(16, 2).bool(), ())
    (ours,) = torch.autograd.grad(agent.policy_loss(lesson).total, bandit.theta)
    probs = bandit.theta.softmax(-1)
    second = (probs * (1 + torch.arange(3))).sum() * (probs * payoff).sum()
    (exact,) = torch.autograd.grad((probs * payoff).sum() + second, bandit.theta)
    torch.testing.assert_close(ours, -exact / 2, atol=1e-6, rtol=1e-5)


def test_the_entropy_bonus_makes_the_policy_more_even() -> None:
    agent, bandit = small_agent("agent.behaviour.entropy=1"), Bandit(torch.tensor([0.7, 0.2, 0.1]))
    agent.actor_critic = bandit  # type: ignore[assignment]
    none = torch.zeros(1, 1)
    lesson = Lesson(torch.zeros(1, 1, 1), none.long(), none, none, none, none == 0, ())
    (grad,) = torch.autograd.grad(agent.policy_loss(lesson).total, bandit.theta)
    after = (bandit.theta - 0.1 * grad).softmax(-1)
    assert after[0] < 0.7 and after[2] > 0.1


def test_the_target_follows_after_the_step_exactly() -> None:
    agent, past = small_agent("agent.behaviour.target_decay=0.9"), windows(PAST)
    shake(agent.target)
    learner = agent.learners()[2]
    phase = phase_of(learner, 4)
    before = [p.detach().clone() for p in target(agent).parameters()]
    phase.update(past)
    for old, new, online in zip(
        before, target(agent).parameters(), policy(agent).parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * online, atol=1e-6, rtol=1e-5)
    assert all(p.grad is None for p in target(agent).parameters())


def test_the_policy_gradient_is_divided_by_the_scale_of_earlier_returns() -> None:
    words = "agent.behaviour.return_scale.kind=percentiles", "agent.behaviour.entropy=0"
    agent, past = small_agent(*words), windows(PAST)
    lesson = agent.lesson(past)
    lesson = replace(lesson, ret=lesson.ret * 1000)
    plain = agent.policy_loss(lesson).parts
    learner = replace(agent.learners()[2], prepare=lambda _: lesson)
    phase_of(learner, 4, lr=0.0, weight_decay=0.0).update(past)
    scale = agent.state_dict()["return_scale.spread"]
    assert scale > 2
    scaled = agent.policy_loss(lesson).parts
    torch.testing.assert_close(scaled.pop("policy_loss") * scale, plain.pop("policy_loss"))
    assert_same(scaled, plain)


def test_a_learner_moves_its_own_module_alone() -> None:
    agent = small_agent("agent.behaviour.return_scale.kind=percentiles")
    batch = windows([(0, 3, 0)] * 4)
    own: dict[str, tuple[str, ...]] = {
        "tokenizer": ("world_model.tokenizer.",),
        "world_model": ("world_model.dynamics.",),
        "policy": ("actor_critic.", "target.", "return_scale."),
    }
    for learner in agent.learners():
        before = {k: v.clone() for k, v in agent.state_dict().items()}
        phase_of(learner, 4).update(batch)
        moved = {k for k, v in agent.state_dict().items() if not torch.equal(v, before[k])}
        assert moved and all(k.startswith(own[learner.name]) for k in moved), learner.name


def updated(number: int, size: int, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and metrics after one update in slices of `size` rows."""
    torch.manual_seed(0)
    agent = small_agent("agent.tokenizer.quantizer.revive_updates=0")
    learner = agent.learners()[number]
    torch.manual_seed(1)
    ready = rows(learner.prepare(batch), 0, len(batch.act))
    if number == 2:
        mask = ready.mask.clone()
        mask[0, 1:], mask[1, 2:] = False, False
        ready = replace(ready, mask=mask)
    phase = phase_of(replace(learner, prepare=lambda _: ready), len(batch.act))
    phase.slice = size
    # Adam would divide gradients that are zero but for rounding by their size.
    phase.optimizer = torch.optim.SGD(phase.parameters, lr=0.1)  # type: ignore[assignment]
    metrics = phase.update(batch)
    return agent.state_dict(), metrics


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_slices_give_what_the_whole_batch_gives(number: int, size: int) -> None:
    batch = windows([(0, 3, 0), (2, 1, 0), (0, 2, 1), (3, 0, 0), (1, 1, 1)])
    batch = windows([(0, 3, 0), (2, 1, 0), (1, 2, 0), (3, 0, 0)]) if number == 2 else batch
    whole, sliced = updated(number, len(batch.act), batch), updated(number, size, batch)
    assert_same(whole[0], sliced[0], atol=1e-5)
    assert_same(whole[1], sliced[1], atol=1e-5)


def test_steps_on_the_same_dreams_are_updates_that_dream_once() -> None:
    batch = windows([(0, 3, 0), (2, 1, 0)])

    def learned(repeats: int, updates: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        torch.manual_seed(0)
        learner = small_agent("agent.behaviour.return_scale.kind=percentiles").learners()[2]
        lesson, asked = learner.prepare(batch), []

        def prepare(past: Batch) -> Any:
            asked.append(past)
            return lesson

        phase = phase_of(replace(learner, prepare=prepare), 2, repeats=repeats)
        metrics = [phase.update(batch) for _ in range(updates)]
        assert len(asked) == updates
        return learner.module.state_dict(), metrics[-1]

    often, once = learned(repeats=3, updates=1), learned(repeats=1, updates=3)
    assert_same(often[0], once[0])
    assert_same(often[1], once[1])


def test_weight_decay_is_for_linear_weights_only() -> None:
    agent = small_agent()
    for learner in agent.learners():
        phase = phase_of(learner, 4, weight_decay=0.5)
        decayed, others = phase.optimizer.param_groups
        assert (decayed["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
        linear = {id(m.weight) for m in learner.module.modules() if isinstance(m, nn.Linear)}
        assert {id(p) for p in decayed["params"]} == linear
        everything = {id(p) for p in learner.module.parameters()}
        assert {id(p) for p in others["params"]} == everything - linear
        assert decayed["lr"] == 1e-3 and decayed["betas"] == (0.9, 0.999)
        assert decayed["eps"] == 1e-8


def test_gradients_are_clipped_by_their_norm() -> None:
    batch = windows([(0, 3, 0)] * 2)
    learner = small_agent().learners()[1]
    phase = phase_of(learner, 2, clip=1e-3)
    norm = phase.update(batch)["grad_norm"]
    grads = [p.grad for p in phase.parameters if p.grad is not None]
    clipped = torch.cat([g.flatten() for g in grads]).norm()
    assert norm > 1e-2 and clipped == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_update_waits_for_the_host(dtype: torch.dtype) -> None:
    agent = small_agent(
        "agent.tokenizer.quantizer.revive_updates=9",
        "agent.behaviour.return_scale.kind=percentiles",
        "agent.behaviour.critic_targets.kind=self_regularised",
    )
    past = windows(PAST)
    for learner in agent.learners():
        phase = phase_of(learner, 4)
        phase.hardware = Hardware(torch.device("cpu"), dtype)
        phase.slice = 4
        phase.update(past)
        with no_waiting():
            metrics = phase.update(past)
        assert all(v.isfinite() for v in metrics.values())


def test_learning_without_a_past() -> None:
    agent = small_agent()
    past = cut(windows(PAST), slice(None), slice(3, 3))
    loss = agent.policy_loss(agent.lesson(past))
    assert loss.total.isfinite()
