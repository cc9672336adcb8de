"""Every entry of every table keeps the promises of its protocol."""

from __future__ import annotations

import pytest

from agents.actor_critics import ACTOR_CRITICS
from agents.views import VIEWS
from tests.conformance import (
    check_actor_critic,
    check_dynamics,
    check_layout,
    check_quantizer,
    check_tokenizer,
    check_view,
)
from tests.nets import NUM_ACTIONS, small_agent, windows
from worldmodels.dynamics import DYNAMICS
from worldmodels.dynamics.layouts import LAYOUTS
from worldmodels.quantizers import QUANTIZERS
from worldmodels.tokenizers import TOKENIZERS

PADDED = [(0, 4, 0), (2, 2, 0), (4, 0, 0)]


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_quantizer(kind: str) -> None:
    agent = small_agent(f"agent.tokenizer.quantizer.kind={kind}")
    check_quantizer(agent.get_submodule("world_model.tokenizer.quantizer"))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokenizer(kind: str) -> None:
    agent = small_agent(f"agent.tokenizer.kind={kind}")
    check_tokenizer(agent.world_model.tokenizer, windows([(0, 3, 1), *PADDED[1:]]))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_layout(kind: str) -> None:
    agent, batch = small_agent(f"agent.dynamics.layout.kind={kind}"), windows(PADDED)
    layout = agent.get_submodule("world_model.dynamics.layout")
    check_layout(layout, 32, batch, agent.world_model.tokenize(batch))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", DYNAMICS)
def test_dynamics(kind: str) -> None:
    agent, batch = small_agent(f"agent.dynamics.kind={kind}"), windows(PADDED)
    model = agent.world_model
    check_dynamics(model.dynamics, model.tokenizer, batch, model.tokenize(batch))


@pytest.mark.parametrize("kind", ACTOR_CRITICS)
def test_actor_critic(kind: str) -> None:
    agent, batch = small_agent(f"agent.actor_critic.kind={kind}"), windows(PADDED)
    x = agent.view.real(agent.world_model, batch)
    check_actor_critic(agent.actor_critic, x, NUM_ACTIONS)


@pytest.mark.parametrize("name", VIEWS)
def test_view(name: str) -> None:
    agent = small_agent(f"agent.view={name}")
    check_view(agent.view, agent.world_model, windows(PADDED))
