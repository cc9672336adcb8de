"""The agent that the preset of REM makes: how it dreams."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from agents.build import build_agent
from envs.experience import EnvSpec
from envs.spaces import Discrete, Image
from runners.settings.load import load
from tests.nets import NUM_ACTIONS, cut, scored, shake, windows
from tests.runs import small
from worldmodels.dynamics.parallel import Parallel
from worldmodels.nets.transformer import Cache, Transformer
from worldmodels.tokenizers.frame_vq import FrameVQ

SPEC = EnvSpec(Image((64, 64, 3)), Discrete(NUM_ACTIONS))


def test_a_dream_is_one_pass_a_step_in_which_nothing_is_drawn_or_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Token by token, these 10 steps would be 640 passes."""
    config = load(["env=atari", "agent=rem", "size=paper"]).config.agent
    agent, passes, filled = build_agent(config.model_dump(), SPEC), [], []
    extend = Transformer.extend

    def counted(self: Transformer, cache: Cache, x: Tensor, *rest: Tensor) -> object:
        passes.append(x.shape[1])
        filled.append(cache.filled)
        return extend(self, cache, x, *rest)

    def drawn(*_: object) -> None:
        raise AssertionError("a picture was drawn")

    monkeypatch.setattr(Transformer, "extend", counted)
    monkeypatch.setattr(FrameVQ, "decode", drawn)
    lesson = agent.lesson(windows([(0, 3, 0)]))
    assert lesson.x.shape == (1, 10, 64, 256)
    # The present frame; an action and 64 queries; from then on 64 tokens before them.
    assert passes == [64, 65] + [64 + 65] * 9
    assert filled == [0, 64] + [65 * step for step in range(1, 10)]


@pytest.mark.parametrize(("env", "size"), list(product(("atari", "crafter"), ("paper", "tiny"))))
def test_every_place_in_a_dream_is_one_that_windows_train(env: str, size: str) -> None:
    agent = load([f"env={env}", "agent=rem", f"size={size}"]).config.agent
    assert agent.behaviour.model_context == 0
    assert agent.behaviour.horizon <= agent.phases.world_model.frames - 1


def test_dreaming_the_truth_retraces_what_the_loss_trains() -> None:
    agent = build_agent(small(agent="rem").agent.model_dump(), SPEC).eval()
    shake(agent.world_model)
    model, batch = agent.world_model, windows([(0, 4, 0)] * 3)
    assert isinstance(model.dynamics, Parallel)
    tokens = model.tokenize(batch)
    trained = scored(model.dynamics, batch, tokens)["token_head"]
    state = model.start(cut(batch, slice(None), slice(0, 0)))
    assert state.obs is None
    for t in range(4):
        state, prediction = model.imagine(state, batch.act[:, t], tokens[:, t + 1])
        torch.testing.assert_close(prediction.logits, trained[:, t], atol=1e-4, rtol=1e-4)
