"""Agents of all things to see and to do: what they refuse, act, carry and learn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal, TanhTransform, TransformedDistribution

from agents.agent import Agent, forget
from agents.protocols import Carry
from envs.experience import EnvSpec
from envs.spaces import Continuous, Discrete, Vector
from envs.trees import leaves
from runners.errors import UserError
from runners.opening import new_agent
from tests.nets import cut, no_waiting, small_agent, windows
from tests.runs import HARDWARE, small
from tests.spaces import ACTIONS, another, spec_of, words_of
from worldmodels.batch import Batch, at, played
from worldmodels.dynamics import DYNAMICS

PAST = [(0, 3, 0), (2, 1, 0), (3, 0, 0), (1, 2, 0)]


def test_a_sampler_of_more_steps_than_a_frame_has_tokens_is_the_users_mistake() -> None:
    config = small("agent.dynamics.sampler.steps=4", agent="diffusion", env="gym")
    wrong = r"agent\.dynamics\.sampler: a frame of 3 tokens takes 1 to 3 steps, not 4"
    with pytest.raises(UserError, match=wrong):
        new_agent(config, EnvSpec(Vector(3), Continuous(1)), HARDWARE)


def agent_of(obs: str, act: str, dynamics: str, layout: str, view: str, *words: str) -> Agent:
    """An agent that is told of actions as it draws them."""
    kinds = words_of(act, dynamics, layout, view)
    return small_agent(*kinds, *words, spec=spec_of(obs, act))


def gaussians(outputs: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Means and deviations (A,) before tanh of one moment, as the settings' defaults bound them."""
    mean = 5 * (outputs[:dims] / 5).tanh()
    share = outputs[dims:].sigmoid()
    return mean, (math.log(0.1) + (math.log(1.0) - math.log(0.1)) * share).exp()


