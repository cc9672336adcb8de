"""DART's actor-critic: its tokens, its memory, and what memory is good for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from agents.actor_critics.token_transformer import TokenTransformer
from agents.agent import Agent, Lesson, forget
from agents.protocols import Vectors
from runners.settings.policies import TokenTransformerSettings
from tests.nets import NUM_ACTIONS, gradients, no_waiting, scribble, shake, small_agent, windows

PAST = [(0, 3, 0), (2, 1, 0), (3, 0, 0), (1, 2, 0)]
DART = ("agent.view=tokens", "agent.dynamics.layout.kind=token")
TOKENS, DIM, WIDTH = 5, 6, 16
THEIRS = {
    "self_attn.in_proj_": "qkv.",
    "self_attn.out_proj.": "out.",
    "norm1.": "norm1.",
    "norm2.": "norm2.",
    "linear1.": "mlp.0.",
    "linear2.": "mlp.2.",
}
"""torch's names for the parts of a block."""


def policy(layers: int = 2) -> TokenTransformer:
    net = TokenTransformer(
        space=Vectors(TOKENS, DIM),
        outputs=NUM_ACTIONS,
        width=WIDTH,
        layers=layers,
        heads=2,
        mlp=24,
        value="two_hot",
    )
    shake(net)
    return net


def stretch(rows: int = 3, steps: int = 4) -> Tensor:
    return torch.randn(rows, steps, TOKENS, DIM)


def same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_an_encoder_reads_cls_the_tokens_and_memory() -> None:
    net, x = policy(), stretch(steps=1)
    memory = torch.randn(3, WIDTH)
    decision, (after, begun) = net(x, (memory, torch.ones(3, 1)))
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 24, 0.0, "gelu", batch_first=True, norm_first=True)
    y = torch.cat((net.cls.weight.expand(3, 1, -1), net.enter(x[:, 0]), memory[:, None]), 1)
    y = y + net.position.weight
    for block in net.blocks:
        named = dict(block.named_parameters())
        weights = {
            a + kind: named[b + kind] for a, b in THEIRS.items() for kind in ("weight", "bias")
        }
        layer.load_state_dict(weights)
        y = layer(y)
    hidden = net.norm(y[:, 0])
    same((after, decision.actor[:, 0]), (hidden, net.actor(hidden)))
    torch.testing.assert_close(decision.critic[:, 0], net.critic(hidden), atol=1e-5, rtol=1e-4)
    assert begun.shape == (3, 1) and begun.all()


def test_where_a_token_stands_matters_through_positions_alone() -> None:
    net, x = policy(), stretch(steps=1)
    carry = (torch.randn(3, WIDTH), torch.ones(3, 1))
    moved = x[:, :, torch.tensor([2, 0, 1, 4, 3])]
    _, (here, _) = net(x, carry)
    _, (there, _) = net(moved, carry)
    assert ((here - there).abs().amax(-1) > 1e-3).all()
    nn.init.zeros_(net.position.weight)
    same(net(x, carry)[1], net(moved, carry)[1])


def test_the_memory_is_what_feeds_the_heads_and_comes_back_with_its_gradient() -> None:
    net, x = policy(), stretch().requires_grad_()
    decision, (memory, _) = net(x, net.initial(3))
    assert torch.equal(net.actor(memory), decision.actor[:, -1])
    (grad,) = torch.autograd.grad(decision.actor[:, -1].square().sum(), x)
    assert (grad.abs().amax((0, 2, 3)) > 0).all()


def test_acting_step_by_step_decides_as_the_whole_stretch_does() -> None:
    net, x = policy(), stretch()
    whole, last = net(x, net.initial(3))
    carry = net.initial(3)
    for t in range(4):
        decision, carry = net(x[:, t : t + 1], carry)
        torch.testing.assert_close(decision.actor[:, 0], whole.actor[:, t])
        torch.testing.assert_close(decision.critic[:, 0], whole.critic[:, t])
    same(carry, last)


def test_rows_of_a_batch_do_not_meet() -> None:
    net, x = policy(), stretch()
    whole, _ = net(x, net.initial(3))
    other = torch.cat((x[:1], torch.randn_like(x[1:])))
    torch.testing.assert_close(net(other, net.initial(3))[0].actor[0], whole.actor[0])
    for row in range(3):
        alone, _ = net(x[row : row + 1], net.initial(1))
        torch.testing.assert_close(alone.actor[0], whole.actor[row], atol=1e-5, rtol=1e-4)


def test_memory_begins_anew_exactly_where_an_episode_does() -> None:
    net, x = policy(), stretch(steps=6)
    assert net.first.any(), "a first memory that has been learned"
    _, carry = net(x[:, :3], net.initial(3))
    carry = forget(carry, torch.tensor([True, False, False]))
    rest, _ = net(x[:, 3:], carry)
    fresh, _ = net(x[:, 3:], net.initial(3))
    whole, _ = net(x, net.initial(3))
    torch.testing.assert_close(rest.actor[0], fresh.actor[0])
    torch.testing.assert_close(rest.actor[1:], whole.actor[1:, 3:])
    assert ((rest.actor - fresh.actor).abs().amax((1, 2)) > 1e-3).tolist() == [False, True, True]


