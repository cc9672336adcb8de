"""Tokens that are pictures: the nearest of the patches seen so far; no network, no gradient.

Nearest-neighbour tokenizer of Dedieu et al. 2025 (arXiv 2502.01591).
Axes: B batch, T steps, K squares of a frame, D numbers of a square, V room for patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from envs.spaces import Image
from worldmodels.actions import ActionCodecs
from worldmodels.batch import Batch
from worldmodels.nets.conv import to_unit
from worldmodels.protocols import Loss, Prev
from worldmodels.quantizers.usage import Usage
from worldmodels.tokenizers.reconstruction import errors

CHANNELS = 3
# Distances in memory at once: 64 MiB.
AT_ONCE = 1 << 24


class PatchNN(nn.Module):
    """A token for each square of `patch` x `patch` pixels: the stored patch that is nearest to it.

    A square is stored if its squared distance to every stored patch, summed over numbers in
    [0,1], is above `threshold`, until `size` are stored. What is stored never changes, so tokens
    mean the same for good, but for squares that later find a nearer patch. It suits pictures made
    of tiles, of which there are few; anything else fills it.

    Rows and columns that are left over where `patch` does not divide the frame have no tokens,
    and are drawn black: 7 cuts Crafter's 64x64 pixels into its 9x9 tiles, as published, and
    leaves the line that it never draws. Published is one pass over all squares; here an update
    stores what that pass would of the first `candidates` unknown squares of a batch.
    """

    patches: Tensor
    count: Tensor
    spans: Mapping[str, slice] = {}

    def __init__(
        self,
        *,
        space: Image,
        actions: ActionCodecs,
        patch: int,
        size: int,
        threshold: float,
        candidates: int,
    ) -> None:
        super().__init__()
        self.image, self.patch, self.square = space.shape[:2], patch, (patch, patch)
        self.grid = (self.image[0] // patch, self.image[1] // patch)
        self.tokens, self.vocab, self.dim = math.prod(self.grid), size, CHANNELS * patch**2
        self.candidates, self.reach = candidates, threshold * 255**2
        self.register_buffer("patches", torch.zeros(size, self.dim, dtype=torch.uint8))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.usage = Usage(size, self.tokens)

    def encode(self, prev: Prev, obs: Tensor) -> Tensor:
        """Tokens (B,T,K) of frames (B,T,H,W,C)."""
        return self._nearest(self._cut(obs))[0]

    def tokenize(self, batch: Batch) -> Tensor:
        """Tokens (B,T+1,K) of all frames of a window."""
        return self._nearest(self._cut(batch.obs))[0]

    def decode(self, prev: Prev, tokens: Tensor) -> Tensor:
        """Frames (B,T,H,W,C) uint8; what nothing is stored for is black."""
        return self._paste(self.patches[tokens])

    def embed(self, tokens: Tensor) -> Tensor:
        """The pixels (...,D) of tokens (...), in [-1,1]."""
        return self.patches[tokens].float() / 127.5 - 1

    def known(self) -> Tensor:
        """(K,V) bool: tokens of stored patches; before there is one, the first token."""
        return self._below(self.count.clamp_min(1)).expand(self.tokens, -1)

    def loss(self, batch: Batch) -> Loss:
        """The squared error over the real frames, which has no gradient."""
        squares = self._cut(batch.obs)
        tokens, apart = self._nearest(squares)
        error = to_unit(batch.obs) - to_unit(self._paste(self.patches[tokens]))
        parts = errors(error, batch.seen)
        return Loss(parts["l2"], parts, (squares, tokens, apart, batch.seen))

    def weight(self, batch: Batch) -> Tensor:
        """(B,): real frames of each row."""
        return batch.seen.sum(1)

    @torch.no_grad()
    def learn(self, seen: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        """Store what is new of (squares (B,T+1,K,D), tokens and distances (B,T+1,K), seen (B,T+1)).

        Never waits for the host. `unknown`: share of real squares that no patch was near to.
        """
        squares, tokens, apart, frames = seen
        real = frames[..., None].expand_as(tokens)
        unknown = (apart > self.reach) & real
        added = self._store(squares.flatten(0, 2), unknown.flatten())
        metrics = self.usage.update(tokens, real.float())
        return metrics | {
            "dead_codes": (self.usage.dead() & self._below(self.count.clamp_min(1))).sum().float(),
            "patches": self.count.float(),
            "patches_added": added.float(),
            "unknown": unknown.sum() / real.sum().clamp_min(1),
        }

    def _store(self, squares: Tensor, unknown: Tensor) -> Tensor:
        """Store squares (N,D) in their order, each if unknown (N,) and near none stored before it.

        Returns how many were.
        """
        # Sorting keeps shapes static where boolean indexing would not.
        first = (~unknown).byte().argsort(stable=True)[: self.candidates]
        squares, unknown = squares[first], unknown[first]
        near = distances(squares, squares) <= self.reach
        chosen = torch.zeros_like(unknown)
        for i in range(len(chosen)):
            chosen[i] = unknown[i] & ~(near[i] & chosen).any()
        place = self.count + chosen.cumsum(0) - 1
        chosen = chosen & (place < self.vocab)
        # All others are written to a row that is then left out.
        longer = torch.cat((self.patches, self.patches[:1]))
        longer[torch.where(chosen, place, self.vocab)] = squares
        self.patches.copy_(longer[:-1])
        added = chosen.sum()
        self.count += added
        return added

    def _nearest(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B,T,K) of squares (B,T,K,D), the lowest of equals, and squared distances.

        Distances count in grey levels of 8 bits; infinite where nothing is stored.
        """
        stored = self._below(self.count)
        found = []
        for piece in squares.flatten(0, 2).split(max(1, AT_ONCE // self.vocab)):
            apart = distances(piece, self.patches).masked_fill(~stored, torch.inf)
            found.append(apart.min(1))
        least, tokens = (torch.cat(x) for x in zip(*found, strict=True))
        return tokens.unflatten(0, squares.shape[:3]), least.unflatten(0, squares.shape[:3])

    def _below(self, count: Tensor) -> Tensor:
        return torch.arange(self.vocab, device=count.device) < count

    def _cut(self, obs: Tensor) -> Tensor:
        """Squares (B,T,K,D) of frames (B,T,H,W,C): row-major, each (row, column, channel)."""
        (high, wide), side = self.grid, self.patch
        x = obs[..., : high * side, : wide * side, :]
        x = x.unflatten(-2, (wide, side)).unflatten(-4, (high, side))
        return x.transpose(-4, -3).flatten(-3).flatten(2, 3)

    def _paste(self, squares: Tensor) -> Tensor:
        """The inverse: frames (B,T,H,W,C) of squares (B,T,K,D)."""
        x = squares.unflatten(-1, (self.patch, self.patch, CHANNELS)).unflatten(2, self.grid)
        x = x.transpose(-4, -3).flatten(-3, -2).flatten(-4, -3)
        below, right = (size - inner for size, inner in zip(self.image, x.shape[2:4], strict=True))
        return F.pad(x, (0, 0, 0, right, 0, below))


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (N,M) of rows of 8-bit numbers (N,D) and (M,D), without any rounding.

    Whole numbers below 2^24 are exact in float32, and 8-bit factors in TF32, in any order of sums.
    """
    exact = torch.float32 if a.shape[1] * 255**2 < 2**24 else torch.float64
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.to(exact), b.to(exact)
        both = a @ b.T
        return (a.square().sum(1, keepdim=True) - both) + (b.square().sum(1) - both)