def said(kind: str, outputs: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy of one action, nats a dimension, by torch's distributions."""
    dims = len(act)
    if kind == "gaussian":
        mean, std = gaussians(outputs, dims)
        squashed = TransformedDistribution(Normal(mean, std), TanhTransform())
        place = torch.linspace(-8, 8, 4001)[:, None]
        x = mean + std * place
        weight = (-0.5 * place.square()).softmax(0)
        inner = Normal(mean, std).log_prob(x) - 2 * (
            math.log(2) - x - torch.nn.functional.softplus(-2 * x)
        )
        return squashed.log_prob(act).mean(), -(inner * weight).sum(0).mean()
    logits = outputs.view(dims, -1)
    law = Categorical(logits=logits)
    ids = ((act + 1) / 2 * (logits.shape[1] - 1)).round().long()
    return law.log_prob(ids).mean(), law.entropy().mean()


@pytest.mark.parametrize("kind", ["gaussian", "binned"])
def test_the_policy_loss_of_continuous_actions_is_the_sum_written_out(kind: str) -> None:
    words = [f"agent.policy.kind={kind}", "agent.behaviour.entropy=0.05"]
    words += ["agent.policy.bins=7"] if kind == "binned" else []
    agent = agent_of("all", "tokens", "parallel", "delta", "frame", *words)
    lesson = agent.lesson(windows(PAST, spec=spec_of("all", "tokens")))
    lesson.mask[0, 2:] = False
    decision, _ = agent.actor_critic(lesson.x, lesson.carry)
    parts = []
    for b, t in lesson.mask.nonzero().tolist():
        log_prob, entropy = said(kind, decision.actor[b, t], lesson.act[b, t])
        advantage = lesson.ret[b, t] - lesson.baseline[b, t]
        critic = agent.actor_critic.value.loss(decision.critic[b, t], lesson.ret[b, t])
        parts.append(torch.stack((-log_prob * advantage, entropy, critic)))
    policy, entropy, critic = torch.stack(parts).mean(0)
    expected = policy - 0.05 * entropy + critic
    loss = agent.policy_loss(lesson)
    torch.testing.assert_close(loss.parts["policy_loss"], policy, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(loss.parts["entropy"], entropy, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(loss.total, expected, atol=1e-4, rtol=1e-3)
    weights = [p for p in agent.actor_critic.parameters() if p.requires_grad]  # type: ignore[attr-defined]
    ours, theirs = (torch.autograd.grad(x, weights) for x in (loss.total, expected))
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=2e-3)


@pytest.mark.parametrize("act", ACTIONS)
@pytest.mark.parametrize("policy", ["gaussian", "binned"])
def test_actions_are_of_their_space_in_life_and_in_dreams(act: str, policy: str) -> None:
    agent = agent_of("numbers", act, "parallel", "token", "latent", f"agent.policy.kind={policy}")
    spec, past = spec_of("numbers", act), windows(PAST, spec=spec_of("numbers", act))
    for temperature in (1.0, 0.0001, 5.0):
        drawn, carry = agent.act(at(past.obs, -1), agent.watch(past), temperature)
        _check_actions(spec, drawn, 1)
        assert torch.equal(carry[-2].view(4, 3, -1)[:, -1].view_as(drawn), drawn)
    lesson = agent.lesson(past)
    _check_actions(spec, lesson.act, 2)
    assert lesson.act.shape[:2] == (4, agent.horizon) and not lesson.act.requires_grad
    assert (lesson.act[0] != lesson.act[1]).any(), "rows draw for themselves"


def _check_actions(spec: EnvSpec, act: Tensor, lead: int) -> None:
    space = spec.act
    assert tuple(act.shape[lead:]) == space.shape
    if isinstance(space, Continuous):
        assert act.dtype == torch.float32 and (act.abs() <= 1).all()
    else:
        sizes = torch.tensor(space.n if isinstance(space, Discrete) else space.sizes)
        assert act.dtype == torch.int64 and (act >= 0).all() and (act < sizes).all()


def shown_alone(agent: Agent, play: Batch, t: int, since: list[int]) -> Tensor:
    """Features (B,D) at frames t, of each row's own window of 3 steps at most, without padding."""
    found = []
    for row, first in enumerate(since):
        one = cut(play, slice(row, row + 1), slice(max(first, t - 3), t))
        window = played(one.obs, one.act, one.valid)
        found.append(agent.view.real(agent.world_model, window)[:, -1])
    return torch.cat(found)


def live(agent: Agent, play: Batch, t: int, carry: Carry) -> Carry:
    """See frames t, and do there what was done."""
    _, _, carry = agent.judge(at(play.obs, t), carry)
    return agent.took(carry, play.act[:, t])


@pytest.mark.parametrize("act", ["tokens", "floats", "multi", "discrete"])
@pytest.mark.parametrize(
    ("obs", "layout"), [("all", "delta"), ("numbers", "token"), ("vector", "blind")]
)
def test_acting_sees_the_features_of_windows_across_episodes(
    obs: str, layout: str, act: str
) -> None:
    """Of windows without padding, which shifts nothing in these dynamics."""
    agent, spec = agent_of(obs, act, "diffusion", layout, "latent"), spec_of(obs, act)
    play = windows([(0, 7, 0)] * 3, spec=spec)
    carry, since = agent.initial(3), [0, 0, 0]
    for t in range(7):
        x, _ = agent.view.observe(agent.world_model, at(play.obs, t), carry)
        torch.testing.assert_close(x, shown_alone(agent, play, t, since), atol=2e-5, rtol=1e-4)
        carry = live(agent, play, t, carry)
        over = torch.tensor([t == 1, t == 4, False])
        before = carry
        carry = forget(carry, over)
        since = [t + 1 if gone else first for gone, first in zip(over, since, strict=True)]
        for kept, whole in zip(carry, before, strict=True):
            assert torch.equal(kept[~over], whole[~over]) and not kept[over].any()
    fresh = forget(carry, torch.ones(3, dtype=torch.bool))
    for ours, theirs in zip(fresh, agent.initial(3), strict=True):
        assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype


@pytest.mark.parametrize("dynamics", DYNAMICS)
@pytest.mark.parametrize("act", ["tokens", "floats", "multi"])
def test_the_carry_of_acting_is_that_of_watching_the_window(act: str, dynamics: str) -> None:
    agent, spec = agent_of("all", act, dynamics, "delta", "latent"), spec_of("all", act)
    play = windows([(0, 6, 0)] * 2, spec=spec)
    carry = agent.initial(2)
    for t in range(5):
        carry = live(agent, play, t, carry)
    past = cut(play, slice(None), slice(2, 5))
    watched = agent.watch(past)
    assert len(carry) == len(leaves(spec.obs)) + 2
    assert all(torch.equal(a, b) for a, b in zip(carry, watched, strict=True))
    # What was done is seen, in each dimension.
    here = at(play.obs, 5)
    x, _ = agent.view.observe(agent.world_model, here, carry)
    for dim in range(play.act.shape[-1]):
        done = another(spec.act, play.act, dim, 4)[:, 4]
        other, _ = agent.view.observe(agent.world_model, here, agent.took(carry, done))
        assert ((x - other).abs().amax(1) > 1e-5).all()


def test_lessons_of_dicts_make_nobody_wait() -> None:
    agent = agent_of("all", "tokens", "parallel", "delta", "latent")
    past = windows(PAST, spec=spec_of("all", "tokens"))
    with no_waiting():
        agent.policy_loss(agent.lesson(past)).total.backward()
        carry = agent.judge(at(past.obs, -1), agent.watch(past))[2]
        carry = agent.took(forget(carry, past.valid[:, 0]), past.act[:, -1])
        agent.judge(at(past.obs, -1), carry)
