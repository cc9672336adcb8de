"""A policy that sees what the world model knows, in dreams and in the real environment."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from agents.agent import Agent, forget
from agents.protocols import Carry
from envs.probes import CountingGame
from runners.collect import LocalCollector
from runners.evaluate import play
from runners.opening import new_agent
from runners.replay import Replay
from tests.nets import gradients, no_waiting, shake, small_agent, windows
from tests.runs import HARDWARE, games, small
from worldmodels.batch import Batch
from worldmodels.dynamics import DYNAMICS
from worldmodels.dynamics.layouts import LAYOUTS
from worldmodels.protocols import Prediction, State

PAST = [(0, 3, 0), (2, 1, 0), (3, 0, 0), (1, 2, 0)]
BLIND = ("agent.view=latent", "agent.dynamics.layout.kind=blind")
PRESET = "delta_iris_tokens"
COUNTING = functools.partial(CountingGame, 6, size=64, num_actions=5)


def learner(*words: str) -> Agent:
    """A small agent whose policy is not even any more."""
    agent = small_agent(*BLIND, *words)
    shake(agent.actor_critic)
    return agent


def shown_alone(agent: Agent, play: Batch, t: int, since: Tensor) -> Tensor:
    """Features (B,D) at obs[:, t] of what was seen since steps (B,), of 3 steps at most."""
    padded = F.pad(play.obs, (0, 0, 0, 0, 0, 0, 3, 0)), F.pad(play.act, (3, 0))
    at = torch.arange(t - 3, t)
    valid = at >= since[:, None]
    obs = torch.cat(
        (padded[0][:, t : t + 3] * valid[..., None, None, None], play.obs[:, t, None]), 1
    )
    none = torch.zeros_like(valid)
    act = padded[1][:, t : t + 3] * valid
    window = Batch(obs, act, act.float(), none, none, valid)
    return agent.view.real(agent.world_model, window)[:, -1]


def step(agent: Agent, play: Batch, t: int, carry: Carry) -> Carry:
    """See obs[:, t], and do there what was done."""
    _, _, carry = agent.judge(play.obs[:, t], carry)
    return agent.took(carry, play.act[:, t])


def test_acting_step_by_step_sees_the_features_of_windows() -> None:
    agent, play = learner(), windows([(0, 8, 0)] * 3)
    carry, start = agent.initial(3), torch.zeros(3, dtype=torch.int64)
    for t in range(8):
        x, _ = agent.view.observe(agent.world_model, play.obs[:, t], carry)
        expected = shown_alone(agent, play, t, start)
        torch.testing.assert_close(x, expected, atol=1e-5, rtol=1e-4)
        logits, value, _ = agent.judge(play.obs[:, t], carry)
        decision, _ = agent.actor_critic(expected[:, None], ())
        torch.testing.assert_close(logits, decision.actor[:, 0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            value, agent.actor_critic.value.predict(decision.critic)[:, 0], atol=1e-3, rtol=1e-3
        )
        carry = step(agent, play, t, carry)
    assert (x[0] - x[1]).abs().max() > 1e-3


def test_what_was_done_is_seen_whoever_chose_it() -> None:
    agent, play = learner(), windows([(0, 2, 0)] * 2)
    carry = agent.initial(2)
    chosen, carry = agent.act(play.obs[:, 0], carry)
    told = agent.took(carry, chosen)
    other = agent.took(carry, (chosen + 1) % 5)
    seen = [
        agent.view.observe(agent.world_model, play.obs[:, 1], past)[0]
        for past in (carry, told, other)
    ]
    assert torch.equal(seen[0], seen[1])
    assert ((seen[0] - seen[2]).abs().amax(1) > 1e-5).all()


def test_an_episode_begins_without_a_past_and_leaves_other_rows_alone() -> None:
    agent, play = learner(), windows([(0, 8, 0)] * 3)
    carry, since = agent.initial(3), torch.zeros(3, dtype=torch.int64)
    for t in range(8):
        carry = step(agent, play, t, carry)
        over = torch.tensor([t == 1, t == 4, False])
        carry, since = forget(carry, over), since.where(~over, t + 1)
        if t < 7:
            x, _ = agent.view.observe(agent.world_model, play.obs[:, t + 1], carry)
            expected = shown_alone(agent, play, t + 1, since)
            torch.testing.assert_close(x, expected, atol=1e-5, rtol=1e-4)
    fresh = forget(carry, torch.ones(3, dtype=torch.bool))
    assert all(torch.equal(a, b) for a, b in zip(fresh, agent.initial(3), strict=True))


def test_memory_read_from_a_window_is_that_of_acting() -> None:
    agent, play = learner(), windows([(0, 6, 0)] * 2)
    carry = agent.initial(2)
    for t in range(5):
        carry = step(agent, play, t, carry)
    at = {k: getattr(play, k)[:, 2:5] for k in ("act", "rew", "end", "trunc", "valid")}
    past = Batch(obs=play.obs[:, 2:6], **at)
    assert all(torch.equal(a, b) for a, b in zip(carry, agent.watch(past), strict=True))


def test_a_lesson_begins_with_real_features_and_goes_on_with_imagined_ones() -> None:
    agent, past = learner(), windows(PAST)
    model, known = agent.world_model, []
    imagine = model.imagine

    def noted(state: State, act: Tensor) -> tuple[State, Prediction]:
        state, prediction = imagine(state, act)
        assert state.obs is None
        known.append(model.moment(state))
        return state, prediction

    model.imagine = noted  # type: ignore[assignment]
    lesson = agent.lesson(past)
    expected = [model.moments(past)[:, -1], *known[:-1]]
    torch.testing.assert_close(lesson.x, torch.stack(expected, 1), atol=1e-5, rtol=1e-4)
    assert lesson.x.dtype == torch.float32 and not lesson.x.requires_grad
    logits, _, _ = agent.judge(past.obs[:, -1], agent.watch(past))
    decision, _ = agent.actor_critic(lesson.x, lesson.carry)
    torch.testing.assert_close(logits, decision.actor[:, 0], atol=1e-4, rtol=1e-4)


def test_the_policy_loss_moves_the_policy_alone() -> None:
    agent, past = learner(), windows(PAST)
    grads = gradients(agent, agent.policy_loss(agent.lesson(past)).total)
    names = {n for n, _ in agent.named_parameters() if n.startswith("actor_critic.")}
    assert grads.keys() == names and all(g.any() for g in grads.values())


@pytest.mark.parametrize("dynamics", DYNAMICS)
@pytest.mark.parametrize("layout", ["blind", "token"])
def test_an_update_of_a_policy_that_sees_features_never_decodes(
    dynamics: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the memory of the blind layout lasts."""
    kinds = (f"agent.dynamics.kind={dynamics}", f"agent.dynamics.layout.kind={layout}")
    agent, past = small_agent("agent.view=latent", *kinds), windows(PAST)
    agent.horizon = 17
    assert not agent.world_model.draws

    def raising(*_: object) -> Tensor:
        raise AssertionError("a picture was drawn")

    monkeypatch.setattr(agent.world_model.tokenizer, "decode", raising)
    (policy,) = (part for part in agent.learners() if part.name == "policy")
    loss = policy.loss(policy.prepare(past))
    loss.total.backward()
    policy.learn(loss.learn)
    agent.act(past.obs[:, -1], agent.watch(past))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_has_features_to_learn_from(layout: str) -> None:
    agent = small_agent("agent.view=latent", f"agent.dynamics.layout.kind={layout}")
    assert agent.world_model.draws == (layout == "delta"), "for the dynamics to look at"
    agent.horizon = 30 if layout != "blind" else 17
    lesson = agent.lesson(windows(PAST))
    assert lesson.x.shape == (4, agent.horizon, 32) and lesson.x.isfinite().all()


