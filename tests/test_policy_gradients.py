"""Policy gradients: slopes through one predicted step, and that of log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agents.action_heads import SquashedGaussian
from agents.agent import Agent, Lesson
from agents.imagine import imagine
from agents.policy_gradients import POLICY_GRADIENTS, Reparameterised
from agents.protocols import Decision
from agents.returns import Percentiles, Unscaled
from agents.views import Momentary
from envs.experience import EnvSpec
from envs.spaces import Continuous, Discrete, Obs, Vector
from runners.errors import UserError
from runners.opening import new_agent
from runners.settings.load import load
from tests.nets import gradients, no_waiting, small_agent, windows
from tests.runs import HARDWARE, differences, small
from tests.spaces import SPACES, spec_of, words_of
from tests.test_outlook import PAIRS, PAST, each_pair
from tests.test_trainer import interrupted, real, whole
from worldmodels.batch import Batch
from worldmodels.nets.heads import VALUE_TARGETS
from worldmodels.protocols import Outlook, Prediction, State
from worldmodels.world_model import WorldModel

AT = "agent.behaviour.gradient.kind="


def agent_of(
    dynamics: str = "factorised", layout: str = "packed", *words: str, obs: str = "vector"
) -> Agent:
    """A small agent of two continuous actions whose critic prefers something."""
    kinds = words_of("floats", dynamics, layout, "tokens")
    spec = EnvSpec(SPACES[obs], Continuous(2))
    mlp = "agent.actor_critic.kind=mlp"
    return small_agent(*kinds, mlp, f"{AT}reparameterised", *words, spec=spec)


def past_of(obs: str = "vector") -> Batch:
    return windows(PAST, spec=spec_of(obs, "floats"))


def gradient_of(agent: Agent) -> Reparameterised:
    assert isinstance(agent.gradient, Reparameterised)
    return agent.gradient


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All numbers are float64, even those that are meant to be float32 whatever comes."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@each_pair
def test_the_slope_is_that_of_finite_differences(doubled: None, dynamics: str, layout: str) -> None:
    agent, past = agent_of(dynamics, layout), past_of()
    state, carry = agent.world_model.start(past), agent.watch(past)
    gradient, act = gradient_of(agent), torch.rand(4, 2) * 1.6 - 0.8
    with torch.no_grad():
        (slope,) = gradient.watch(agent.actor_critic, state, act, carry)
        for dim in range(2):
            step = torch.zeros(2)
            step[dim] = 1e-5
            up, down = (
                gradient.worth(agent.actor_critic, state, act + way * step, carry)
                for way in (1, -1)
            )
            found = (up - down) / 2e-5
            torch.testing.assert_close(slope[:, dim], found, atol=1e-5, rtol=1e-5)
    assert slope.abs().min() > 1e-3, "there is something to see"


def test_the_worth_is_reward_and_discounted_value_unless_it_ends() -> None:
    agent, past = agent_of("factorised", "packed"), past_of()
    state, act = agent.world_model.start(past), torch.rand(4, 2)
    outlook = agent.world_model.outlook(state, act)
    table = torch.stack(
        [agent.world_model.tokenizer.embed(torch.full((3,), i)) for i in range(9)], 1
    )
    x = (outlook.logits.softmax(-1)[..., None] * table).sum(-2)
    decision, _ = agent.actor_critic(x[:, None], ())
    value = agent.actor_critic.value.predict(decision.critic)[:, 0]
    expected = outlook.rew + agent.gamma * (1 - outlook.end_prob) * value
    worth = gradient_of(agent).worth(agent.actor_critic, state, act, ())
    torch.testing.assert_close(worth, expected)


HEAD = SquashedGaussian(dims=2, min_std=0.1, max_std=1.0)


def test_a_retraced_action_is_the_one_taken_with_the_gradient_of_a_draw() -> None:
    outputs = torch.randn(50, 4, requires_grad=True)
    drawn, weight = HEAD.rsample(outputs), torch.randn(50, 2)
    again = HEAD.retrace(outputs, drawn.detach())
    torch.testing.assert_close(again, drawn, atol=1e-6, rtol=1e-5)
    ours, theirs = (
        torch.autograd.grad((x * weight).sum(), outputs, retain_graph=True)[0]
        for x in (again, drawn)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
    # Jacobian by hand: of mean and deviation, not of the noise.
    mean, std = HEAD._gaussian(outputs)
    noise = (drawn.detach().atanh() - mean.detach()) / std.detach()
    for wanted, by in ((1 - drawn.square(), mean), ((1 - drawn.square()) * noise, std)):
        (slope,) = torch.autograd.grad((mean + std * noise).tanh().sum(), by, retain_graph=True)
        torch.testing.assert_close(slope, wanted.detach(), atol=1e-5, rtol=1e-4)


def test_the_ends_themselves_are_retraced_with_finite_gradients() -> None:
    outputs = torch.tensor([[9.0, -9.0, 3.0, -3.0], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    act = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    again = HEAD.retrace(outputs, act)
    torch.testing.assert_close(again, act, atol=1e-5, rtol=0)
    (slope,) = torch.autograd.grad(again.sum(), outputs)
    assert slope.isfinite().all()


class Line:
    """A world of one vector s that goes to s A + a B, paying -(s^2 q + a^2 r), and may end.

    What it foresees of the next s stands for itself. Drawn moments are off by `noise`.
    """

    a, b = torch.tensor([[0.9, 0.2], [-0.1, 0.8]]), torch.tensor([[0.5, -0.3], [0.2, 0.7]])
    q, r, end = torch.tensor([1.0, 0.5]), torch.tensor([0.3, 0.1]), 0.25

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    def outlook(self, state: State, act: Tensor) -> Outlook:
        s: Tensor = state.memory
        rew = -(s.square() * self.q + act.square() * self.r).sum(-1)
        return Outlook(s @ self.a + act @ self.b, rew, torch.full_like(rew, self.end))

    @torch.no_grad()
    def imagine(self, state: State, act: Tensor) -> tuple[State, Prediction]:
        seen = self.outlook(state, act)
        s = seen.logits + self.noise * torch.randn_like(seen.logits)
        prediction = Prediction(s, s, seen.rew, seen.rew > 1, seen.end_prob)
        return State(s, None, s), prediction


class Itself(Momentary):
    """Shows s."""

    looks = False

    def space(self, world_model: WorldModel) -> Vector:
        return Vector(2)

    def real(self, world_model: WorldModel, window: Batch) -> Obs:
        return window.obs

    def imagined(self, world_model: WorldModel, state: State) -> Obs:
        return state.memory

    def expected(self, world_model: WorldModel, logits: Tensor) -> Tensor:
        return logits


class Square(nn.Module):
    """A linear policy whose critic says -s^2 p."""

    value = VALUE_TARGETS["scalar"]
    p = torch.tensor([2.0, 0.4])

    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dims, 4) * 0.5)
        self.bias = nn.Parameter(torch.randn(4) * 0.5)

    def forward(self, x: Tensor, carry: Any) -> tuple[Decision, Any]:
        critic = -(x.square() * self.p).sum(-1, keepdim=True)
        return Decision(x @ self.weight + self.bias, critic), carry


GAMMA = 0.9


VIEW = Itself(env=EnvSpec(Vector(2), Continuous(2)), context=0)


def over(world: Any, kind: str) -> Any:
    """A policy gradient in that world."""
    return POLICY_GRADIENTS[kind](world_model=world, view=VIEW, head=HEAD, gamma=GAMMA)


def test_on_a_line_the_policy_gradient_is_the_analytic_one() -> None:
    """Along a rollout of drawn moments, at each of them."""
    world, policy = Line(noise=0.1), Square()
    gradient = over(world, "reparameterised")
    start = torch.randn(6, 2)
    rollout = imagine(
        world,  # type: ignore[arg-type]
        VIEW,
        policy,  # type: ignore[arg-type]
        HEAD,
        gradient,
        state=State(start, None, start),
        x=start,
        carry=(),
        horizon=3,
    )
    s, act = rollout.x[:, :-1], rollout.act
    ahead = s @ world.a + act @ world.b
    inner = -2 * GAMMA * (1 - world.end) * (ahead * policy.p) @ world.b.T
    slope = -2 * act * world.r + inner
    assert len(rollout.kept) == 1
    torch.testing.assert_close(rollout.kept[0], slope, atol=1e-4, rtol=1e-4)
    # Of the loss, by hand: along the action's slope by mean and deviation, a mean over dimensions.
    decision, _ = policy(s, ())
    outputs = decision.actor.detach().requires_grad_()
    gains, entropies = gradient.terms(
        outputs, act, advantage=torch.full((6, 3), torch.nan), kept=rollout.kept, scale=Unscaled()
    )
    torch.testing.assert_close(gains, (act * slope).mean(-1), atol=1e-4, rtol=1e-4)
    assert torch.equal(entropies, HEAD.score(outputs, act)[1])
    (ours,) = torch.autograd.grad(gains.sum(), outputs)
    mean, std = HEAD._gaussian(outputs)
    noise = (act.atanh() - mean) / std
    by_mean = slope * (1 - act.square()) / 2
    (exact,) = torch.autograd.grad(
        (mean * by_mean).sum() + (std * (by_mean * noise).detach()).sum(), outputs
    )
    torch.testing.assert_close(ours, exact, atol=1e-4, rtol=1e-3)


def test_both_gradients_expect_the_same() -> None:
    """On one step, whose return is known; in the unit of a scale, of an action of two numbers."""
    world, policy = Line(), Square()
    many, found = torch.tensor([[0.6, -0.4]]).expand(100_000, -1), {}
    scale = Percentiles(low=5, high=95, decay=0.5, limit=1.0)
    scale.spread.fill_(3.0)
    for kind in POLICY_GRADIENTS:
        gradient = over(world, kind)
        state = State(many, None, many)
        with torch.no_grad():
            decision, _ = policy(many[:, None], ())
            act = HEAD.sample(decision.actor[:, 0])
        kept = gradient.watch(policy, state, act, ())
        worth = over(world, "reparameterised").worth(policy, state, act, ())
        decision, _ = policy(many[:, None], ())
        gains, _ = gradient.terms(
            decision.actor,
            act[:, None],
            advantage=(worth - worth.mean())[:, None],
            kept=tuple(x[:, None] for x in kept),
            scale=scale,
        )
        grads = torch.autograd.grad(gains.mean(), [policy.weight, policy.bias])
        found[kind] = torch.cat([g.flatten() for g in grads])
    score, path = found["reinforce"], found["reparameterised"]
    assert path.norm() > 0.05
    assert (score - path).norm() < 0.05 * path.norm()


@each_pair
def test_what_is_imagined_does_not_depend_on_who_learns_from_it(dynamics: str, layout: str) -> None:
    """The same draws, to the last: neither gradient draws or changes what comes after."""
    lessons: list[Lesson] = []
    for kind in POLICY_GRADIENTS:
        torch.manual_seed(4)
        agent = agent_of(dynamics, layout, f"{AT}{kind}")
        lessons.append(agent.lesson(past_of()))
        lessons[-1].act[0, 0, 0] = torch.rand(())
    one, other = lessons
    for name in ("x", "act", "ret", "baseline", "slow", "mask"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.kept == () and [k.shape for k in other.kept] == [other.act.shape]


@pytest.mark.parametrize(
    ("obs", "dynamics", "layout"),
    [("all", "parallel", "blind"), ("image", "factorised", "packed")]
    + [("vector", *pair) for pair in PAIRS],
)
def test_lessons_move_the_policy_alone_and_nobody_waits(
    obs: str, dynamics: str, layout: str
) -> None:
    agent, past = agent_of(dynamics, layout, obs=obs), past_of(obs)
    # Categories make the host wait on CPUs alone.
    with nullcontext() if obs == "all" else no_waiting():
        lesson = agent.lesson(past)
        loss = agent.policy_loss(lesson)
    assert not any(p.grad is not None for p in agent.parameters())
    assert not any(k.requires_grad for k in lesson.kept)
    grads = gradients(agent, loss.total)
    assert grads and all(name.startswith("actor_critic.") for name in grads)
    assert all(g.isfinite().all() and g.any() for g in grads.values())


def test_a_critic_with_memory_is_asked_with_what_it_remembers() -> None:
    words = words_of("floats", "parallel", "token", "tokens")
    transformer = "agent.actor_critic.kind=token_transformer"
    spec = spec_of("vector", "floats")
    agent = small_agent(*words, transformer, f"{AT}reparameterised", spec=spec)
    past, gradient = past_of(), gradient_of(agent)
    state, act = agent.world_model.start(past), past.act[:, -1]
    _, _, carry = agent.judge(past.obs[:, -1], agent.watch(past))
    found = [
        gradient.watch(agent.actor_critic, state, act, memory)[0]
        for memory in (carry, agent.actor_critic.initial(4))
    ]
    assert (found[0] - found[1]).abs().max() > 1e-4
    torch.manual_seed(2)
    lesson = agent.lesson(past)
    (first,) = gradient.watch(agent.actor_critic, state, lesson.act[:, 0], carry)
    torch.testing.assert_close(lesson.kept[0][:, 0], first, atol=1e-5, rtol=1e-3)


def test_the_policy_loss_is_the_sum_written_out() -> None:
    agent = agent_of("factorised", "packed", "agent.behaviour.entropy=0.05")
    lesson = agent.lesson(past_of())
    lesson.mask[0, 2:] = False
    decision, _ = agent.actor_critic(lesson.x, lesson.carry)
    rows = []
    for b, t in lesson.mask.nonzero().tolist():
        outputs, act, slope = decision.actor[b, t], lesson.act[b, t], lesson.kept[0][b, t]
        mean, std = HEAD._gaussian(outputs)
        noise = ((act.atanh() - mean) / std).detach()
        gain = ((mean + std * noise).tanh() * slope).sum() / 2
        critic = agent.actor_critic.value.loss(decision.critic[b, t], lesson.ret[b, t])
        rows.append(torch.stack((-gain, HEAD.score(outputs, act)[1], critic)))
    policy, entropy, critic = torch.stack(rows).mean(0)
    loss = agent.policy_loss(lesson)
    torch.testing.assert_close(loss.parts["policy_loss"], policy, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(loss.total, policy - 0.05 * entropy + critic, atol=1e-4, rtol=1e-3)
    weights = [p for p in agent.actor_critic.parameters()]  # type: ignore[attr-defined]
    expected = policy - 0.05 * entropy + critic
    ours, theirs = (torch.autograd.grad(x, weights) for x in (loss.total, expected))
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=2e-3)
    # What was imagined after an end, or brought, moves no action.
    other = replace(lesson, kept=(lesson.kept[0].where(lesson.mask[..., None], 1e3),))
    assert torch.equal(agent.policy_loss(other).total, loss.total)
    brought = replace(lesson, baseline=lesson.baseline + 10)
    assert torch.equal(agent.policy_loss(brought).parts["policy_loss"], loss.parts["policy_loss"])


def test_half_precision_is_near_single() -> None:
    agent, past = agent_of("parallel", "token"), past_of()
    state, act = agent.world_model.start(past), past.act[:, -1]
    gradient = gradient_of(agent)
    (exact,) = gradient.watch(agent.actor_critic, state, act, ())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = agent.world_model.start(past)
        (rough,) = gradient.watch(agent.actor_critic, state, act, ())
        agent.policy_loss(agent.lesson(past))
    assert rough.dtype == torch.float32 == exact.dtype
    assert (rough - exact).norm() < 0.15 * exact.norm()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["agent.dynamics.kind=autoregressive", "agent.dynamics.layout.kind=token"], ""),
        (["agent.dynamics.kind=diffusion", "agent.dynamics.layout.kind=token"], ""),
        (["agent.dynamics.reward=sign"], "agent.dynamics.reward=expected_sign"),
        (["agent.view=latent", "agent.actor_critic.kind=mlp"], "agent.view=tokens"),
        (["agent.policy.kind=binned"], "agent.policy.kind=gaussian"),
        (["agent.actions.form=bins"], "agent.actions.form=floats"),
        (["agent.actions.form=tokens"], "agent.actions.form=floats"),
    ],
)
def test_what_has_no_slope_is_refused_at_once(words: list[str], text: str) -> None:
    usual = ["agent=state_tokens", "env=gym", "env.id=Pendulum-v1"]
    load([*usual, *words])
    with pytest.raises(UserError) as caught:
        load([*usual, *words, f"{AT}reparameterised"])
    message = str(caught.value)
    assert "\n" not in message and text in message
    assert message.startswith(f"{words[0]} with {AT}reparameterised: ")


def test_an_environment_of_choices_is_refused_when_it_is_known() -> None:
    config = small(f"{AT}reparameterised", agent="state_tokens", env="gym")
    new_agent(config, EnvSpec(Vector(3), Continuous(1)), HARDWARE)
    with pytest.raises(UserError) as caught:
        new_agent(config, EnvSpec(Vector(4), Discrete(2)), HARDWARE)
    assert str(caught.value).startswith(f"{AT}reparameterised: the actions of this environment are")
    assert "\n" not in str(caught.value)


def test_a_run_learns_by_it_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    words = ("run.steps=45", "run.tail_epochs=0")
    ends: dict[str, Any] = {}
    for kind in POLICY_GRADIENTS:
        config = small(*words, f"{AT}{kind}", agent="state_tokens", env="gym")
        ends[kind], moments = whole(config, tmp_path / kind, real)
    again = interrupted(config, tmp_path / "parts", real, [16, moments - 18])
    assert differences(ends["reparameterised"], again) == []
    assert ends["reparameterised"]["position"]["updates"]["policy"] > 0
    one, other = (end["model"] for end in ends.values())
    assert one.keys() == other.keys()
    moved = {name for name in one if not torch.equal(one[name], other[name])}
    assert "actor_critic.actor.weight" in moved