def test_it_begins_with_a_learned_memory_which_begins_at_zero() -> None:
    numbers = TokenTransformerSettings().model_dump(exclude={"kind"})
    fresh = TokenTransformer(space=Vectors(TOKENS, DIM), outputs=NUM_ACTIONS, **numbers)
    assert not fresh.first.any() and not fresh.critic.weight.any() and not fresh.critic.bias.any()
    net, x = policy(), stretch(steps=1)
    told = (net.first.expand(3, -1), torch.ones(3, 1))
    same(net(x, net.initial(3))[1], net(x, told)[1])
    assert gradients(net, net(x, net.initial(3))[0].actor.sum())["first"].any()


@pytest.mark.parametrize("padding", [1, 3])
def test_padding_before_an_episode_leaves_the_same_memory(padding: int) -> None:
    net, x = policy(), stretch()
    seen = torch.ones(3, 4 + padding, dtype=torch.bool)
    seen[:, :padding] = False
    padded = torch.cat((stretch(steps=padding), x), 1)
    same(net.watch(padded, seen), net.watch(x, seen[:, padding:]))
    nothing = net.watch(padded, torch.zeros_like(seen))
    assert all(torch.equal(a, b) for a, b in zip(nothing, net.initial(3), strict=True))


def test_an_agent_watches_from_where_its_episode_begins() -> None:
    agent, past = small_agent(*DART), windows(PAST)
    carry = agent.watch(past)
    same(carry, agent.watch(scribble(past)))
    seen = agent.view.real(agent.world_model, past)
    for row, (left, steps, _) in enumerate(PAST):
        alone = agent.actor_critic.initial(1)
        for t in range(left, left + steps):
            _, alone = agent.actor_critic(seen[row : row + 1, t : t + 1], alone)
        same(tuple(c[row : row + 1] for c in carry), alone)


def test_every_parameter_learns_from_imagination() -> None:
    agent, past = small_agent(*DART), windows(PAST)
    grads = gradients(agent, agent.policy_loss(agent.lesson(past)).total)
    net = agent.actor_critic
    assert isinstance(net, nn.Module)
    assert grads.keys() == {f"actor_critic.{name}" for name, _ in net.named_parameters()}
    assert all(g.abs().max() > 0 for g in grads.values())


def test_no_gradient_goes_through_what_was_seen_before_imagination() -> None:
    agent, past = small_agent(*DART), windows(PAST)
    lesson = agent.lesson(past)
    assert lesson.carry[0].any() and lesson.carry[1].any()
    assert not any(tensor.requires_grad for tensor in (*lesson.carry, lesson.x, lesson.ret))
    assert not any(tensor.requires_grad for tensor in agent.watch(past))


def test_memory_and_heads_stay_float32() -> None:
    net, x = policy(), stretch()
    exact, _ = net(x, net.initial(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decision, carry = net(x, net.initial(3))
        watched = net.watch(x, torch.ones(3, 4, dtype=torch.bool))
    same(watched, carry)
    for y in (decision.actor, decision.critic, *carry):
        assert y.dtype == torch.float32
    assert (decision.actor != decision.actor.bfloat16().float()).float().mean() > 0.9
    torch.testing.assert_close(decision.actor, exact.actor, atol=0.2, rtol=0.1)


def test_nothing_waits_for_the_host() -> None:
    agent, past = small_agent(*DART), windows(PAST)
    with no_waiting():
        agent.policy_loss(agent.lesson(past)).total.backward()
        agent.judge(past.obs[:, -1], agent.watch(past))


@pytest.mark.parametrize("remembers", [True, False])
def test_what_was_seen_a_step_ago_is_acted_on_by_memory_alone(remembers: bool) -> None:
    """The second of DART's checks: a coin is shown, then hidden; calling it right pays 1."""
    torch.manual_seed(0)
    agent = small_agent(*DART)
    net, rows = agent.actor_critic, 64
    assert isinstance(net, nn.Module)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    shapes = torch.randn(3, 4, 8)
    for _ in range(150):
        lesson, paid = coin(agent, shapes, rows, remembers)
        optimizer.zero_grad()
        agent.policy_loss(lesson).total.backward()
        optimizer.step()
    rate = torch.stack([coin(agent, shapes, 256, remembers)[1] for _ in range(4)]).mean()
    assert rate > 0.9 if remembers else rate < 0.6, float(rate)


@torch.no_grad()
def coin(agent: Agent, shapes: Tensor, rows: int, remembers: bool) -> tuple[Lesson, Tensor]:
    """Episodes of two steps as a lesson, and the share of right calls.

    Without memory each step is an episode of its own.
    """
    net, side = agent.actor_critic, torch.randint(0, 2, (rows,))
    x = torch.stack((shapes[side], shapes[2].expand(rows, -1, -1)), 1)
    if not remembers:
        x = x.flatten(0, 1)[:, None]
    carry = net.initial(len(x))
    decision, _ = net(x, carry)
    act = torch.distributions.Categorical(logits=decision.actor).sample()
    value = net.value.predict(decision.critic)
    right = (act.view(rows, 2)[:, 1] == side).float()
    ret = right[:, None].expand(-1, 2).reshape(act.shape)
    # What the first action does cannot matter; it would only add noise.
    mask = torch.tensor([False, True]).expand(rows, -1).reshape(act.shape)
    lesson = Lesson(x=x, act=act, ret=ret, baseline=value, slow=value, mask=mask, carry=carry)
    return lesson, right.mean()
