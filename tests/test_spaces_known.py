"""Dreamed tokens are of the observation whose place they have, and decode to what it may show."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agents.agent import Agent
from envs.trees import named
from tests.nets import small_agent, windows
from tests.spaces import random_tokens, spec_of, words_of
from worldmodels.dynamics import DYNAMICS
from worldmodels.protocols import Prev
from worldmodels.world_model import WorldModel

ROWS = 200
AT = "agent.dynamics."
# Samplers with a noise that fits them.
SAMPLERS = {
    "ancestral": (),
    "confidence": (),
    "copilot4d": (f"{AT}process.kind=copilot4d",),
    "entropy_bounded": (),
    "event_first": (),
    "gibbs": (),
    "planned": (f"{AT}process.kind=copilot4d",),
    "random": (f"{AT}guidance=2", f"{AT}objectives.alone=0.2"),
    "remask": (),
    "reverse": (f"{AT}process.kind=uniform",),
}


def dreamed(model: WorldModel, obs: str, act: str, steps: int) -> Tensor:
    """(N,K): all tokens of many dreams from random moments."""
    batch = windows([(0, 2, 0)] * ROWS, spec=spec_of(obs, act))
    state, found = model.start(batch), []
    for _ in range(steps):
        state, prediction = model.imagine(state, batch.act[:, -1])
        found.append(prediction.tokens)
        refused = ~prediction.logits.isfinite()
        assert not (refused.gather(-1, prediction.tokens[..., None])).any()
    return torch.cat(found)


def known_of(model: WorldModel) -> Tensor:
    """(K,V) bool."""
    known = model.tokenizer.known()
    assert known is not None
    return known


def even(agent: Agent) -> None:
    """Let the dynamics think all tokens as likely, wherever they stand."""
    last: nn.Linear = agent.world_model.get_submodule("dynamics.token_head.2")  # type: ignore[assignment]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


@pytest.mark.parametrize("dynamics", DYNAMICS)
@pytest.mark.parametrize(("obs", "layout"), [("all", "blind"), ("numbers", "token")])
def test_whatever_weights_say_tokens_stay_in_their_places(
    dynamics: str, obs: str, layout: str
) -> None:
    agent = small_agent(*words_of("multi", dynamics, layout, "latent"), spec=spec_of(obs, "multi"))
    model = agent.world_model
    known = known_of(model)
    for weight in agent.world_model.get_submodule("dynamics.token_head").parameters():
        weight.data *= 5
    tokens = dreamed(model, obs, "multi", 3)
    assert known[torch.arange(known.shape[0]), tokens].all()


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_what_is_as_likely_is_drawn_as_often(dynamics: str) -> None:
    """Every token that a place may have, and no other."""
    spec = spec_of("numbers", "floats")
    agent = small_agent(*words_of("floats", dynamics, "token", "latent"), spec=spec)
    even(agent)
    known = known_of(agent.world_model)
    # Three categories, of two things each in a vocabulary of their own; two numbers; one.
    assert known.sum(1).tolist() == [2, 6, 4, 9, 9, 9]
    assert known.int().argmax(1).tolist() == [0, 0, 0, 6, 6, 15] and known.shape == (6, 24)
    tokens = dreamed(agent.world_model, "numbers", "floats", 10)
    shares = nn.functional.one_hot(tokens, 24).float().mean(0)
    expected = known / known.sum(1, keepdim=True)
    assert torch.equal(shares > 0, known) and (shares - expected).abs().max() < 0.06


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_keeps_tokens_in_their_places(sampler: str) -> None:
    words = (f"{AT}sampler.kind={sampler}", f"{AT}sampler.steps=3", *SAMPLERS[sampler])
    kinds = words_of("floats", "diffusion", "token", "latent")
    agent = small_agent(*kinds, *words, spec=spec_of("numbers", "floats"))
    known = known_of(agent.world_model)
    tokens = dreamed(agent.world_model, "numbers", "floats", 3)
    assert known[torch.arange(len(known)), tokens].all()


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_dreamed_categories_are_categories(dynamics: str) -> None:
    """Of uneven sizes, alone and beside other things; each can come."""
    for obs in ("categories", "numbers", "all"):
        spec = spec_of(obs, "discrete")
        agent = small_agent(*words_of("discrete", dynamics, "delta"), spec=spec)
        even(agent)
        model, batch = agent.world_model, windows([(0, 1, 0)] * 100, spec=spec)
        shown = named(model.imagine(model.start(batch), batch.act[:, 0])[0].obs, "kind")["kind"]
        sizes = torch.tensor(named(spec.obs, "kind")["kind"].sizes)
        assert (shown >= 0).all() and torch.equal(shown.amax(0), sizes - 1)


def test_tokens_of_several_are_decoded_as_those_of_each_alone() -> None:
    spec = spec_of("all", "floats")
    agent = small_agent(*words_of("floats", "parallel", "token"), spec=spec)
    tokenizer: Any = agent.world_model.tokenizer
    batch = windows([(0, 4, 0)] * 3, spec=spec)
    tokens, told = tokenizer.tokenize(batch), random_tokens(tokenizer, (3, 5))
    act = nn.functional.pad(batch.act, (0, 0, 1, 0))
    whole = tokenizer.decode(Prev(batch.obs, act), told)
    embedded = tokenizer.embed(told)
    first = place = 0
    for (name, part), span in zip(
        zip(named(spec.obs), tokenizer.parts, strict=True), tokenizer.spans.values(), strict=True
    ):
        assert (span.start, span.stop) == (place, place + part.tokens)
        own = told[..., span] - first
        alone = part.decode(Prev(batch.obs[name], act), own)
        assert torch.equal(alone, whole[name])
        assert torch.equal(embedded[..., span, : part.dim], part.embed(own))
        assert not embedded[..., span, part.dim :].any()
        mine = part.encode(Prev(batch.obs[name], act), batch.obs[name])
        assert torch.equal(tokens[..., span], mine + first)
        first, place = first + part.vocab, span.stop
    assert (first, place) == (tokenizer.vocab, tokenizer.tokens)
