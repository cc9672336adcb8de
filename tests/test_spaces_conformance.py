"""Agents of all things to see and to do keep the promises of the protocols."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance import (
    check_actor_critic,
    check_dynamics,
    check_layout,
    check_tokenizer,
    check_view,
)
from tests.nets import small_agent, windows
from tests.spaces import spec_of, words_of

PADDED = [(0, 4, 0), (2, 2, 0), (4, 0, 0)]
# Each thing to see and to do with each dynamics and layout at least once, and each view.
CASES = [
    ("all", "tokens", "autoregressive", "delta", "frame"),
    ("all", "multi", "parallel", "blind", "latent"),
    ("all", "floats", "diffusion", "token", "tokens"),
    ("all", "tokens", "diffusion", "delta", "latent"),
    ("all", "discrete", "parallel", "token", "reconstruction"),
    ("numbers", "multi", "autoregressive", "token", "tokens"),
    ("numbers", "tokens", "parallel", "delta", "latent"),
    ("numbers", "floats", "diffusion", "blind", "latent"),
    ("vector", "tokens", "parallel", "token", "tokens"),
    ("vector", "discrete", "diffusion", "delta", "frame"),
    ("vector", "floats", "autoregressive", "blind", "latent"),
    ("vector", "multi", "diffusion", "token", "reconstruction"),
    ("categories", "tokens", "diffusion", "blind", "latent"),
    ("categories", "discrete", "autoregressive", "delta", "reconstruction"),
    ("categories", "bins", "parallel", "token", "frame"),
    ("categories", "multi", "parallel", "delta", "latent"),
    ("image", "tokens", "autoregressive", "token", "latent"),
    ("image", "floats", "parallel", "delta", "frame"),
    ("image", "multi", "diffusion", "blind", "latent"),
    ("all", "multi", "factorised", "packed", "latent"),
    ("numbers", "floats", "factorised", "packed", "tokens"),
    ("vector", "tokens", "factorised", "token", "tokens"),
    ("all", "tokens", "factorised", "delta", "frame"),
]


@pytest.mark.parametrize(("obs", "act", "dynamics", "layout", "view"), CASES)
def test_an_agent_of_these_spaces(
    obs: str, act: str, dynamics: str, layout: str, view: str
) -> None:
    spec = spec_of(obs, act)
    agent = small_agent(*words_of(act, dynamics, layout, view), spec=spec)
    model = agent.world_model
    check_tokenizer(model.tokenizer, windows([(0, 3, 1), *PADDED[1:]], spec=spec), spec)
    batch = windows(PADDED, spec=spec)
    tokens = model.tokenize(batch)
    order: Any = model.get_submodule("dynamics.layout")
    assert order.act_size == (3 if act in ("tokens", "multi") else 1)
    check_layout(order, 32, batch, tokens)
    check_dynamics(model.dynamics, model.tokenizer, batch, tokens, spec)
    check_actor_critic(agent.actor_critic, agent.view.real(model, batch), agent.head.size)
    check_view(agent.view, model, batch, spec)


@pytest.mark.parametrize("obs", ["all", "vector"])
def test_vectors_by_perceptrons(obs: str) -> None:
    spec = spec_of(obs, "floats")
    words = words_of("floats", "parallel", "delta", vectors="mlp")
    tokenizer = small_agent(*words, spec=spec).world_model.tokenizer
    check_tokenizer(tokenizer, windows([(0, 3, 1), *PADDED[1:]], spec=spec), spec)
