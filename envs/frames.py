"""The memory in which a group of games leaves its observations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from envs.spaces import Obs, ObsSpace, Space
from envs.trees import each, leaves, named


@dataclass
class Frames:
    """Observations to act on, and true last ones, written only where a game was over.

    Each is an array (n,*O), or a dict of such arrays.
    """

    obs: Obs
    last: Obs

    @classmethod
    def on(cls, space: Space, n: int, buffer: memoryview | None = None) -> Frames:
        """Frames of n games in `buffer`, or in memory of their own."""
        memory = buffer or np.empty(cls.num_bytes(space, n), np.uint8)
        offset = 0

        def both(space: ObsSpace) -> np.ndarray:
            nonlocal offset
            start, offset = offset, offset + _num_bytes(space, n)
            return np.ndarray((2, n, *space.shape), space.dtype, memory, start)

        pairs = each(both, space)
        return cls(each(lambda pair: pair[0], pairs), each(lambda pair: pair[1], pairs))

    @staticmethod
    def num_bytes(space: Space, n: int) -> int:
        return sum(_num_bytes(one, n) for one in leaves(space))


def write(arrays: Obs, i: int, obs: Obs) -> None:
    """Put the observation of game i into arrays (n,*O)."""
    values = named(obs)
    for name, array in named(arrays).items():
        array[i] = values[name]


def _num_bytes(space: ObsSpace, n: int) -> int:
    size = 2 * n * math.prod(space.shape) * space.dtype.itemsize
    return -(-size // 64) * 64  # so that the next array is aligned
