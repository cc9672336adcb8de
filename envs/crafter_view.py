"""Crafter's 64x64 picture, one gather of whole tiles in place of a blit per cell.

Same pixels as crafter 1.8.3, and the same random numbers drawn for the noise at night.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from crafter import engine
from PIL import Image, ImageEnhance

UNIT = 7  # pixels of a tile
GRID = (9, 7)  # tiles of the map, x by y
ITEM_ROWS = 2
SIZE = 64

_FACINGS = ("left", "right", "up", "down")
_SPRITES = (
    *(f"player-{facing}" for facing in _FACINGS),
    *(f"arrow-{facing}" for facing in _FACINGS),
    *("player-sleep", "cow", "zombie", "skeleton", "plant", "plant-ripe", "fence"),
)


class TileView:
    """Draws the player's surroundings and inventory, (64,64,3) uint8."""

    def __init__(self, world: engine.World, textures: engine.Textures) -> None:
        self._world = world
        self._light = engine.LocalView(world, textures, GRID)
        self._items = engine.ItemView(textures, (GRID[0], ITEM_ROWS))
        self._inventory: tuple[int, ...] = ()
        self._item_picture = np.empty((0, 0, 3), np.uint8)
        self._sprite_ids = {name: i for i, name in enumerate(_SPRITES, start=1)}
        self._num_mats = len(world._mat_names)
        self._day: np.ndarray = np.stack(list(self._tiles(textures)))
        self._night = np.stack([self._light._tint(_pale(t), (0, 16, 64), 0.5) for t in self._day])

    def __call__(self, player: Any) -> np.ndarray:
        frame = np.zeros((SIZE, SIZE, 3), np.uint8)
        map_height = GRID[1] * UNIT
        frame[:map_height, : GRID[0] * UNIT] = self._map(player).transpose(1, 0, 2)
        inventory = tuple(player.inventory.values())
        if inventory != self._inventory:
            picture = self._items(player.inventory, (UNIT, UNIT))
            self._inventory, self._item_picture = inventory, picture.transpose(1, 0, 2)
        height, width = self._item_picture.shape[:2]
        frame[map_height : map_height + height, :width] = self._item_picture
        return frame

    def _tiles(self, textures: engine.Textures) -> Iterator[np.ndarray]:
        """Every sprite (none first) on every material; the outside of the world last."""
        unit = (UNIT, UNIT)
        for sprite in (None, *_SPRITES):
            for mat in range(self._num_mats):
                tile = textures.get(self._world._mat_names[mat], unit)[..., :3].copy()
                if sprite:
                    engine._draw_alpha(tile, (0, 0), textures.get(sprite, unit))
                yield tile
        yield np.full((*unit, 3), 127, np.uint8)

    def _map(self, player: Any) -> np.ndarray:
        """The lit map, x first."""
        tiles = self._tile_ids(player)
        day, daylight = _assemble(self._day[tiles]), self._world.daylight
        if daylight < 0.5:
            lit = self._light._light(day, daylight)
        else:
            lit = daylight * day + (1 - daylight) * _assemble(self._night[tiles])
        return self._light._sleep(lit) if player.sleeping else lit

    def _tile_ids(self, player: Any) -> np.ndarray:
        world = self._world
        ids = np.full(GRID, len(self._day) - 1)
        corner = player.pos - np.array(GRID) // 2
        low = np.maximum(corner, 0)
        high = np.minimum(corner + GRID, world.area)
        inside = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        shown = ids[tuple(slice(a, b) for a, b in zip(low - corner, high - corner, strict=True))]
        shown[...] = world._mat_map[inside]
        indices = world._obj_map[inside]
        for x, y in np.argwhere(indices):
            sprite = self._sprite_ids[world._objects[indices[x, y]].texture]
            shown[x, y] += sprite * self._num_mats
        return ids


def _assemble(tiles: np.ndarray) -> np.ndarray:
    """(X,Y,unit,unit,3) to (X*unit,Y*unit,3)."""
    columns, rows = tiles.shape[:2]
    return tiles.transpose(0, 2, 1, 3, 4).reshape(columns * UNIT, rows * UNIT, 3)


def _pale(tile: np.ndarray) -> np.ndarray:
    return np.asarray(ImageEnhance.Color(Image.fromarray(tile)).enhance(0.4))
