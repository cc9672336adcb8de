"""Every agent preset, on every environment and in every size on one, builds and learns."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from agents.build import build_agent
from envs.experience import EnvSpec
from envs.spaces import Continuous, Discrete, Image
from runners.hardware import Hardware
from runners.phases import Phase
from runners.rollout import free_dreams, rollout, undisturbed
from runners.settings.load import load
from runners.settings.presets import names
from tests.nets import NUM_ACTIONS, windows
from worldmodels.dynamics import DYNAMICS

# Rows and frames, which decide the time; widths stay those of the preset.
FEW = [f"agent.phases.{name}.batch=2" for name in ("tokenizer", "world_model", "policy")]
FEW += [f"agent.phases.{name}.frames=3" for name in ("tokenizer", "world_model")]
FEW += ["agent.behaviour.horizon=2", "agent.behaviour.context=2"]


# Presets of the others change nothing in an agent; small networks are tiny ones.
ENVS = ("atari", "cartpole", "crafter", "dmc_state")


def different() -> list[tuple[str, str, str]]:
    """Agents, environments and sizes, each but those that build the same as one before."""
    found: dict[tuple[str, bool], tuple[str, str, str]] = {}
    sizes = [*product(ENVS, ("tiny",)), ("crafter", "paper")]
    for agent, (env, size) in product(names("agent"), sizes):
        config = load([f"agent={agent}", f"env={env}", f"size={size}"]).config.agent
        found.setdefault((config.model_dump_json(), env == "dmc_state"), (agent, env, size))
    return [*found.values()]


@pytest.mark.parametrize(("agent", "env", "size"), different())
def test_a_preset_builds_and_takes_an_update_of_each_phase(agent: str, env: str, size: str) -> None:
    update_each_phase(f"agent={agent}", f"env={env}", f"size={size}")


@pytest.mark.parametrize("kind", sorted(DYNAMICS))
@pytest.mark.parametrize("env", ENVS)
def test_the_tiny_agent_takes_an_update_of_each_phase_with_any_dynamics(
    env: str, kind: str
) -> None:
    update_each_phase("agent=delta_iris", f"env={env}", "size=tiny", f"agent.dynamics.kind={kind}")


def update_each_phase(*words: str) -> None:
    """Builds the agent and lets each of its phases learn once, which moves most of its weights."""
    config = load([*words, *FEW]).config.agent
    steers = "env=dmc_state" in words
    # Pictures everywhere, so that every part has something to do.
    spec = EnvSpec(Image((64, 64, 3)), Continuous(3) if steers else Discrete(NUM_ACTIONS))
    built = build_agent(config.model_dump(), spec)
    hardware = Hardware(torch.device("cpu"), torch.float32)
    numbers, batch = config.phases.model_dump(), windows([(0, 2, 0), (1, 1, 0)], spec=spec)
    for learner in built.learners():
        mine = {k: v for k, v in numbers[learner.name].items() if k != "priority"}
        mine.setdefault("frames", config.behaviour.horizon + 1)
        phase = Phase(learner, hardware, **mine)
        before = [p.detach().clone() for p in phase.parameters]
        metrics = phase.update(batch)
        assert all(torch.isfinite(v).all() for v in metrics.values()), metrics
        assert {"loss", "grad_norm"} <= metrics.keys() and metrics["grad_norm"] > 0
        moved = [bool((p != b).any()) for p, b in zip(phase.parameters, before, strict=True)]
        assert sum(moved) > len(moved) / 2
    with undisturbed(built, seed=0):
        dreamed = rollout(built, windows([(0, 4, 0)] * 2, spec=spec), 2)
        assert dreamed.dream.shape == (2, 4, 64, 64, 3) and np.isfinite(dreamed.value[:, 1:]).all()
        free = free_dreams(built, windows([(0, 4, 0)], spec=spec), 2, 3)
    assert free.frames.shape == (3, 4, 64, 64, 3) and np.isfinite(free.returns).all()
