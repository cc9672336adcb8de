"""A world that one line describes, and models of it whose answers are known.

The world's picture has one colour x; action a leads to x + 1 + a and pays a.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from envs.experience import Segment
from runners.dream import dream
from runners.horizon import HorizonReport
from runners.rollout import windows
from worldmodels.batch import Batch
from worldmodels.protocols import Prediction, Prev, State

SIZE, ACTIONS = 8, 3


def episode(steps: int, seed: int, start: int = 10) -> Segment:
    rng = np.random.default_rng(seed)
    act = rng.integers(0, ACTIONS, steps)
    colours = start + np.concatenate([[0], np.cumsum(1 + act)])
    obs = np.broadcast_to(colours[:, None, None, None], (steps + 1, SIZE, SIZE, 3))
    end = np.zeros(steps, bool)
    end[-1:] = True
    trunc = np.zeros(steps, bool)
    return Segment(
        obs.astype(np.uint8), act.astype(np.int64), act.astype(np.float32), end, trunc, True
    )


class Colours:
    """One token a frame: its colour."""

    vocab, tokens = 256, 1

    def encode(self, prev: Prev, obs: Tensor) -> Tensor:
        return obs[..., 0, 0, :1].long()

    def decode(self, prev: Prev, tokens: Tensor) -> Tensor:
        colour = tokens[..., None, None].expand(*tokens.shape[:-1], SIZE, SIZE, 3)
        return colour.to(torch.uint8)


class Unsure:
    """Thinks all colours as likely, whatever came before: a frame costs log 256 nats."""

    def start(self, batch: Any, tokens: Tensor) -> int:
        return len(tokens)

    def step(self, memory: int, act: Tensor, tokens: Tensor) -> tuple[int, Prediction]:
        nothing = torch.zeros(memory)
        logits = torch.zeros(memory, 1, 256)
        return memory, Prediction(tokens, logits, nothing, nothing.bool(), nothing)

    def see(self, memory: int, obs: Tensor, tokens: Tensor) -> int:
        return memory


class FakeModel(nn.Module):
    """Predicts x + 1 + a + drift; `noise` adds a random 0 or 1."""

    context = None

    def __init__(self, drift: int = 0, noise: bool = False, ends_at: int = 999) -> None:
        super().__init__()
        self.dynamics = Unsure()
        self.weight = nn.Parameter(torch.zeros(1))
        self.tokenizer = Colours()
        self.drift, self.noise, self.ends_at = drift, noise, ends_at
        self.modes: list[bool] = []

    def start(self, batch: Any) -> State:
        assert bool(batch.valid.all()) and batch.obs.shape[1] == batch.act.shape[1] + 1
        obs = batch.obs[:, -1]
        return State(memory=0, obs=obs, tokens=obs[:, 0, 0, :1].long())

    def tokenize(self, batch: Any) -> Tensor:
        return self.tokenizer.encode(Prev(batch.obs, batch.act), batch.obs)

    def imagine(self, state: State, act: Tensor) -> tuple[State, Prediction]:
        self.modes.append(self.training)
        x = state.tokens[:, 0] + 1 + act + self.drift
        if self.noise:
            x = x + torch.randint(0, 2, x.shape)
        tokens, step = x[:, None], state.memory + 1
        ended = torch.full(x.shape, step == self.ends_at)
        prediction = Prediction(
            tokens=tokens,
            logits=torch.zeros(*tokens.shape, 256),
            rew=act.float() + self.drift,
            end=ended,
            end_prob=ended.float(),
        )
        obs = self.tokenizer.decode(Prev(torch.empty(0), act), tokens)
        return State(memory=step, obs=obs, tokens=tokens), prediction


class FakeAgent(nn.Module):
    """Values a frame at its colour; always picks action 2."""

    def __init__(self, **model: Any) -> None:
        super().__init__()
        self.world_model: Any = FakeModel(**model)

    def watch(self, batch: Any) -> int:
        return int(batch.act.shape[1])

    def judge(self, obs: Tensor, carry: int) -> tuple[Tensor, Tensor, int]:
        logits = torch.tensor([-99.0, -99.0, 99.0]).expand(len(obs), ACTIONS)
        return logits, obs[:, 0, 0, 0].float(), carry + 1

    def judge_dream(self, state: State, carry: int) -> tuple[Tensor, Tensor, int]:
        assert state.obs is not None
        return self.judge(state.obs, carry)


EPISODES = [episode(40, seed) for seed in range(3)]


def drawn(*arguments: Any) -> tuple[Batch, np.ndarray]:
    found = windows(*arguments)
    assert found is not None
    return found


def reported(
    episodes: Sequence[Segment] = EPISODES, *, horizon: int, drift: int = 0
) -> HorizonReport:
    dreamt = dream(
        FakeAgent(drift=drift),
        episodes,
        context=2,
        horizon=horizon,
        num=30,
        seed=0,
        source="made-up",
        dreams=1,
    )
    assert dreamt is not None
    return dreamt.report
