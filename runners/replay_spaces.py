"""Replay on disk: how spaces are named in the manifest, in file names and in step records.

NumPy only, no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np

from envs.spaces import (
    ActSpace,
    Categories,
    Continuous,
    Discrete,
    Image,
    MultiDiscrete,
    ObsSpace,
    Space,
    Vector,
)

_KINDS: dict[str, Callable[[Any], Any]] = {
    kind.__name__: kind for kind in (Image, Vector, Categories, Discrete, Continuous, MultiDiscrete)
}


def to_json(space: Space | ActSpace) -> Any:
    """A space as {kind: size}, several as [[name, space], ...]; names of actions are left out."""
    if isinstance(space, dict):
        return [[name, to_json(one)] for name, one in space.items()]
    size = getattr(space, fields(space)[0].name)
    return {type(space).__name__: list(size) if isinstance(size, tuple) else size}


def from_json(found: Any) -> Any:
    """What `to_json` was given. Raises KeyError, TypeError or ValueError at anything else."""
    if isinstance(found, list):
        return {str(name): from_json(one) for name, one in found}
    ((kind, size),) = dict(found).items()
    return _KINDS[kind](tuple(map(int, size)) if isinstance(size, list) else int(size))


def frame_files(obs: Space, stream: int) -> list[tuple[str, ObsSpace]]:
    """The file of each entry of a stream's frames; its suffix names the type of the numbers.

    Names of entries are free, so the number before a name is what tells two files apart.
    """
    suffix = {"u": "u8", "f": "f32", "i": "i64"}
    if not isinstance(obs, dict):
        return [(f"frames-{stream:02d}.{suffix[obs.dtype.kind]}", obs)]
    found = []
    for number, (name, space) in enumerate(obs.items()):
        safe = re.sub(r"[^A-Za-z0-9_]+", "_", name)[:40]
        file = f"frames-{stream:02d}-{number}-{safe}.{suffix[space.dtype.kind]}"
        found.append((file, space))
    return found


def step_record(act: ActSpace) -> np.dtype[Any]:
    """The record of one step."""
    number = "<f4" if isinstance(act, Continuous) else "<i4"
    return np.dtype([("act", number, act.shape), ("rew", "<f4"), ("end", "?"), ("trunc", "?")])
