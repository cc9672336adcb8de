"""A token for each number of a vector: the nearest value of a grid that does not move.

Grids compared in worldmodels.tokenizers.grids; symlog with fixed values is Simulus's (arXiv
2502.11537). Axes: B batch, T steps, N vectors, D dimensions, V values of a dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodels.nets.heads import symlog
from worldmodels.protocols import Loss
from worldmodels.quantizers.usage import Usage
from worldmodels.tokenizers.grids import GRIDS, Grid, symlog_even
from worldmodels.tokenizers.reconstruction import number_errors, shares


class Bins(nn.Module):
    """Vectors of `size` numbers as `size` tokens, each of its own dimension's `values` values.

    `grid` names one of GRIDS. Those that data lays are laid once, by `fit`, and then stay, so that
    tokens mean the same for good; until then they are symlog's. Nothing is learned, and a number's
    token depends on no other number. Numbers beyond the grid count as its ends.
    """

    support: Tensor
    edges: Tensor
    fitted: Tensor

    def __init__(self, *, size: int, grid: str, values: int) -> None:
        super().__init__()
        self.tokens, self.vocab, self.dim = size, values, 2
        self.kind = GRIDS[grid]
        nothing = torch.zeros(1, size, dtype=torch.float64)
        # Laid on nothing as well, so that a number of values it cannot have is refused at once.
        first = self.kind.lay(nothing, values)
        first = symlog_even(nothing, values) if self.kind.fitted else first
        self.register_buffer("support", first.support)
        self.register_buffer("edges", first.edges)
        self.register_buffer("fitted", torch.tensor(not self.kind.fitted))
        self.usage = Usage(values, size)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Lay the grid on warm-up data (N,D); waits for the host.

        Raises ValueError for data that is not finite, and the second time.
        """
        if not x.isfinite().all():
            wrong = (~x.isfinite()).any(0).nonzero().flatten().tolist()
            raise ValueError(f"numbers must be finite; dimensions {wrong} are not")
        if not self.kind.fitted:
            return
        if self.fitted:
            raise ValueError("the grid is laid already; tokens would change what they mean")
        if not len(x):
            raise ValueError("there is no data to lay a grid on")
        grid = self.kind.lay(x.double().cpu(), self.vocab)
        check(grid)
        self.support.copy_(grid.support)
        self.edges.copy_(grid.edges)
        self.fitted.fill_(True)

    def encode(self, x: Tensor) -> Tensor:
        """Tokens (...,D) of vectors (...,D)."""
        x = x.float()
        refuse_nan(x)
        rows = x.flatten(0, -2).T if x.ndim > 1 else x[:, None]
        found = torch.searchsorted(self.edges, rows.contiguous())
        return found.T.reshape(x.shape)

    def decode(self, tokens: Tensor) -> Tensor:
        """Vectors (...,D) float32 of tokens (...,D)."""
        return self.support[torch.arange(self.tokens, device=tokens.device), tokens]

    def embed(self, tokens: Tensor) -> Tensor:
        """(...,D,2) float32: the value in symlog units, and its place on the grid in [-3,3].

        Both are about 1 for usual numbers, as what reads them expects.
        """
        place = tokens.float() * 6 / (self.vocab - 1) - 3
        return torch.stack((symlog(self.decode(tokens)), place), -1)

    def known(self) -> None:
        """All tokens stand for something."""

    def loss(self, x: Tensor, counted: Tensor) -> Loss:
        """Errors of vectors (B,T,D) in their own units, which have no gradient.

        Means over the vectors with counted (B,T). clipped: share of numbers beyond the grid.
        """
        tokens = self.encode(x)
        beyond = (x < self.support[:, 0]) | (x > self.support[:, -1])
        clipped = (beyond.float().mean(-1).flatten() * shares(counted)).sum()
        parts = number_errors(x.float() - self.decode(tokens), counted) | {"clipped": clipped}
        return Loss(parts["l2"], parts, (tokens, counted))

    def learn(self, seen: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Count (tokens (B,T,D), counted (B,T)); there is nothing to learn."""
        tokens, counted = seen
        return self.usage.update(tokens, counted[..., None].expand_as(tokens))


def refuse_nan(x: Tensor) -> None:
    """Raise RuntimeError for what is not a number, on a GPU when it gets there: nothing waits."""
    torch._assert_async(~x.isnan().any(), "a number of an observation is not a number")


def check(grid: Grid) -> None:
    """Each value must be told from the next in float32; waits for the host."""
    below, above = grid.support[:, :-1], grid.support[:, 1:]
    apart = grid.support.isfinite().all() & (below <= grid.edges).all() & (grid.edges < above).all()
    assert apart, "values of a grid must ascend"