def test_nothing_waits_for_the_host() -> None:
    agent, past = learner(), windows(PAST)
    with no_waiting():
        agent.policy_loss(agent.lesson(past)).total.backward()
        carry = agent.judge(past.obs[:, -1], agent.watch(past))[2]
        carry = agent.took(forget(carry, past.valid[:, 0]), past.act[:, -1])
        agent.judge(past.obs[:, -1], carry)


def test_features_and_carries_keep_their_types_under_autocast() -> None:
    agent, past = learner(), windows(PAST)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lesson, carry = agent.lesson(past), agent.watch(past)
        _, value, after = agent.judge(past.obs[:, -1], carry)
    assert lesson.x.dtype == lesson.ret.dtype == value.dtype == torch.float32
    assert [c.dtype for c in after] == [c.dtype for c in agent.initial(4)]


def test_no_more_of_a_window_is_seen_than_it_shows() -> None:
    """Two windows of the same present differ, as a longer past says more."""
    agent, past = learner(), windows([(0, 3, 0)] * 2)
    late = replace(past, valid=past.valid & (torch.arange(3) > 0))
    late = replace(late, obs=late.obs * late.seen[..., None, None, None], act=late.act * late.valid)
    here, there = (agent.judge(p.obs[:, -1], agent.watch(p))[0] for p in (past, late))
    assert (here - there).abs().max() > 1e-5


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_memory_rebuilt_from_replay_is_that_of_acting_on(tmp_path: Path, epsilon: float) -> None:
    """Across the ends of episodes, and where actions were not the policy's."""
    spec = COUNTING().spec
    agent = new_agent(small(agent=PRESET), spec, HARDWARE)
    replay = Replay(
        tmp_path, num_streams=3, obs=spec.obs, act=spec.act, priorities={"all": 1.0}, seed=0
    )
    collector = LocalCollector(
        games(COUNTING),
        replay,
        HARDWARE,
        seed=3,
        context=2,
        epsilon=epsilon,
        temperature=1.0,
    )
    collector.collect(agent, 3, random=True, recall=False)
    collector.collect(agent, 3, random=False, recall=True)
    for _ in range(14):
        assert collector.carry is not None
        rebuilt = collector._recall(agent)
        assert all(torch.equal(a, b) for a, b in zip(rebuilt, collector.carry, strict=True))
        collector.collect(agent, 3, random=False, recall=False)


def test_it_is_evaluated() -> None:
    agent = new_agent(small(agent=PRESET), COUNTING().spec, HARDWARE)
    results = [
        play(agent, games(COUNTING), HARDWARE, episodes=4, seed=0)[0].summary() for _ in range(2)
    ]
    assert results[0] == results[1] and len(results[0]) > 3
