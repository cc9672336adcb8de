"""From the spaces of Gymnasium to ours, with a refusal that names what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from PIL import Image as Picture

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
    Space,
    Vector,
    as_action,
    called,
    observe,
)
from envs.trees import each

Path = tuple[str | int, ...]

MIN_SIDE = 8
"""A Box of uint8 with a shorter side is no picture, such as MiniGrid's 7x7x3 of symbols."""


@dataclass(frozen=True)
class _Entry:
    """One array of an observation: where it lies, and how it becomes ours."""

    path: Path
    space: ObsSpace
    start: np.ndarray | int = 0

    @property
    def name(self) -> str:
        return "/".join(map(str, self.path))

    def read(self, obs: Any) -> np.ndarray:
        for key in self.path:
            obs = obs[key]
        return self._convert(obs)

    def _convert(self, value: Any) -> np.ndarray:
        if isinstance(self.space, Categories):
            value = np.asarray(value) - self.start
        return observe(self.name, self.space, value)


@dataclass(frozen=True, kw_only=True)
class _Picture(_Entry):
    """An image of the shape `raw` (H,W,C), which becomes a square of three colours."""

    raw: Image
    channels_first: bool

    def _convert(self, value: Any) -> np.ndarray:
        image = np.asarray(value)
        image = image[..., None] if image.ndim == 2 else image
        image = image.transpose(1, 2, 0) if self.channels_first and image.ndim == 3 else image
        return _resize(_colour(observe(self.name, self.raw, image)), self.space.shape[0])


class GymObservations:
    """Observations of a Gymnasium space as ours.

    A Dict or Tuple becomes a dict, any other space comes alone. Entries of nested dicts are named
    `outer/inner`, those of tuples by their number. Box becomes an image (size,size,3) where it is
    uint8, has two axes or three, and no side under 8 pixels; of three axes the first is taken for
    the channels if it is the shortest. Grey becomes three equal channels, the fourth channel
    (alpha) of the last axis is left out, other sizes are resized. Any other Box becomes a flat
    vector, also one of uint8 with shorter sides: such small grids hold symbols, not colours.
    Discrete, MultiDiscrete and MultiBinary become categories.

    Raises ValueError, naming the entry, for spaces that have no fixed size and for images of other
    numbers of channels.
    """

    def __init__(self, space: spaces.Space[Any], size: int = 64) -> None:
        entries = list(_entries(space, (), size))
        if not entries:
            raise ValueError("the observation is empty: there is nothing to see")
        names = [entry.name for entry in entries]
        if len(set(names)) < len(names):
            raise ValueError(f"two observations have one name: {names}")
        several = isinstance(space, spaces.Dict | spaces.Tuple)
        self._entries = dict(zip(names, entries, strict=True)) if several else entries[0]
        self.spaces: Space = each(lambda entry: entry.space, self._entries)

    def __call__(self, obs: Any) -> Obs:
        """Raises ValueError, naming the entry, where `obs` is not of the space."""
        return each(lambda entry: entry.read(obs), self._entries)


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


def _entries(space: spaces.Space[Any], path: Path, size: int) -> Iterator[_Entry]:
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _entries(inner, (*path, key), size)
    elif isinstance(space, spaces.Tuple):
        for i, inner in enumerate(space.spaces):
            yield from _entries(inner, (*path, i), size)
    else:
        yield _entry(space, path, size)


def _entry(space: spaces.Space[Any], path: Path, size: int) -> _Entry:
    if isinstance(space, spaces.Box):
        if 0 in space.shape:
            raise ValueError(f"{_called(path)} is empty: its shape is {space.shape}")
        if space.dtype == np.uint8 and len(space.shape) in (2, 3):
            picture = _picture(space.shape, path, size)
            if picture is not None:
                return picture
        return _Entry(path, Vector(int(np.prod(space.shape))))
    if isinstance(space, spaces.Discrete):
        return _Entry(path, Categories((int(space.n),)), int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        return _Entry(path, Categories(_sizes(space)), space.start)
    if isinstance(space, spaces.MultiBinary):
        return _Entry(path, Categories(_sizes(space)))
    raise ValueError(
        f"{_called(path)} is of the space {type(space).__name__}, which has no fixed size; "
        "leave it out, with gymnasium.wrappers.FilterObservation for example"
    )


def _picture(shape: tuple[int, ...], path: Path, size: int) -> _Picture | None:
    """How an array of `shape` becomes an image; None where its sides are too short for one."""
    first, second, third = (*shape, 1)[:3]
    channels_first = first < min(second, third)
    height, width, channels = (second, third, first) if channels_first else (first, second, third)
    if min(height, width) < MIN_SIDE:
        return None
    # Four channels that come first are no RGBA: they are the last four frames.
    if channels not in (1, 3) and (channels != 4 or channels_first):
        raise ValueError(
            f"{_called(path)} has the shape {shape}, an image of {channels} channels; there can be "
            "1 (grey), 3 (RGB) or, as the last axis, 4 (RGBA): show single frames"
        )
    raw = Image((height, width, channels))
    return _Picture(path, Image((size, size, 3)), raw=raw, channels_first=channels_first)


def _colour(image: np.ndarray) -> np.ndarray:
    """Grey, RGB or RGBA (H,W,C) as RGB."""
    return image.repeat(3, axis=2) if image.shape[2] == 1 else image[..., :3]


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    """RGB (H,W,3) as (size,size,3): averaged over areas where that only shrinks it."""
    if image.shape == (size, size, 3):
        return image
    shrinks = min(image.shape[:2]) >= size
    method = Picture.Resampling.BOX if shrinks else Picture.Resampling.BILINEAR
    return np.array(Picture.fromarray(image).resize((size, size), method))


def _act_space(space: spaces.Space[Any]) -> ActSpace:
    if 0 in (space.shape or (1,)):
        raise ValueError(f"actions are empty: their shape is {space.shape}")
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


def _called(path: Path) -> str:
    return called("/".join(map(str, path)))
