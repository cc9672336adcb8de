"""What the policy sees."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor

from agents.agent import Agent
from tests.nets import no_waiting, shown, small_agent, windows
from worldmodels.batch import Batch, single
from worldmodels.dynamics import DYNAMICS
from worldmodels.protocols import Prediction, Prev, State

PAST = [(0, 3, 0), (2, 1, 0), (3, 0, 0), (1, 2, 0)]
WORD = "agent.view=reconstruction"
DART = ("agent.view=tokens", "agent.dynamics.layout.kind=token")


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
    torch.testing.assert_close(logits, expected.actor[:, 0])
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
        torch.testing.assert_close(logits, expected.actor[:, t], atol=1e-5, rtol=1e-4)
        torch.rand(len(past.act), 1)


def update_policy(agent: Agent, past: Batch) -> None:
    """What a phase does with the policy, but for the optimiser's step."""
    (policy,) = (learner for learner in agent.learners() if learner.name == "policy")
    loss = policy.loss(policy.prepare(past))
    loss.total.backward()
    policy.learn(loss.learn)


def embedded(agent: Agent, tokens: Tensor) -> Tensor:
    codebook = agent.get_submodule("world_model.tokenizer.quantizer").codebook
    return cast(Tensor, codebook)[tokens].detach()


def test_tokens_are_seen_as_the_tokenizers_vectors_and_teach_it_nothing() -> None:
    agent, past = small_agent("agent.view=tokens"), windows(PAST)
    model = agent.world_model
    seen = agent.view.real(model, past)
    assert torch.equal(seen, embedded(agent, model.tokenize(past))) and not seen.requires_grad
    state, _ = model.imagine(model.start(past), past.act[:, -1])
    imagined = agent.view.imagined(model, state)
    assert torch.equal(imagined, embedded(agent, state.tokens)) and not imagined.requires_grad
    assert imagined.shape == (4, 4, 8) and imagined.dtype == torch.float32


def test_the_policy_acts_on_the_vectors_of_tokens() -> None:
    agent, past = small_agent(*DART), windows(PAST)
    obs, carry = past.obs[:, -1], agent.watch(past)
    nothing = Prev(torch.zeros_like(obs[:, None]), past.act[:, :1])
    seen = embedded(agent, agent.world_model.tokenizer.encode(nothing, obs[:, None]))
    assert torch.equal(agent.view.real(agent.world_model, single(obs)), seen)
    logits, _, _ = agent.judge(obs, carry)
    expected, _ = agent.actor_critic(seen, carry)
    torch.testing.assert_close(logits, expected.actor[:, 0])


def test_a_lesson_of_tokens_begins_with_real_ones_and_goes_on_with_imagined_ones() -> None:
    agent, past = small_agent(*DART), windows(PAST)
    model, drawn = agent.world_model, []
    imagine = model.imagine

    def noted(state: State, act: Tensor) -> tuple[State, Prediction]:
        state, prediction = imagine(state, act)
        drawn.append(state.tokens)
        return state, prediction

    model.imagine = noted  # type: ignore[assignment]
    lesson = agent.lesson(past)
    expected = [model.tokenize(past)[:, -1], *drawn[:-1]]
    assert torch.equal(lesson.x, embedded(agent, torch.stack(expected, 1)))


@pytest.mark.parametrize(
    ("words", "draws"),
    [
        (("agent.view=tokens", "agent.dynamics.layout.kind=token"), False),
        (("agent.view=tokens", "agent.dynamics.layout.kind=delta"), True),
        (("agent.view=reconstruction", "agent.dynamics.layout.kind=token"), True),
        (("agent.view=frame", "agent.dynamics.layout.kind=token"), True),
    ],
)
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_frames_are_drawn_where_the_policy_or_the_dynamics_looks(
    words: tuple[str, ...], draws: bool, dynamics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, past = small_agent(*words, f"agent.dynamics.kind={dynamics}"), windows(PAST)
    calls, decode = [], agent.world_model.tokenizer.decode

    def counted(prev: Prev, tokens: Tensor) -> Tensor:
        calls.append(tokens)
        return decode(prev, tokens)

    monkeypatch.setattr(agent.world_model.tokenizer, "decode", counted)
    update_policy(agent, past)
    # A reconstruction of the past is no imagination.
    assert len(calls) == (agent.horizon if draws else 0) + (words[0] == WORD)


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_an_update_of_a_policy_that_reads_tokens_never_decodes(
    dynamics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth of DART's checks; long enough for the dynamics' memory to start anew."""
    agent, past = small_agent(*DART, f"agent.dynamics.kind={dynamics}"), windows(PAST)
    agent.horizon = 30

    def raising(*_: object) -> Tensor:
        raise AssertionError("a picture was drawn")

    monkeypatch.setattr(agent.world_model.tokenizer, "decode", raising)
    update_policy(agent, past)


def test_nothing_waits_for_the_host() -> None:
    agent, past = small_agent(WORD), windows(PAST)
    with no_waiting():
        agent.policy_loss(agent.lesson(past)).total.backward()
        agent.judge(past.obs[:, -1], agent.watch(past))
