"""What dynamics foresee of an action before anything is drawn, and its slope."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agents.views import Tokens
from tests.nets import small_agent, windows
from tests.spaces import random_tokens, spec_of, words_of
from worldmodels.dynamics.sequence import Memory
from worldmodels.world_model import WorldModel

PAST = [(0, 3, 0), (2, 1, 0), (3, 0, 0), (1, 2, 0)]
# Dynamics with a layout that it has.
PAIRS = [("factorised", "packed"), ("factorised", "token"), ("parallel", "token")]
PAIRS += [("parallel", "blind")]
OFFSETS = [("offsets", "packed"), ("offsets", "token")]

each_pair = pytest.mark.parametrize(("dynamics", "layout"), PAIRS)


def model_of(obs: str, dynamics: str, layout: str, vectors: str = "bins") -> WorldModel:
    """A small world model that is told two numbers."""
    offsets = ("agent.dynamics.max_offset=9",) if dynamics == "offsets" else ()
    kind = "factorised" if offsets else dynamics
    words = (*words_of("floats", kind, layout, "tokens", vectors), *offsets)
    return small_agent(*words, spec=spec_of(obs, "floats")).world_model


def copied(memory: Memory) -> list[Tensor]:
    """All that a memory holds."""
    cache = memory.cache
    held = (cache.keys, cache.values, cache.visible, memory.pending, memory.tokens)
    return [x.clone() for x in held]


@pytest.mark.parametrize(("dynamics", "layout"), PAIRS + OFFSETS)
@pytest.mark.parametrize("obs", ["vector", "numbers"])
def test_an_outlook_is_what_a_step_says_and_leaves_no_trace(
    obs: str, dynamics: str, layout: str
) -> None:
    model, past = model_of(obs, dynamics, layout), windows(PAST, spec=spec_of(obs, "floats"))
    state = model.start(past)
    # As long that the memory is full at times, and starts anew.
    room = [state.memory.cache.filled]
    for step in range(30 if layout != "blind" else 8):
        act = (torch.rand(4, 2) * 2 - 1).requires_grad_()
        held, draws = copied(state.memory), torch.get_rng_state()
        outlook = model.outlook(state, act)
        assert torch.equal(draws, torch.get_rng_state())
        parts = (outlook.rew, outlook.end_prob, outlook.logits.softmax(-1).square())
        for part in parts:
            (slope,) = torch.autograd.grad(part.sum(), act, retain_graph=True)
            assert slope.isfinite().all() and slope.any(1).all(), step
        assert all(map(torch.equal, held, copied(state.memory)))
        state, prediction = model.imagine(state, act.detach())
        for name in ("logits", "rew", "end_prob"):
            assert torch.equal(getattr(outlook, name), getattr(prediction, name)), (step, name)
        room.append(state.memory.cache.filled)
    assert layout == "blind" or min(b - a for a, b in zip(room, room[1:], strict=False)) < 0


@pytest.mark.parametrize("obs", ["vector", "categories", "numbers", "image", "all"])
@pytest.mark.parametrize("vectors", ["bins", "mlp"])
def test_expected_vectors_are_means_of_those_drawn(obs: str, vectors: str) -> None:
    model = model_of(obs, "parallel", "token", vectors)
    tokenizer = model.tokenizer
    known = tokenizer.known()
    if known is None:
        known = torch.ones(tokenizer.tokens, tokenizer.vocab, dtype=torch.bool)
    logits = torch.randn(2, tokenizer.tokens, tokenizer.vocab).masked_fill(~known, -torch.inf)
    logits.requires_grad_()
    x = model.expected(logits)
    tokens, share = random_tokens(tokenizer, (2,)), logits.detach().softmax(-1)
    mean = torch.zeros_like(x)
    for place, token in known.nonzero().tolist():
        one = tokens.clone()
        one[:, place] = token
        mean[:, place] += share[:, place, token, None] * tokenizer.embed(one)[:, place].detach()
    torch.testing.assert_close(x.detach(), mean, atol=1e-4, rtol=1e-4)
    (slope,) = torch.autograd.grad(x.square().sum(), logits)
    assert slope.isfinite().all() and slope.any()


@pytest.mark.parametrize("obs", ["vector", "all"])
def test_where_tokens_are_certain_all_is_as_if_they_were_drawn(obs: str) -> None:
    model = model_of(obs, "factorised", "packed")
    past = windows(PAST, spec=spec_of(obs, "floats"))
    state = model.imagine(model.start(past), past.act[:, -1])[0]
    tokenizer, view = model.tokenizer, Tokens(env=spec_of(obs, "floats"), context=0)
    sure = torch.full((4, tokenizer.tokens, tokenizer.vocab), -torch.inf)
    sure.scatter_(-1, state.tokens[..., None], 0.0)
    torch.testing.assert_close(view.expected(model, sure), view.imagined(model, state))
