"""Where a critic's targets come from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from agents.agent import Agent, Lesson, values
from agents.returns import lambda_returns
from tests.nets import assert_same, gradients, shake, small_agent, windows
from worldmodels.nets.heads import VALUE_TARGETS

PAST = [(0, 3, 0), (2, 1, 0), (3, 0, 0), (1, 2, 0)]


def agent_of(kind: str, *words: str) -> Agent:
    """An agent whose slow critic says something else than its online one."""
    agent = small_agent(f"agent.behaviour.critic_targets.kind={kind}", *words)
    shake(agent.target)
    return agent


def lesson_of(agent: Agent, seed: int = 0) -> Lesson:
    torch.manual_seed(seed)
    return agent.lesson(windows(PAST))


def judged(agent: Agent, lesson: Lesson) -> tuple[Tensor, Tensor]:
    """The values (B,H) that the online critic and the slow one give to the lesson's moments."""
    past = windows(PAST)
    with torch.no_grad():
        online = values(agent.actor_critic, lesson.x, lesson.carry)
        behind = agent.target.watch(past.obs[:, :-1], past.seen[:, :-1])
        return online, values(agent.target, lesson.x, behind)


def test_the_baseline_is_of_the_critic_that_judges() -> None:
    for kind in ("target_network", "self_regularised"):
        agent = agent_of(kind)
        lesson = lesson_of(agent)
        online, slow = judged(agent, lesson)
        assert (online - slow).abs().max() > 0.1
        judge = slow if kind == "target_network" else online
        torch.testing.assert_close(lesson.baseline, judge, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(lesson.slow, slow, atol=1e-4, rtol=1e-3)


def test_returns_of_a_critic_that_judges_itself_do_not_ask_the_slow_one() -> None:
    agent = agent_of("self_regularised")
    before = lesson_of(agent)
    shake(agent.target)
    after = lesson_of(agent)
    assert torch.equal(before.ret, after.ret) and torch.equal(before.baseline, after.baseline)
    assert not torch.equal(before.slow, after.slow)
    # With the online critic as its own slow one, both kinds teach the same.
    agent.target.load_state_dict(agent.actor_critic.state_dict())  # type: ignore[attr-defined]
    same = lesson_of(agent)
    other = agent_of("target_network")
    other.load_state_dict(agent.state_dict())
    torch.testing.assert_close(lesson_of(other).ret, same.ret)
    assert torch.equal(same.ret, before.ret)


def test_the_bootstrap_is_of_the_critic_that_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_of("self_regularised")
    seen: list[Tensor] = []

    def spy(rew: Tensor, end: Tensor, value: Tensor, *, gamma: float, lam: float) -> Tensor:
        seen.append(value)
        return lambda_returns(rew, end, value, gamma=gamma, lam=lam)

    monkeypatch.setattr("agents.agent.lambda_returns", spy)
    lesson = lesson_of(agent)
    assert seen[0].shape == (4, agent.horizon + 1)
    assert torch.equal(seen[0][:, :-1], lesson.baseline)


@pytest.mark.parametrize("value", sorted(VALUE_TARGETS))
def test_the_pull_to_the_slow_critic_is_its_loss_times_the_weight(value: str) -> None:
    words = (f"agent.actor_critic.value={value}", "agent.behaviour.critic_targets.weight=0.3")
    agent = agent_of("self_regularised", *words)
    lesson = lesson_of(agent)
    lesson = replace(lesson, mask=torch.ones_like(lesson.mask))
    loss = agent.policy_loss(lesson)
    decision, _ = agent.actor_critic(lesson.x, lesson.carry)
    target = VALUE_TARGETS[value]
    pull = 0.3 * target.loss(decision.critic, lesson.slow).mean()
    torch.testing.assert_close(loss.parts["slow_value_loss"], pull)
    returns = target.loss(decision.critic, lesson.ret).mean()
    torch.testing.assert_close(loss.parts["value_loss"], returns)
    policy, entropy = loss.parts["policy_loss"], loss.parts["entropy"]
    torch.testing.assert_close(loss.total, policy - agent.entropy * entropy + returns + pull)


def test_a_pull_without_weight_is_none() -> None:
    agent = agent_of("self_regularised", "agent.behaviour.critic_targets.weight=0")
    plain = agent_of("target_network")
    plain.load_state_dict(agent.state_dict())
    lesson = lesson_of(agent)
    ours = gradients(agent, agent.policy_loss(lesson).total)
    assert_same(ours, gradients(plain, plain.policy_loss(lesson).total))
