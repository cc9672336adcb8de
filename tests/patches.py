"""Tokenizers of stored patches, and pictures made of a few tiles, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from envs.spaces import Image
from runners.settings.tokenizers import PatchNnSettings
from tests.nets import NUM_ACTIONS, codecs, windows
from worldmodels.batch import Batch
from worldmodels.tokenizers.patch_nn import PatchNN


def tokenizer(**changed: Any) -> PatchNN:
    """The defaults, for 64x64 pixels; 8x8 squares of 8x8."""
    numbers = PatchNnSettings().model_dump() | {"size": 64} | changed
    numbers.pop("kind")
    return PatchNN(space=Image((64, 64, 3)), actions=codecs(NUM_ACTIONS), **numbers)


def tiled(rows: list[tuple[int, int, int]], seed: int = 0, kinds: int = 20) -> Batch:
    """Windows of frames of `kinds` tiles of 8x8 pixels, some of them nearly alike.

    The tiles are always the same ones; which of them stands where is up to `seed`.
    """
    rng = torch.Generator().manual_seed(99)
    tiles = torch.randint(0, 256, (kinds, 8, 8, 3), generator=rng)
    # Every third differs from the one before by less than the threshold.
    tiles[2::3] = (tiles[1::3][: len(tiles[2::3])] + 10).clamp_max(255)
    batch = windows(rows)
    rng.manual_seed(seed)
    places = torch.randint(0, kinds, (*batch.obs.shape[:2], 8, 8), generator=rng)
    obs = tiles[places].permute(0, 1, 2, 4, 3, 5, 6).flatten(4, 5).flatten(2, 3).to(torch.uint8)
    return replace(batch, obs=obs * batch.seen[..., None, None, None])


def squares_of(batch: Batch, side: int = 8) -> Tensor:
    """(N,D): the squares of the real frames, frame by frame, row by row."""
    frames = batch.obs[batch.seen]
    rows = []
    for frame in frames:
        for top in range(0, 64 - side + 1, side):
            for left in range(0, 64 - side + 1, side):
                rows.append(frame[top : top + side, left : left + side].flatten())
    return torch.stack(rows)
