"""Agents: the policy's memory, acting, and what imagination teaches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from agents.agent import Agent
from agents.critic_targets import CRITIC_TARGETS
from agents.returns import alive, lambda_returns
from tests.nets import (
    NUM_ACTIONS,
    assert_same,
    gradients,
    scribble,
    shake,
    shown,
    small_agent,
    windows,
)
from worldmodels.nets.heads import VALUE_TARGETS

PAST = [(0, 3, 0), (2, 1, 0), (3, 0, 0), (1, 2, 0)]


def policy(agent: Agent) -> nn.Module:
    assert isinstance(agent.actor_critic, nn.Module)
    return agent.actor_critic


def test_a_stretch_at_once_equals_step_by_step() -> None:
    agent, obs = small_agent(), windows([(0, 5, 0)] * 3).obs
    whole, last = agent.actor_critic(obs, agent.actor_critic.initial(3))
    carry = agent.actor_critic.initial(3)
    for t in range(6):
        step, carry = agent.actor_critic(obs[:, t : t + 1], carry)
        torch.testing.assert_close(step.actor[:, 0], whole.actor[:, t], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(step.critic[:, 0], whole.critic[:, t], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(carry, last, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        agent.actor_critic.watch(obs, torch.ones(3, 6).bool()), last, atol=1e-5, rtol=1e-4
    )


def test_watching_counts_real_frames_only() -> None:
    agent, past = small_agent(), windows(PAST)
    carry = agent.watch(past)
    assert all(torch.equal(a, b) for a, b in zip(carry, agent.watch(scribble(past)), strict=True))
    for row, (left, steps, _) in enumerate(PAST):
        if steps == 0:
            assert all(not c[row].any() for c in carry)
            continue
        obs = past.obs[row : row + 1, left:-1]
        _, alone = agent.actor_critic(obs, agent.actor_critic.initial(1))
        for ours, theirs in zip(carry, alone, strict=True):
            torch.testing.assert_close(ours[row : row + 1], theirs, atol=1e-6, rtol=1e-4)


def test_acting_and_learning_see_the_same_logits() -> None:
    agent, past = small_agent(), windows(PAST)
    lesson = agent.lesson(past)
    decision, _ = agent.actor_critic(lesson.x, lesson.carry)
    carry = agent.watch(past)
    assert torch.equal(lesson.x[:, 0], past.obs[:, -1])
    for t in range(agent.horizon):
        logits, value, carry = agent.judge(lesson.x[:, t], carry)
        torch.testing.assert_close(logits, decision.actor[:, t], atol=1e-5, rtol=1e-4)
        expected = agent.actor_critic.value.predict(decision.critic[:, t])
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-3)


def test_actions_are_drawn_from_the_policy_at_a_temperature() -> None:
    agent, frame = small_agent(), windows([(0, 1, 0)]).obs[:, 0]
    many, carry = frame.expand(1, -1, -1, -1), agent.actor_critic.initial(1)
    logits = agent.judge(many, carry)[0][0]
    for temperature in (1.0, 0.3, 3.0):
        drawn = torch.cat([agent.act(many, carry, temperature)[0] for _ in range(1000)])
        shares = drawn.bincount(minlength=NUM_ACTIONS) / 1000
        expected = (logits / temperature).softmax(-1)
        assert (shares - expected).abs().max() < 0.07
    _, after = agent.act(many, carry)
    torch.testing.assert_close(after, agent.judge(many, carry)[2])


def test_a_lesson_holds_returns_and_baselines_of_the_target_network() -> None:
    agent, past = small_agent(), windows(PAST)
    shake(agent.target)
    torch.manual_seed(3)
    lesson = agent.lesson(past)
    torch.manual_seed(3)
    state, carry = agent.world_model.start(past), agent.watch(past)
    obs, rew, end, frames = past.obs[:, -1], [], [], [past.obs[:, -1]]
    for t in range(agent.horizon):
        act, carry = agent.act(obs, carry)
        assert torch.equal(act, lesson.act[:, t])
        state, prediction = agent.world_model.imagine(state, act)
        obs = shown(state)
        frames.append(obs)
        rew.append(prediction.rew)
        end.append(prediction.end)
    assert torch.equal(lesson.x, torch.stack(frames[:-1], 1))
    with torch.no_grad():
        behind = agent.target.watch(past.obs[:, :-1], past.seen[:, :-1])
        decision, _ = agent.target(torch.stack(frames, 1), behind)
        value = agent.target.value.predict(decision.critic)
    over = torch.stack(end, 1)
    ret = lambda_returns(torch.stack(rew, 1), over, value, gamma=agent.gamma, lam=agent.lam)
    torch.testing.assert_close(lesson.ret, ret, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(lesson.baseline, value[:, :-1], atol=1e-4, rtol=1e-3)
    assert torch.equal(lesson.mask, alive(over))
    torch.testing.assert_close(lesson.carry, agent.watch(past))


def test_padding_changes_no_lesson() -> None:
    agent, past = small_agent(), windows(PAST)
    lessons = []
    for variant in (past, scribble(past)):
        torch.manual_seed(2)
        lesson = agent.lesson(variant)
        lessons.append({k: v for k, v in vars(lesson).items() if k != "carry"})
    assert_same(lessons[0], lessons[1])


def test_a_lesson_under_autocast_keeps_values_and_returns_in_float32() -> None:
    agent, past = small_agent(), windows(PAST)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lesson = agent.lesson(past)
        loss = agent.policy_loss(lesson)
    assert lesson.ret.dtype == lesson.baseline.dtype == torch.float32
    assert all(c.dtype == torch.float32 for c in lesson.carry)
    assert all(part.dtype == torch.float32 for part in loss.parts.values())
    # bfloat16 would leave at most 8 bits of each number.
    assert (lesson.baseline != lesson.baseline.bfloat16().float()).float().mean() > 0.9


def test_the_policy_loss_moves_the_policy_alone_through_time() -> None:
    agent, past = small_agent(), windows(PAST)
    lesson = agent.lesson(past)
    grads = gradients(agent, agent.policy_loss(lesson).total)
    assert grads.keys() == {f"actor_critic.{n}" for n, _ in policy(agent).named_parameters()}
    assert all(g.abs().max() > 0 for g in grads.values())
    # Only the last step counts: what the first frame left in memory still gets its gradient.
    last = torch.zeros_like(lesson.mask)
    last[:, -1] = True
    x = lesson.x.float().requires_grad_()
    agent.policy_loss(replace(lesson, x=x, mask=last)).total.backward()
    assert x.grad is not None and (x.grad.abs().amax((0, 2, 3, 4)) > 0).all()


@pytest.mark.parametrize("kind", CRITIC_TARGETS)
def test_masked_steps_teach_nothing(kind: str) -> None:
    agent, past = small_agent(f"agent.behaviour.critic_targets.kind={kind}"), windows(PAST)
    lesson = agent.lesson(past)
    mask = torch.ones_like(lesson.mask)
    mask[0, 2:], mask[1, 1:] = False, False
    lesson = replace(lesson, mask=mask)
    other = replace(
        lesson,
        act=torch.where(mask, lesson.act, (lesson.act + 1) % NUM_ACTIONS),
        ret=torch.where(mask, lesson.ret, lesson.ret + 100),
        baseline=torch.where(mask, lesson.baseline, lesson.baseline - 100),
        slow=torch.where(mask, lesson.slow, lesson.slow + 100),
        x=torch.where(mask[..., None, None, None], lesson.x, 255 - lesson.x),
    )
    results = []
    for variant in (lesson, other):
        loss = agent.policy_loss(variant)
        results.append((loss.parts, gradients(policy(agent), loss.total)))
    for one, changed in zip(*results, strict=True):
        assert_same(one, changed)


@pytest.mark.parametrize("value", sorted(VALUE_TARGETS))
def test_the_policy_loss_is_the_published_sum(value: str) -> None:
    agent = small_agent(f"agent.actor_critic.value={value}", "agent.behaviour.entropy=0.05")
    lesson = agent.lesson(windows(PAST))
    mask = lesson.mask.clone()
    mask[0, 2:] = False
    lesson = replace(lesson, mask=mask)
    decision, _ = agent.actor_critic(lesson.x, lesson.carry)
    rows_ = []
    for b, t in mask.nonzero().tolist():
        logp = decision.actor[b, t].log_softmax(-1)
        advantage = lesson.ret[b, t] - lesson.baseline[b, t]
        critic = VALUE_TARGETS[value].loss(decision.critic[b, t], lesson.ret[b, t])
        entropy = torch.distributions.Categorical(logits=logp).entropy()
        rows_.append(torch.stack((-logp[lesson.act[b, t]] * advantage, entropy, critic)))
    policy_loss, entropy, critic = torch.stack(rows_).mean(0)
    loss = agent.policy_loss(lesson)
    torch.testing.assert_close(loss.parts["policy_loss"], policy_loss)
    torch.testing.assert_close(loss.parts["entropy"], entropy)
    torch.testing.assert_close(loss.parts["value_loss"], critic)
    torch.testing.assert_close(loss.total, policy_loss - 0.05 * entropy + critic)
