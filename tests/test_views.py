"""What the policy sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agents.agent import Agent, single
from tests.nets import no_waiting, shown, small_agent, windows
from worldmodels.protocols import Prev

PAST = [(0, 3, 0), (2, 1, 0), (3, 0, 0), (1, 2, 0)]
WORD = "agent.view=reconstruction"


def rebuilt(agent: Agent, obs: Tensor) -> Tensor:
    """Frames (B,T,H,W,C) after a trip through their tokens."""
    tokenizer = agent.world_model.tokenizer
    with torch.no_grad():
        nothing = Prev(obs, torch.zeros(obs.shape[:2], dtype=torch.int64))
        return tokenizer.decode(nothing, tokenizer.encode(nothing, obs))


def test_a_reconstruction_is_the_frame_after_a_trip_through_its_tokens() -> None:
    agent, past = small_agent(WORD), windows(PAST)
    seen = agent.view.real(agent.world_model, past)
    assert torch.equal(seen, rebuilt(agent, past.obs)) and not torch.equal(seen, past.obs)
    assert seen.dtype == torch.uint8


def test_the_policy_acts_on_reconstructions() -> None:
    agent, past = small_agent(WORD), windows(PAST)
    seen, obs = rebuilt(agent, past.obs), past.obs[:, -1]
    carry = agent.watch(past)
    torch.testing.assert_close(carry, agent.actor_critic.watch(seen[:, :-1], past.seen[:, :-1]))
    logits, _, _ = agent.judge(obs, carry)
    expected, _ = agent.actor_critic(rebuilt(agent, obs[:, None]), carry)
    torch.testing.assert_close(logits, expected.logits[:, 0])
    assert torch.equal(
        agent.view.real(agent.world_model, single(obs)), rebuilt(agent, obs[:, None])
    )


@pytest.mark.parametrize("word", ["agent.view=frame", WORD])
def test_a_lesson_begins_with_the_last_real_frame_and_goes_on_with_imagined_ones(word: str) -> None:
    agent, past = small_agent(word), windows(PAST)
    torch.manual_seed(4)
    lesson = agent.lesson(past)
    torch.manual_seed(4)
    assert torch.equal(lesson.x[:, 0], agent.view.real(agent.world_model, past)[:, -1])
    torch.testing.assert_close(lesson.carry, agent.watch(past))
    state, carry = agent.world_model.start(past), agent.watch(past)
    assert torch.equal(shown(state), past.obs[:, -1]), "what is dreamed of is real"
    with torch.no_grad():
        decision, carry = agent.actor_critic(lesson.x[:, :1], carry)
    torch.rand(len(past.act), 1)
    for t in range(1, agent.horizon):
        state, _ = agent.world_model.imagine(state, lesson.act[:, t - 1])
        assert torch.equal(lesson.x[:, t], shown(state)), "decoded once, not again"
        logits, _, carry = agent.judge_dream(state, carry)
        expected, _ = agent.actor_critic(lesson.x, lesson.carry)
        torch.testing.assert_close(logits, expected.logits[:, t], atol=1e-5, rtol=1e-4)
        torch.rand(len(past.act), 1)


def test_nothing_waits_for_the_host() -> None:
    agent, past = small_agent(WORD), windows(PAST)
    with no_waiting():
        agent.policy_loss(agent.lesson(past)).total.backward()
        agent.judge(past.obs[:, -1], agent.watch(past))
