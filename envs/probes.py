"""Tiny deterministic games with known answers, for testing whatever drives or learns from games."""

from __future__ import annotations

import os
import signal
from typing import SupportsIndex

import numpy as np

from envs.base import Outcome
from envs.experience import EnvSpec
from envs.spaces import Categories, Continuous, Discrete, Image, Obs, Vector, as_action


class CountingGame:
    """Every frame says which game it belongs to, its step and the action that led to it.

    obs (size,size,3): channel 0 is `seed % 256`, 1 the step t (from 0), 2 the last action.
    The action from frame t earns t + 1. The game lasts `length + seed % spread` steps, then
    ends, or is truncated where `truncate`; every `life_every` steps a life is lost.
    """

    def __init__(
        self,
        length: int = 5,
        spread: int = 1,
        *,
        size: int = 8,
        num_actions: int = 3,
        truncate: bool = False,
        life_every: int = 0,
    ) -> None:
        self.spec = EnvSpec(Image((size, size, 3)), Discrete(num_actions))
        self._size, self._shortest, self._spread = size, length, spread
        self._truncate, self._life_every = truncate, life_every
        self._seed = self._t = self._length = 0

    def reset(self, seed: int) -> np.ndarray:
        self._seed, self._t = seed, 0
        self._length = self._shortest + seed % self._spread
        return self._draw(0)

    def step(self, act: SupportsIndex) -> Outcome:
        assert self._t < self._length, "the game is over"
        self._t += 1
        over = self._t == self._length
        lost_life = self._life_every > 0 and self._t % self._life_every == 0
        return Outcome(
            obs=self._draw(act),
            rew=float(self._t),
            end=(over and not self._truncate) or (lost_life and not over),
            trunc=over and self._truncate,
            over=over,
            stats={"seed": float(self._seed)} if over else {},
        )

    def close(self) -> None:
        pass

    def _draw(self, act: SupportsIndex) -> np.ndarray:
        obs = np.empty((self._size, self._size, 3), np.uint8)
        obs[...] = (self._seed % 256, self._t % 256, int(act) % 256)
        return obs


class CountingDictGame:
    """`CountingGame` with three observations and two continuous actions.

    `pixels` are its frames. `state` is (seed % 1000, t, and the action that led here), `kind` the
    step in base 10, lowest digit first.
    """

    def __init__(self, length: int = 5, spread: int = 1, *, truncate: bool = False) -> None:
        self._game = CountingGame(length, spread, truncate=truncate)
        self._seed = self._t = 0
        self.spec = EnvSpec(
            {"pixels": Image((8, 8, 3)), "state": Vector(4), "kind": Categories((10, 10))},
            Continuous(2),
        )

    def reset(self, seed: int) -> Obs:
        self._seed, self._t = seed % 1000, 0
        return self._see(self._game.reset(seed), np.zeros(2, np.float32))

    def step(self, act: np.ndarray) -> Outcome:
        self._t += 1
        one = self._game.step(0)
        obs = self._see(one.obs, as_action(self.spec.act, act))
        return Outcome(obs, one.rew, one.end, one.trunc, one.over, one.stats)

    def close(self) -> None:
        pass

    def _see(self, frame: np.ndarray, act: np.ndarray) -> Obs:
        state = np.array([self._seed, self._t, *act], np.float32)
        return {"pixels": frame, "state": state, "kind": np.array([self._t % 10, self._t // 10])}


class CrashingGame(CountingGame):
    """A counting game in which action 1 raises and action 2 kills the process."""

    def step(self, act: SupportsIndex) -> Outcome:
        if act == 1:
            raise RuntimeError("crashed on demand")
        if act == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(act)


class ChoiceGame:
    """The frame shows which action pays 1; every other pays 0. The best return is `length`.

    Action a pays where the a-th of `num_actions` vertical bars is white.
    """

    def __init__(self, length: int = 8, *, size: int = 64, num_actions: int = 4) -> None:
        self.spec = EnvSpec(Image((size, size, 3)), Discrete(num_actions))
        self._length, self._size, self._num_actions = length, size, num_actions
        self._paying: list[int] = []
        self._t = 0

    def reset(self, seed: int) -> np.ndarray:
        random = np.random.default_rng(seed)
        self._paying = random.integers(self._num_actions, size=self._length + 1).tolist()
        self._t = 0
        return self._draw()

    def step(self, act: SupportsIndex) -> Outcome:
        assert self._t < self._length, "the game is over"
        rew = float(act == self._paying[self._t])
        self._t += 1
        over = self._t == self._length
        return Outcome(self._draw(), rew, end=over, trunc=False, over=over)

    def close(self) -> None:
        pass

    def _draw(self) -> np.ndarray:
        obs = np.zeros((self._size, self._size, 3), np.uint8)
        width, paying = self._size / self._num_actions, self._paying[self._t]
        obs[:, round(paying * width) : round((paying + 1) * width)] = 255
        return obs


class TargetGame:
    """The vector shows what pays: of `act`, one choice of several, or numbers in [-1,1].

    A right choice pays 1 and shows as 1 among zeros. Numbers pay minus their mean squared distance
    from those shown, which are even in [-1,1]; so the best return is 0, staying at 0 returns
    -length / 3 on average, random actions -length * 2 / 3.
    """

    def __init__(self, act: Discrete | Continuous, length: int = 8) -> None:
        self._act, self._length, self._t = act, length, 0
        self.spec = EnvSpec(Vector(act.n if isinstance(act, Discrete) else act.size), act)
        self._shown = np.zeros((0, 0), np.float32)

    def reset(self, seed: int) -> np.ndarray:
        random, self._t = np.random.default_rng(seed), 0
        if isinstance(self._act, Discrete):
            choices = np.eye(self._act.n, dtype=np.float32)
            self._shown = choices[random.integers(self._act.n, size=self._length + 1)]
        else:
            size = (self._length + 1, self._act.size)
            self._shown = random.uniform(-1, 1, size).astype(np.float32)
        return self._shown[0].copy()

    def step(self, act: np.ndarray) -> Outcome:
        assert self._t < self._length, "the game is over"
        shown, act = self._shown[self._t], as_action(self._act, act)
        choice = isinstance(self._act, Discrete)
        rew = float(shown[act]) if choice else -float(np.square(act - shown).mean())
        self._t += 1
        over = self._t == self._length
        return Outcome(self._shown[self._t].copy(), rew, end=over, trunc=False, over=over)

    def close(self) -> None:
        pass
