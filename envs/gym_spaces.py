"""From the spaces of Gymnasium to ours, with a refusal that names what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from envs.spaces import (
    ActSpace,
    Bounds,
    Categories,
    Continuous,
    Discrete,
    Image,
    MultiDiscrete,
    Obs,
    ObsSpace,
    Vector,
    as_action,
    observe,
)

Path = tuple[str | int, ...]
SOLE_NAMES = {Image: "pixels", Vector: "state", Categories: "categories"}
"""Names of an observation that is not part of a dict, after what it is."""


@dataclass(frozen=True)
class _Entry:
    """One array of an observation: where it lies, and how it becomes ours."""

    path: Path
    space: ObsSpace
    start: np.ndarray | int = 0
    channels_first: bool = False

    def read(self, name: str, obs: Any) -> np.ndarray:
        for key in self.path:
            obs = obs[key]
        if isinstance(self.space, Image):
            obs = np.asarray(obs)
            obs = obs[..., None] if obs.ndim == 2 else obs
            obs = obs.transpose(1, 2, 0) if self.channels_first and obs.ndim == 3 else obs
        elif isinstance(self.space, Categories):
            obs = np.asarray(obs) - self.start
        return observe(name, self.space, obs)


class GymObservations:
    """Observations of a Gymnasium space as ours.

    Entries of nested dicts are named `outer/inner`, those of tuples by their number. Box becomes
    an image where it is uint8 and has two axes or three, of which the first is taken for the
    channels if it is the shortest; any other Box becomes a flat vector. Discrete, MultiDiscrete
    and MultiBinary become categories.

    Raises ValueError, naming the entry, for spaces that have no fixed size.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        entries = list(_entries(space, ()))
        if not entries:
            raise ValueError("the observation is empty: there is nothing to see")
        self._entries = {_name(entry): entry for entry in entries}
        if len(self._entries) < len(entries):
            raise ValueError(f"two observations have one name: {[_name(e) for e in entries]}")
        self.spaces: dict[str, ObsSpace] = {n: e.space for n, e in self._entries.items()}

    def __call__(self, obs: Any) -> Obs:
        """Raises ValueError, naming the entry, where `obs` is not of the space."""
        return {name: entry.read(name, obs) for name, entry in self._entries.items()}


class GymActions:
    """Our actions as those of a Gymnasium space; a bounded Box is rescaled from [-1,1].

    Raises ValueError for a Box without finite bounds, one of whole numbers, and for any space
    that is not Box, Discrete, MultiDiscrete or MultiBinary.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._raw = space
        self._bounds: Bounds | None = None
        if isinstance(space, spaces.Box):
            self._bounds = _bounds(space)
        self.space = _act_space(space)

    def __call__(self, act: np.ndarray) -> Any:
        """Raises ValueError where `act` is not an action of `space`."""
        act = as_action(self.space, act)
        raw = self._raw
        if self._bounds is not None:
            return self._bounds.expand(act).astype(raw.dtype).reshape(raw.shape)
        if isinstance(raw, spaces.Discrete):
            return int(act + raw.start)
        act = act.reshape(raw.shape) + getattr(raw, "start", 0)
        return act.astype(raw.dtype)

    def back(self, raw: Any) -> np.ndarray:
        """An action of the Gymnasium space as ours, for recorded play."""
        array = np.asarray(raw)
        if self._bounds is not None:
            return self._bounds.shrink(array.reshape(-1))
        array = array - getattr(self._raw, "start", 0)
        return as_action(self.space, array.reshape(self.space.shape))


def _entries(space: spaces.Space[Any], path: Path) -> Iterator[_Entry]:
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _entries(inner, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for i, inner in enumerate(space.spaces):
            yield from _entries(inner, (*path, i))
    else:
        yield _entry(space, path)


def _entry(space: spaces.Space[Any], path: Path) -> _Entry:
    if isinstance(space, spaces.Box):
        if 0 in space.shape:
            raise ValueError(f"{_called(path)} is empty: its shape is {space.shape}")
        if space.dtype == np.uint8 and len(space.shape) in (2, 3):
            return _image(space.shape, path)
        return _Entry(path, Vector(int(np.prod(space.shape))))
    if isinstance(space, spaces.Discrete):
        return _Entry(path, Categories((int(space.n),)), int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        return _Entry(path, Categories(_sizes(space)), space.start)
    if isinstance(space, spaces.MultiBinary):
        return _Entry(path, Categories(_sizes(space)))
    raise ValueError(
        f"{_called(path)} is of the space {type(space).__name__}, which has no fixed size; "
        "leave it out with a wrapper of the environment"
    )


def _image(shape: tuple[int, ...], path: Path) -> _Entry:
    if len(shape) == 2:
        return _Entry(path, Image((shape[0], shape[1], 1)))
    first, second, third = shape
    if first < min(second, third):
        return _Entry(path, Image((second, third, first)), channels_first=True)
    return _Entry(path, Image((first, second, third)))


def _act_space(space: spaces.Space[Any]) -> ActSpace:
    if isinstance(space, spaces.Box):
        return Continuous(int(np.prod(space.shape)))
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        return MultiDiscrete(_sizes(space))
    raise ValueError(
        f"actions are of the space {type(space).__name__}; there can be Discrete, MultiDiscrete, "
        "MultiBinary or a bounded Box"
    )


def _bounds(space: spaces.Box) -> Bounds:
    if not np.issubdtype(space.dtype, np.floating):
        raise ValueError(f"actions are a Box of {space.dtype}: whole numbers need MultiDiscrete")
    low, high = (np.asarray(x, np.float64).reshape(-1) for x in (space.low, space.high))
    endless = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)))
    if endless.size:
        i = endless[0]
        raise ValueError(
            f"actions need finite bounds to be rescaled, but number {i} lies in "
            f"[{low[i]}, {high[i]}]: bound it with gymnasium.wrappers.RescaleAction or in the "
            "environment"
        )
    return Bounds(low, high)


def _sizes(space: spaces.MultiDiscrete | spaces.MultiBinary) -> tuple[int, ...]:
    if isinstance(space, spaces.MultiBinary):
        return (2,) * int(np.prod(space.shape))
    return tuple(int(n) for n in space.nvec.reshape(-1))


def _name(entry: _Entry) -> str:
    return "/".join(map(str, entry.path)) or SOLE_NAMES[type(entry.space)]


def _called(path: Path) -> str:
    return f"observation {'/'.join(map(str, path))!r}" if path else "the observation"
