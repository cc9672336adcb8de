"""A world that one line describes, and models of it whose answers are known.

Action a leads from a number x to x + 1 + a and pays a. The world shows x as the one colour of a
picture, as a vector, or as several things at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.action_heads import Categorical
from envs.experience import Segment
from envs.spaces import Obs
from envs.trees import each, leaves
from runners.dream import Dreamt, dream
from runners.horizon import HorizonReport
from runners.rollout import windows
from worldmodels.batch import Batch, at
from worldmodels.protocols import Prediction, State

SIZE, ACTIONS = 8, 3


class Colours:
    """A picture of colour x. One token a frame: x."""

    vocab, tokens = 256, 1

    def encode(self, prev: Any, obs: Obs) -> Tensor:
        return obs[..., 0, 0, :1].long()

    def decode(self, prev: Any, tokens: Tensor) -> Obs:
        colour = tokens[..., None, None].expand(*tokens.shape[:-1], SIZE, SIZE, 3)
        return colour.to(torch.uint8)


class Numbers(Colours):
    """The vector (x, -2x, 7), of which reconstructions have x + `off` in the first place."""

    def __init__(self, off: float = 0.0) -> None:
        self.off = off

    def encode(self, prev: Any, obs: Obs) -> Tensor:
        return (obs[..., 1:2] / -2).long()

    def decode(self, prev: Any, tokens: Tensor) -> Obs:
        x = tokens.float()
        return torch.cat((x + self.off, -2 * x, torch.full_like(x, 7)), -1)


class Several(Colours):
    """The picture, the vector, and two choices: x modulo 4, and always 1."""

    def encode(self, prev: Any, obs: Obs) -> Tensor:
        return super().encode(prev, obs["pixels"])

    def decode(self, prev: Any, tokens: Tensor) -> Obs:
        return {
            "state": Numbers().decode(prev, tokens),
            "pixels": super().decode(prev, tokens),
            "inner/kinds": torch.cat((tokens % 4, torch.ones_like(tokens)), -1),
        }


def episode(steps: int, seed: int, start: int = 10, shows: Colours | None = None) -> Segment:
    rng = np.random.default_rng(seed)
    act = rng.integers(0, ACTIONS, steps)
    x = torch.from_numpy(start + np.concatenate([[0], np.cumsum(1 + act)]))
    obs = (shows or Colours()).decode(None, x[:, None])
    end = np.zeros(steps, bool)
    end[-1:] = True
    trunc = np.zeros(steps, bool)
    return Segment(each(lambda o: o.numpy(), obs), act, act.astype(np.float32), end, trunc, True)


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

    def __init__(
        self,
        drift: int = 0,
        noise: bool = False,
        ends_at: int = 999,
        shows: Colours | None = None,
    ) -> None:
        super().__init__()
        self.dynamics = Unsure()
        self.weight = nn.Parameter(torch.zeros(1))
        self.tokenizer = shows or Colours()
        self.drift, self.noise, self.ends_at = drift, noise, ends_at
        self.modes: list[bool] = []

    def start(self, batch: Any) -> State:
        assert bool(batch.valid.all())
        assert leaves(batch.obs)[0].shape[1] == batch.act.shape[1] + 1
        obs = at(batch.obs, -1)
        return State(memory=0, obs=obs, tokens=self.tokenizer.encode(None, obs))

    def tokenize(self, batch: Any) -> Tensor:
        return self.tokenizer.encode(None, batch.obs)

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
        obs = self.tokenizer.decode(None, tokens)
        return State(memory=step, obs=obs, tokens=tokens), prediction


class FakeAgent(nn.Module):
    """Values a frame at its x; always picks action 2."""

    def __init__(self, **model: Any) -> None:
        super().__init__()
        self.world_model: Any = FakeModel(**model)
        self.head = Categorical(actions=ACTIONS)

    def watch(self, batch: Any) -> int:
        return int(batch.act.shape[1])

    def judge(self, obs: Obs, carry: int) -> tuple[Tensor, Tensor, int]:
        x = self.world_model.tokenizer.encode(None, obs)[:, 0]
        logits = torch.tensor([-99.0, -99.0, 99.0]).expand(len(x), ACTIONS)
        return logits, x.float(), carry + 1

    def judge_dream(self, state: State, carry: int) -> tuple[Tensor, Tensor, int]:
        assert state.obs is not None
        return self.judge(state.obs, carry)


EPISODES = [episode(40, seed) for seed in range(3)]


def drawn(*arguments: Any) -> tuple[Batch, np.ndarray]:
    found = windows(*arguments)
    assert found is not None
    return found


def dreamt(
    episodes: Sequence[Segment] = EPISODES, *, horizon: int, num: int = 30, **model: Any
) -> Dreamt:
    found = dream(
        FakeAgent(**model),
        episodes,
        context=2,
        horizon=horizon,
        num=num,
        seed=0,
        source="made-up",
        dreams=5,
    )
    assert found is not None
    return found


def reported(
    episodes: Sequence[Segment] = EPISODES, *, horizon: int, drift: int = 0
) -> HorizonReport:
    (report,) = dreamt(episodes, horizon=horizon, drift=drift).reports.values()
    return report
