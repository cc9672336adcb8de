"""Crafter's world generation over whole maps, and its world with objects kept in order.

The rules, and the order in which random numbers are drawn, are those of crafter 1.8.3: the
same seed gives the same world.
"""

from __future__ import annotations

import collections
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import opensimplex
from crafter import constants, engine, objects
from opensimplex.internals import _noise3


def has_numba() -> bool:
    """Whether noise is compiled; generating a world takes over half a second otherwise."""
    return importlib.util.find_spec("numba") is not None


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    if not has_numba():
        return function
    import numba

    return numba.njit(cache=True)(function)


@_compiled
def _noise_at(
    xs: np.ndarray, ys: np.ndarray, z: float, perm: np.ndarray, grad: np.ndarray
) -> np.ndarray:
    noise = np.empty(len(xs))
    for i in range(len(xs)):
        noise[i] = _noise3(xs[i], ys[i], z, perm, grad)
    return noise


class OrderedWorld(engine.World):  # type: ignore[misc]
    """Crafter's world, with the objects of a chunk in order of arrival.

    The original keeps them in a `set`, so which one is despawned depends on memory addresses
    and a seed does not fix a trajectory. Any order gives the same distribution.
    """

    def reset(self, seed: int | None = None) -> None:
        super().reset(seed)
        self._chunks: dict[tuple[int, ...], OrderedChunk] = collections.defaultdict(OrderedChunk)


class OrderedChunk(dict[Any, None]):
    """A set in order of insertion."""

    def add(self, obj: Any) -> None:
        self[obj] = None

    def remove(self, obj: Any) -> None:
        del self[obj]


def generate(world: OrderedWorld, player: objects.Player) -> None:
    """Fill `world` with terrain and creatures around `player`, as `crafter.worldgen` does."""
    simplex = opensimplex.OpenSimplex(seed=world.random.randint(0, 2**31 - 1))
    # Flat arrays over cells in the original's order, x outer.
    x, y = (grid.ravel() for grid in np.indices(world.area))
    tunnels = _terrain(world, player, x, y, simplex)
    _creatures(world, player, x, y, tunnels)


def _terrain(
    world: OrderedWorld, player: objects.Player, x: np.ndarray, y: np.ndarray, simplex: Any
) -> np.ndarray:
    """Set the materials; return where tunnels are, (cells,) bool."""
    tables = simplex._perm, simplex._perm_grad_index3

    def noise(x: np.ndarray, y: np.ndarray, z: int, size: int) -> np.ndarray:
        return _noise_at(x / size, y / size, float(z), *tables)

    def above(
        where: np.ndarray, level: float, x: np.ndarray, y: np.ndarray, z: int, size: int
    ) -> np.ndarray:
        mask = where.copy()
        mask[where] = noise(x[where], y[where], z, size) > level
        return mask

    start = 4 - np.sqrt((x - player.pos[0]) ** 2 + (y - player.pos[1]) ** 2)
    start += 2 * noise(x, y, 8, 3)
    start = 1 / (1 + np.exp(-start))
    water = noise(x, y, 3, 15) + 0.15 * noise(x, y, 3, 5) + 0.1
    water -= 2 * start
    mountain = (noise(x, y, 0, 15) + 0.3 * noise(x, y, 0, 5)) / 1.3
    mountain -= 4 * start + 0.3 * water

    wild = start <= 0.5
    rock = wild & (mountain > 0.15)
    caves = above(rock & (mountain > 0.3), 0.15, x, y, 6, 7)
    solid = rock & ~caves
    tunnels = above(solid, 0.4, 2 * x, y / 5, 7, 3)
    tunnels |= above(solid & ~tunnels, 0.4, x / 5, 2 * y, 7, 3)
    solid &= ~tunnels
    lava = above(solid & (mountain > 0.3), 0.35, x, y, 6, 5)
    flat = wild & ~rock
    sand = above(flat & (water > 0.25) & (water <= 0.35), -0.2, x, y, 4, 9)
    lake = flat & ~sand & (water > 0.3)
    woods = above(flat & ~sand & ~lake, 0, x, y, 5, 7)

    ids = world._mat_ids
    mats = np.full(len(x), ids["grass"], np.uint8)
    mats[caves | tunnels] = ids["path"]
    mats[solid] = ids["stone"]
    mats[lava] = ids["lava"]
    mats[sand] = ids["sand"]
    mats[lake] = ids["water"]
    coal = above(solid, 0, x, y, 1, 8)
    iron = above(solid, 0.4, x, y, 2, 6)
    _scatter(world, mats, woods, coal, iron, solid & (mountain > 0.18))
    world._mat_map[...] = mats.reshape(world.area)
    return tunnels


def _scatter(
    world: OrderedWorld,
    mats: np.ndarray,
    woods: np.ndarray,
    coal: np.ndarray,
    iron: np.ndarray,
    diamond: np.ndarray,
) -> None:
    """Draw trees and ores where they may be; a cell goes on to the next kind it missed."""
    kinds = (
        (woods.tolist(), 0.8, world._mat_ids["tree"]),
        (coal.tolist(), 0.85, world._mat_ids["coal"]),
        (iron.tolist(), 0.75, world._mat_ids["iron"]),
        (diamond.tolist(), 0.994, world._mat_ids["diamond"]),
    )
    draw = world.random.random_sample
    for cell in np.flatnonzero(woods | coal | iron | diamond).tolist():
        for possible, level, mat in kinds:
            if possible[cell] and draw() > level:
                mats[cell] = mat
                break


def _creatures(
    world: OrderedWorld, player: objects.Player, x: np.ndarray, y: np.ndarray, tunnels: np.ndarray
) -> None:
    ids = world._mat_ids
    mats = world._mat_map.ravel()
    squared = (x - player.pos[0]) ** 2 + (y - player.pos[1]) ** 2
    cow = (mats == ids["grass"]) & (squared > 3**2)
    zombie = np.isin(mats, [ids[name] for name in constants.walkable]) & (squared > 10**2)
    skeleton = (mats == ids["path"]) & tunnels
    makers = (
        (cow.tolist(), 0.985, lambda pos: objects.Cow(world, pos)),
        (zombie.tolist(), 0.993, lambda pos: objects.Zombie(world, pos, player)),
        (skeleton.tolist(), 0.95, lambda pos: objects.Skeleton(world, pos, player)),
    )
    draw = world.random.random_sample
    for cell in np.flatnonzero(cow | zombie | skeleton).tolist():
        for possible, level, make in makers:
            if possible[cell] and draw() > level:
                world.add(make((int(x[cell]), int(y[cell]))))
                break
