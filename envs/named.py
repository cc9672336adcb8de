"""Games of one image seen as games of named observations, and the memory of a group's frames."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from envs.base import DictGame, DictOutcome, Game
from envs.experience import DictSpec, EnvSpec
from envs.spaces import Discrete, Image, Obs, ObsSpace

PIXELS = "pixels"
"""The name of the only observation of a game of one image."""


def named_spec(spec: EnvSpec) -> DictSpec:
    """The spec of a game of one image, in the general form."""
    return DictSpec({PIXELS: Image(spec.obs_shape)}, spec.act, spec.frames_per_step)


def image_spec(spec: DictSpec) -> EnvSpec:
    """The spec of a game of one image and of one choice at a time, in its own form."""
    image, mistake = spec.obs.get(PIXELS), f"not a game of one image and one choice: {spec}"
    assert isinstance(image, Image) and isinstance(spec.act, Discrete), mistake
    assert len(spec.obs) == 1, mistake
    return EnvSpec(image.shape, spec.act, spec.frames_per_step)


class NamedGame:
    """A game of one image as a game of named observations."""

    def __init__(self, game: Game) -> None:
        self._game = game
        self.spec = named_spec(game.spec)

    def reset(self, seed: int) -> Obs:
        return {PIXELS: self._game.reset(seed)}

    def step(self, act: np.ndarray) -> DictOutcome:
        one = self._game.step(int(act))
        obs = {PIXELS: one.obs}
        return DictOutcome(obs, one.rew, one.end, one.trunc, one.over, one.stats)

    def close(self) -> None:
        self._game.close()


def named(game: Game | DictGame) -> DictGame:
    """Any game as a game of named observations."""
    return NamedGame(game) if isinstance(game.spec, EnvSpec) else game


@dataclass
class Frames:
    """Observations to act on, and true last ones, written only where a game was over.

    Each is a dict of arrays (n,...).
    """

    obs: Obs
    last: Obs

    @classmethod
    def on(cls, spaces: Mapping[str, ObsSpace], n: int, buffer: memoryview | None = None) -> Frames:
        """Frames of n games in `buffer`, or in memory of their own."""
        memory = buffer or np.empty(cls.num_bytes(spaces, n), np.uint8)
        both, offset = {}, 0
        for name, space in spaces.items():
            both[name] = np.ndarray((2, n, *space.shape), space.dtype, memory, offset)
            offset += _aligned(both[name].nbytes)
        obs, last = ({name: pair[half] for name, pair in both.items()} for half in (0, 1))
        return cls(obs, last)

    @staticmethod
    def num_bytes(spaces: Mapping[str, ObsSpace], n: int) -> int:
        sizes = [2 * n * math.prod(s.shape) * s.dtype.itemsize for s in spaces.values()]
        return sum(map(_aligned, sizes))


def write(arrays: Obs, i: int, obs: Obs) -> None:
    """Put the observation of game i into arrays (n,...)."""
    for name, array in arrays.items():
        array[i] = obs[name]


def _aligned(size: int) -> int:
    return -(-size // 64) * 64
