"""Agents whose tokens are stored patches: settings, updates, dreams, runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.agent import Agent
from agents.build import build_agent
from envs.experience import EnvSpec
from envs.spaces import Discrete, Image
from runners.errors import UserError
from runners.phases import Phase
from runners.rollout import rollout, undisturbed
from runners.settings.load import load
from tests.nets import NUM_ACTIONS, small_agent
from tests.patches import squares_of, tiled
from tests.quantizers import same, state
from tests.runs import HARDWARE, differences, words_of
from tests.test_trainer import counting, interrupted, whole
from worldmodels.dynamics import DYNAMICS
from worldmodels.tokenizers.patch_nn import PatchNN

KIND = "agent.tokenizer.kind=patch_nn"
PADDED = [(0, 3, 1), (1, 3, 0), (0, 4, 0), (2, 1, 1), (4, 0, 0)]


@pytest.mark.parametrize("agent", ["iris", "dart", "rem"])
@pytest.mark.parametrize("size", ["tiny", "paper"])
def test_one_word_chooses_it(agent: str, size: str) -> None:
    words = [f"agent={agent}", f"size={size}"]
    expected = {"patch": 8, "size": 4096, "threshold": 0.75, "candidates": 256}
    for order in ([*words, KIND], [KIND, *words]):
        config = load(order).config.agent
        assert config.tokenizer.model_dump() == {"kind": "patch_nn", **expected}
    assert config.view == load(words).config.agent.view


def test_settings_of_what_learns_are_not_its_own() -> None:
    with pytest.raises(UserError, match="there is no setting 'agent.tokenizer.quantizer.size'"):
        load(["agent=iris", KIND, "agent.tokenizer.quantizer.size=9"])
    with pytest.raises(UserError, match="it belongs to agent.tokenizer.kind=patch_nn"):
        load(["agent=iris", "agent.tokenizer.threshold=1"])


def phase_of(agent: Agent, learner: int, rows: int, frames: int) -> Phase:
    numbers: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.01, "clip": 10.0, "after_epoch": 0}
    once = {"batch": rows, "frames": frames, "updates": 1, "first_updates": 1}
    return Phase(agent.learners()[learner], HARDWARE, **once, **numbers)


def test_an_update_in_slices_is_one_update() -> None:
    results = []
    for rows in (5, 2, 1):
        agent = small_agent(KIND, "agent.tokenizer.patch=16", "agent.tokenizer.size=64")
        phase = phase_of(agent, 0, len(PADDED), 5)
        phase.slice = rows
        metrics = [phase.update(tiled(PADDED, seed)) for seed in range(2)]
        results.append((metrics[-1], state(phase.learner.module)))
    for last, after in results[1:]:
        torch.testing.assert_close(last, results[0][0])
        assert same(after, results[0][1])
    assert "grad_norm" not in results[0][0] and {"l2", "loss", "patches"} <= results[0][0].keys()


@pytest.mark.parametrize("kind", sorted(DYNAMICS))
def test_imagination_draws_only_what_is_stored(kind: str) -> None:
    token = "agent.dynamics.layout.kind=token"
    agent = small_agent(KIND, f"agent.dynamics.kind={kind}", token, "agent.tokenizer.size=300")
    model, batch = agent.world_model, tiled([(0, 3, 0)] * 20)
    net = model.tokenizer
    assert isinstance(net, PatchNN)
    net.patches[:6] = squares_of(batch, 32)[:6]
    net.count.fill_(6)
    moment, drawn = model.start(batch), list[Tensor]()
    for _ in range(3):
        moment, prediction = model.imagine(moment, batch.act[:, 0])
        drawn.append(prediction.tokens)
        assert prediction.logits[..., :6].isfinite().all()
        assert (prediction.logits[..., 6:] == -torch.inf).all()
    assert 0 < torch.stack(drawn).max() < 6


@pytest.mark.parametrize(
    ("agent", "side"), [("iris", 8), ("iris", 7), ("dart", 8), ("rem", 7), ("delta_iris", 8)]
)
def test_each_phase_of_an_agent_learns_with_it(agent: str, side: int) -> None:
    few = [f"agent.phases.{name}.batch=2" for name in ("tokenizer", "world_model", "policy")]
    few += [f"agent.phases.{name}.frames=3" for name in ("tokenizer", "world_model")]
    few += ["agent.behaviour.horizon=2", "agent.behaviour.context=2"]
    few += ["agent.tokenizer.size=512", f"agent.tokenizer.patch={side}"]
    config = load([f"agent={agent}", "env=crafter", "size=tiny", KIND, *few]).config.agent
    torch.manual_seed(0)
    built = build_agent(config.model_dump(), EnvSpec(Image((64, 64, 3)), Discrete(NUM_ACTIONS)))
    batch = tiled([(0, 2, 0), (1, 1, 0)])
    for index, learner in enumerate(built.learners()):
        phase = phase_of(built, index, 2, 3)
        before = state(learner.module)
        metrics = phase.update(batch)
        assert all(torch.isfinite(v).all() for v in metrics.values()), metrics
        assert not same(state(learner.module), before), learner.name
    assert isinstance(built.world_model.tokenizer, PatchNN)
    assert built.world_model.tokenizer.count > 8
    with undisturbed(built, seed=0):
        dreamed = rollout(built, tiled([(0, 4, 0)] * 2), 2)
    assert dreamed.dream.shape == (2, 4, 64, 64, 3) and np.isfinite(dreamed.value[:, 1:]).all()


def test_a_run_stopped_once_is_the_same_run(tmp_path: Path) -> None:
    others = [word for word in words_of("iris") if not word.startswith("agent.tokenizer.")]
    own = [KIND, "agent.tokenizer.patch=16", "agent.tokenizer.size=64", "run.steps=45"]
    config = load([*others, *own]).config
    end, moments = whole(config, tmp_path / "whole", counting)
    assert end["model"]["world_model.tokenizer.count"] > 1
    again = interrupted(config, tmp_path / "parts", counting, [moments - 12])
    assert differences(end, again) == []
