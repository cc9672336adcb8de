"""From what an environment shows, a picture, numbers or several things, to features.

Axes: F features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from envs.spaces import Categories, Image, Obs, ObsSpace, Space, Vector
from envs.trees import leaves
from worldmodels.nets.conv import Encoder
from worldmodels.nets.heads import symlog
from worldmodels.nets.init import OwnStart
from worldmodels.nets.tables import SlotTables


class Eye(Protocol):
    """A network that sees what a space has."""

    def see(self, obs: Obs) -> Tensor:
        """Features (...,F) of observations (...,*O)."""


class VectorEye(nn.Module):
    """A layer on symlog numbers, LayerNorm, SiLU, a second layer (as DreamerV3, arXiv 2301.04104).

    float32 whatever the autocast, in which numbers would be coarse.
    """

    def __init__(self, space: Vector, features: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            OwnStart(space.size, features),
            nn.LayerNorm(features),
            nn.SiLU(),
            OwnStart(features, features),
        )

    def see(self, obs: Tensor) -> Tensor:
        """(...,F) of vectors (...,D)."""
        with torch.autocast(obs.device.type, enabled=False):
            seen: Tensor = self.net(symlog(obs.float()))
        return seen


class CategoriesEye(nn.Module):
    """The sum of a learned vector for each category."""

    def __init__(self, space: Categories, features: int) -> None:
        super().__init__()
        self.tables = SlotTables(sizes=space.sizes, width=features)

    def see(self, obs: Tensor) -> Tensor:
        """(...,F) of categories (...,K)."""
        seen: Tensor = self.tables(obs).sum(-2)
        return seen


class Eyes(nn.ModuleList):
    """An eye for each of several things, in their order; their features are one after the other."""

    def see(self, obs: Mapping[str, Tensor]) -> Tensor:
        """(...,F), all eyes' features."""
        pairs: Iterable[tuple[Any, Tensor]] = zip(self, obs.values(), strict=True)
        return torch.cat([eye.see(x).float() for eye, x in pairs], -1)


def eyes(space: Space, picture: Callable[[], Encoder], features: int) -> tuple[Eye, int]:
    """What sees a space, and how many features it gives.

    picture: makes the encoder of an image. features: those of a vector and of categories.
    """
    if not isinstance(space, dict):
        return _eye(space, picture, features)
    made: list[tuple[Any, int]] = [_eye(one, picture, features) for one in space.values()]
    return Eyes([eye for eye, _ in made]), sum(size for _, size in made)


def _eye(space: ObsSpace, picture: Callable[[], Encoder], features: int) -> tuple[Eye, int]:
    if isinstance(space, Image):
        encoder = picture()
        return encoder, encoder.features(*space.shape[:2])
    if isinstance(space, Vector):
        return VectorEye(space, features), features
    return CategoriesEye(space, features), features


def leading(space: Space, obs: Obs) -> tuple[int, ...]:
    """The axes of observations before their own."""
    array = leaves(obs)[0]
    return tuple(array.shape[: array.ndim - len(leaves(space)[0].shape)])
