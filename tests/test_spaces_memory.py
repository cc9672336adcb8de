"""Dreams of all things to see and to do retrace what losses train, and depend on every action."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor

from agents.agent import Agent
from envs.trees import each
from tests.diffusion import PLAIN, retraced, trained
from tests.layouts import PAIRS
from tests.nets import Net, cut, heard, scored, small_agent, windows
from tests.spaces import ACTIONS, another, random_tokens, spec_of, words_of
from worldmodels.batch import Batch, at
from worldmodels.dynamics import DYNAMICS
from worldmodels.dynamics.diffusion import Diffusion
from worldmodels.protocols import Prev

ROWS = [(0, 6, 0), (0, 4, 2), (1, 5, 0), (2, 4, 0)]
HEADS = ("token_head", "reward_head", "end_head")
# All things to see in three slots of actions, and in one; numbers alone.
SEEN = [("all", "tokens"), ("all", "floats"), ("numbers", "multi")]


def agent_of(obs: str, act: str, dynamics: str, layout: str) -> Agent:
    """An agent of these whose losses hide nothing of the past."""
    plain = PLAIN if dynamics == "diffusion" else ()
    view = "frame" if layout == "delta" else "latent"
    return small_agent(*words_of(act, dynamics, layout, view), *plain, spec=spec_of(obs, act))


def net_of(agent: Agent) -> Net:
    """Its dynamics."""
    return agent.world_model.dynamics  # type: ignore[return-value]


def said_by_loss(net: Net, batch: Batch, tokens: Tensor) -> dict[str, Tensor]:
    """Logits (B,T,...) of the three heads, of a denoiser about frames wholly hidden."""
    if not isinstance(net, Diffusion):
        said = scored(net, batch, tokens)
        return said | {"token_head": said["token_head"].view(*tokens[:, 1:].shape, -1)}
    noised, _ = trained(net, batch, tokens)
    hidden = torch.full_like(tokens[:, 1:], net.vocab)
    return trained(net, batch, tokens, replace(noised, z=hidden))[1]


def said_by_dreams(net: Net, batch: Batch, tokens: Tensor, context: int) -> dict[str, Tensor]:
    """The same of steps after `context`, one by one from what is true."""
    if isinstance(net, Diffusion):
        return retraced(net, batch, tokens, torch.full_like(tokens[:, 1:], net.vocab), context)
    with heard(net) as said, torch.no_grad():
        memory = net.start(cut(batch, slice(None), slice(0, context)), tokens[:, : context + 1])
        for t in range(context, batch.act.shape[1]):
            memory, _ = net.step(memory, batch.act[:, t], tokens[:, t + 1])
            memory = net.see(memory, at(batch.obs, t + 1), tokens[:, t + 1])
    steps, count = batch.act.shape[1] - context, tokens.shape[-1]
    stacked = {name: torch.stack(out, 1) for name, out in said.items()}
    stacked["token_head"] = stacked["token_head"].view(len(tokens), steps, count, -1)
    return stacked


CASES = [(*seen, *rest) for seen, rest in product(SEEN, PAIRS)]


@pytest.mark.parametrize(("obs", "act", "dynamics", "layout"), CASES)
def test_dreams_of_the_truth_retrace_what_the_loss_trains(
    obs: str, act: str, dynamics: str, layout: str
) -> None:
    agent = agent_of(obs, act, dynamics, layout)
    net, tokenizer = net_of(agent), agent.world_model.tokenizer
    for context in (0, 3):
        rows = [row for row in ROWS if row[0] <= context]
        batch = windows(rows, spec=spec_of(obs, act))
        tokens = random_tokens(tokenizer, batch.seen.shape)
        loss = said_by_loss(net, batch, tokens)
        dream = said_by_dreams(net, batch, tokens, context)
        real = batch.valid[:, context:]
        assert dream["token_head"].std() > 0.1
        for name in HEADS:
            want = loss[name][:, context:][real]
            torch.testing.assert_close(dream[name][real], want, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("dynamics", "layout"), [x for x in PAIRS if x[1] != "delta"])
def test_a_world_model_that_follows_tokens_says_what_its_loss_trains(
    dynamics: str, layout: str
) -> None:
    """With no more than the tokens that are known, and the features of its moments."""
    agent, spec = agent_of("all", "tokens", dynamics, layout), spec_of("all", "tokens")
    model, batch = agent.world_model, windows([(0, 6, 0)] * 3, spec=spec)
    tokens, known = model.tokenize(batch), model.tokenizer.known()
    assert known is not None and not model.draws
    loss = said_by_loss(net_of(agent), batch, tokens)
    moments = model.moments(batch)
    model.context = None
    state = model.start(cut(batch, slice(None), slice(0, 2)))
    for t in range(2, 6):
        state, prediction = model.imagine(state, batch.act[:, t], tokens[:, t + 1])
        want = loss["token_head"][:, t].masked_fill(~known, -torch.inf)
        torch.testing.assert_close(prediction.logits, want, atol=2e-5, rtol=1e-4)
        rew = net_of(agent).reward.predict(loss["reward_head"][:, t])
        torch.testing.assert_close(prediction.rew, rew, atol=1e-4, rtol=1e-4)
        end = loss["end_head"][:, t].softmax(-1)[:, 1]
        torch.testing.assert_close(prediction.end_prob, end, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(model.moment(state), moments[:, t + 1], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("act", ACTIONS)
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_every_dimension_of_an_action_changes_what_follows_and_nothing_before(
    dynamics: str, act: str
) -> None:
    agent, spec = agent_of("numbers", act, dynamics, "token"), spec_of("numbers", act)
    net, batch = net_of(agent), windows([(0, 5, 0)] * 3, spec=spec)
    tokens = random_tokens(agent.world_model.tokenizer, batch.seen.shape)
    said = said_by_loss(net, batch, tokens)
    for dim in range(batch.act[0, 0].numel()):
        other = said_by_loss(net, replace(batch, act=another(spec.act, batch.act, dim, 2)), tokens)
        for name in HEADS:
            apart = (other[name] - said[name]).abs().flatten(2).amax(-1)
            assert apart[:, :2].max() < 1e-5
            assert apart[:, 2].min() > 1e-4 and apart[:, 3:].min() > 1e-6


# Fewer tokens than slots of actions, and more.
FULL = [*product(DYNAMICS, ("pair", "numbers"), ("token", "delta"))]


@pytest.mark.parametrize(("dynamics", "obs", "layout"), [*FULL, ("factorised", "pair", "packed")])
def test_a_full_memory_goes_on_from_the_present_frame_alone(
    dynamics: str, obs: str, layout: str
) -> None:
    """Positions are counted with all slots of an action."""
    spec, words = spec_of(obs, "tokens"), words_of("tokens", dynamics, layout, "latent")
    few = ("agent.dynamics.blocks=9", "agent.phases.world_model.frames=9")
    agent = small_agent(*words, *few, spec=spec)
    net: Any = agent.world_model.dynamics
    batch = windows([(0, 25, 0)] * 2, spec=spec)
    tokens = random_tokens(agent.world_model.tokenizer, batch.seen.shape)
    memory, restarts = net.start(cut(batch, slice(None), slice(0, 1)), tokens[:, :2]), []
    for t in range(1, 25):
        here = cut(batch, slice(None), slice(t, t))
        _, fresh = net.step(net.start(here, tokens[:, t, None]), batch.act[:, t], tokens[:, t + 1])
        memory, prediction = net.step(memory, batch.act[:, t], tokens[:, t + 1])
        apart = (prediction.logits - fresh.logits).abs().max()
        if apart < 1e-4:
            restarts.append(t)
            torch.testing.assert_close(prediction.rew, fresh.rew, atol=1e-4, rtol=1e-4)
        memory = net.see(memory, at(batch.obs, t + 1), tokens[:, t + 1])
    # Nine blocks are the first frame and eight or nine steps.
    assert len(restarts) >= 2 and {b - a for a, b in pairwise(restarts)} <= {8, 9}


@pytest.mark.parametrize(("dynamics", "layout"), PAIRS)
def test_everything_that_is_shown_is_seen(dynamics: str, layout: str) -> None:
    """In frames by whom they are looked at, in tokens by all, by a policy in both."""
    agent, spec = agent_of("all", "floats", dynamics, layout), spec_of("all", "floats")
    net: Any = agent.world_model.dynamics
    batch = windows([(0, 3, 0)] * 2, spec=spec)
    tokens = random_tokens(agent.world_model.tokenizer, batch.seen.shape)
    moments, other = net.moments(batch, tokens), windows([(0, 3, 0)] * 2, 5, spec)
    looks = layout in ("blind", "delta")
    carry = agent.watch(cut(batch, slice(None), slice(0, 2)))
    outputs = agent.judge(at(batch.obs, 2), carry)[0]
    for place, name in enumerate(batch.obs):
        told = replace(batch, obs={**batch.obs, name: other.obs[name]})
        apart = (net.moments(told, tokens) - moments).abs().amax((0, 2))
        assert (apart[:1] > 1e-5).all() == looks
        assert (apart[1:] > 1e-5).all() == looks
        judged = agent.judge(at(told.obs, 2), carry)[0]
        assert (judged - outputs).abs().max() > 1e-6
        span = list(net.layout.spans.values())[place]
        changed = tokens.clone()
        changed[..., span] = tokens[..., span].roll(1, 0)
        assert (net.moments(batch, changed) - moments).abs().amax() > 1e-5


@pytest.mark.parametrize("act", ACTIONS)
def test_every_dimension_of_an_action_tells_what_changed_in_a_picture(act: str) -> None:
    agent, spec = agent_of("image", act, "parallel", "delta"), spec_of("image", act)
    tokenizer, batch = agent.world_model.tokenizer, windows([(0, 3, 0)] * 2, spec=spec)
    tokens = random_tokens(tokenizer, batch.valid.shape)
    before = at(batch.obs, slice(None, -1))
    vectors = tokenizer.loss(batch).learn[0]
    drawn = tokenizer.decode(Prev(before, batch.act), tokens)
    for dim in range(batch.act[0, 0].numel()):
        acts = another(spec.act, batch.act, dim, 1)
        apart = (tokenizer.loss(replace(batch, act=acts)).learn[0] - vectors).abs().amax((2, 3))
        assert (apart[:, 1] > 1e-5).all() and apart[:, [0, 2]].max() < 1e-5
        other = tokenizer.decode(Prev(before, acts), tokens)
        assert (other != drawn).flatten(2).any(-1).tolist() == [[False, True, False]] * 2


@pytest.mark.parametrize(("dynamics", "layout"), PAIRS)
def test_the_first_real_frame_after_padding_is_seen(dynamics: str, layout: str) -> None:
    """Whole, by what is said of the steps after it; also where nothing happened since."""
    agent, spec = agent_of("numbers", "tokens", dynamics, layout), spec_of("numbers", "tokens")
    net, batch = net_of(agent), windows([(2, 3, 0)] * 2, spec=spec)
    tokens = random_tokens(agent.world_model.tokenizer, batch.seen.shape)
    other = windows([(2, 3, 0)] * 2, 5, spec).obs
    here = torch.arange(6) == 2
    obs = each(lambda x, y: torch.where(here.view(1, 6, 1), y, x), batch.obs, other)
    told = torch.where(here[:, None], tokens.roll(1, 0), tokens)
    changed = replace(batch, obs=obs)
    one, two = said_by_loss(net, batch, tokens), said_by_loss(net, changed, told)
    assert ((one["reward_head"] - two["reward_head"]).abs().amax(-1)[:, 2:] > 1e-5).all()
    start, act = slice(0, 2), batch.act[:, 2]
    rewards = [
        net.step(net.start(cut(x, slice(None), start), t[:, :3]), act, tokens[:, 3])[1].rew  # type: ignore[arg-type]
        for x, t in ((batch, tokens), (changed, told))
    ]
    assert ((rewards[0] - rewards[1]).abs() > 1e-6).all()
