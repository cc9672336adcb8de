"""What an environment shows and accepts: its spaces, and the checks of what passes through them.

Inside the product an observation is an array, or a dict of arrays where an environment shows
several things; an action is one array: int64 where it chooses, float32 in [-1,1] where it steers.
Games translate to and from whatever their simulator wants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.trees import named

Obs = Any
"""An observation: an array of its space, or a dict of arrays, one for each of several spaces.

See envs.trees for what works on both.
"""


@dataclass(frozen=True)
class Image:
    """A picture (H,W,C) of uint8, channel last."""

    shape: tuple[int, int, int]
    dtype = np.dtype(np.uint8)


@dataclass(frozen=True)
class _Numbers:
    """Arrays of `size` numbers float32."""

    size: int
    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int]:
        return (self.size,)


@dataclass(frozen=True)
class _Choices:
    """Arrays of whole numbers int64, the i-th below sizes[i]."""

    sizes: tuple[int, ...]
    dtype = np.dtype(np.int64)

    @property
    def shape(self) -> tuple[int]:
        return (len(self.sizes),)


class Vector(_Numbers):
    """`size` finite numbers of float32, in whatever unit the simulator has them."""


class Categories(_Choices):
    """One choice out of each of `sizes`: whole numbers int64 from 0, without an order."""


ObsSpace = Image | Vector | Categories

Space = ObsSpace | dict[str, ObsSpace]
"""What an environment shows: one thing, or several by name."""


@dataclass(frozen=True)
class Discrete:
    """Actions 0..n-1."""

    n: int
    names: tuple[str, ...] = ()
    dtype = np.dtype(np.int64)

    @property
    def shape(self) -> tuple[()]:
        return ()


class Continuous(_Numbers):
    """Actions of `size` numbers float32 in [-1,1]; the game rescales them to its true bounds."""


class MultiDiscrete(_Choices):
    """Several choices at once, the i-th out of `sizes[i]`; switches are choices out of two."""


ActSpace = Discrete | Continuous | MultiDiscrete


@dataclass(frozen=True)
class Bounds:
    """The true range of continuous actions; both arrays (size,), finite."""

    low: np.ndarray
    high: np.ndarray

    def expand(self, act: np.ndarray) -> np.ndarray:
        """From [-1,1] to the true range; never outside of it."""
        share = (np.asarray(act, np.float64) + 1) / 2
        return np.clip(self.low + share * (self.high - self.low), self.low, self.high)


def called(name: str) -> str:
    """An observation in messages; the name of one that comes alone is empty."""
    return f"observation {name!r}" if name else "the observation"


def observe(name: str, space: ObsSpace, value: object) -> np.ndarray:
    """`value` as an array of `space`, flattened where the space is flat. Never a view of it.

    Raises ValueError, naming the observation, where it does not fit: another size or kind of
    number, a category out of range, a number that is not finite in float32.
    """
    array = np.asarray(value)
    if array.size != math.prod(space.shape) or (
        isinstance(space, Image) and array.shape != space.shape
    ):
        raise ValueError(f"{called(name)} has the shape {array.shape}, not {tuple(space.shape)}")
    allowed = {"u": "u", "i": "biu", "f": "biuf"}[space.dtype.kind]
    if array.dtype.kind not in allowed or (isinstance(space, Image) and array.dtype != np.uint8):
        raise ValueError(f"{called(name)} has numbers of {array.dtype}, not {space.dtype}")
    if isinstance(space, Categories):
        _check_choices(called(name), array.reshape(-1), space.sizes)
    with np.errstate(over="ignore"):  # told below, by name
        array = array.astype(space.dtype).reshape(space.shape)
    if isinstance(space, Vector) and not np.isfinite(array).all():
        i = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{called(name)} is not finite: its number {i} is {array[i]}")
    return array


def check_observation(space: Space, obs: Obs) -> None:
    """Raises ValueError, naming the observation, where `obs` is not exactly of `space`."""
    if isinstance(space, dict) != isinstance(obs, dict):
        kinds = ("one array", "a dict of arrays")
        shown, due = (kinds[isinstance(tree, dict)] for tree in (obs, space))
        raise ValueError(f"the observation is {shown}, not {due}")
    spaces, arrays = named(space), named(obs)
    if list(arrays) != list(spaces):
        raise ValueError(f"the observations are {list(arrays)}, not {list(spaces)}")
    for name, one in spaces.items():
        _check_exactly(name, one, arrays[name])


def as_action(space: ActSpace, act: object) -> np.ndarray:
    """`act` as an array of `space`.

    Raises ValueError for another shape, a choice out of range, a number outside of [-1,1].
    """
    array = np.asarray(act)
    if array.shape != space.shape:
        raise ValueError(f"the action has the shape {array.shape}, not {space.shape}")
    if isinstance(space, Continuous):
        if not (np.abs(array) <= 1).all():  # also where it is NaN
            raise ValueError(f"the action {array} is not within [-1, 1]")
    else:
        if array.dtype.kind not in "biu":
            raise ValueError(f"the action has numbers of {array.dtype}, not int64")
        sizes = (space.n,) if isinstance(space, Discrete) else space.sizes
        _check_choices("the action", array.reshape(-1), sizes)
    return array.astype(space.dtype)


def random_action(space: ActSpace, random: np.random.Generator) -> np.ndarray:
    """An action drawn evenly from all there are."""
    if isinstance(space, Continuous):
        return random.uniform(-1, 1, space.size).astype(np.float32)
    if isinstance(space, Discrete):
        return np.asarray(random.integers(space.n), np.int64)
    return random.integers(np.array(space.sizes, np.int64))


def random_actions(space: ActSpace, random: np.random.Generator, count: int) -> np.ndarray:
    """As many such actions: (count,) int64 of a single choice, else (count,A)."""
    if isinstance(space, Continuous):
        return random.uniform(-1, 1, (count, space.size)).astype(np.float32)
    if isinstance(space, Discrete):
        return random.integers(space.n, size=count)
    return random.integers(np.array(space.sizes, np.int64), size=(count, len(space.sizes)))


def describe(space: Space | ActSpace) -> str:
    """The space in a few words, for people; several by their names."""
    if isinstance(space, dict):
        return "; ".join(f"{name}: {describe(one)}" for name, one in space.items())
    if isinstance(space, Image):
        return f"image {'x'.join(map(str, space.shape))}"
    if isinstance(space, Vector):
        return f"vector of {space.size}"
    if isinstance(space, Continuous):
        return f"{space.size} continuous in [-1, 1]"
    if isinstance(space, Discrete):
        return f"one of {space.n}" + (f": {', '.join(space.names)}" if space.names else "")
    many = len(set(space.sizes)) == 1
    sizes = str(space.sizes[0]) if many else ", ".join(map(str, space.sizes))
    return f"{len(space.sizes)} {'choice' if len(space.sizes) == 1 else 'choices'} of {sizes}"


def _check_exactly(name: str, space: ObsSpace, array: object) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != space.dtype:
        kind = getattr(array, "dtype", type(array).__name__)
        raise ValueError(f"{called(name)} is of {kind}, not {space.dtype}")
    if array.shape != space.shape:
        raise ValueError(f"{called(name)} has the shape {array.shape}, not {space.shape}")
    observe(name, space, array)


def _check_choices(what: str, array: np.ndarray, sizes: tuple[int, ...]) -> None:
    wrong = np.flatnonzero((array < 0) | (array >= np.array(sizes)))
    if wrong.size:
        i = wrong[0]
        raise ValueError(f"{what} is out of range: {array[i]} of {sizes[i]} choices from 0")
