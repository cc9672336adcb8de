"""Categories are tokens already. Axes: B batch, T steps, N observations, K numbers, V classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldmodels.protocols import Loss
from worldmodels.quantizers.usage import Usage


class Categories(nn.Module):
    """Observations of K whole numbers, number k below sizes[k], as K tokens; nothing is lost.

    The vocabulary is that of the largest; `known` tells which of it a place may have.
    """

    sizes: Tensor

    def __init__(self, *, sizes: Sequence[int]) -> None:
        super().__init__()
        self.tokens = len(sizes)
        self.vocab = max(sizes)
        self.dim = max(1, (self.vocab - 1).bit_length())
        self.even = min(sizes) == self.vocab
        self.register_buffer("sizes", torch.tensor(sizes), persistent=False)
        self.usage = Usage(self.vocab, self.tokens)

    def fit(self, x: Tensor) -> None:
        """Look at warm-up data (N,K): raises ValueError for a number that is no category."""
        wrong = self._wrong(x)
        if wrong.any():
            places = wrong.any(0).nonzero().flatten().tolist()
            raise ValueError(f"places {places} have numbers that are none of their categories")

    def encode(self, x: Tensor) -> Tensor:
        """Tokens (...,K) int64 of whole numbers (...,K); RuntimeError as `refuse_nan` has it."""
        torch._assert_async(~self._wrong(x).any(), "a number that is none of its categories")
        return x.long()

    def decode(self, tokens: Tensor) -> Tensor:
        """The same (...,K) int64."""
        return tokens

    def embed(self, tokens: Tensor) -> Tensor:
        """(...,dim) float32: the binary digits of the token, as -1 and 1, the lowest first."""
        digits = torch.arange(self.dim, device=tokens.device)
        return (tokens[..., None] >> digits & 1) * 2.0 - 1

    def known(self) -> Tensor | None:
        """(K,V) bool; None where all places have as many categories."""
        if self.even:
            return None
        return torch.arange(self.vocab, device=self.sizes.device) < self.sizes[:, None]

    def loss(self, x: Tensor, counted: Tensor) -> Loss:
        """Nothing: (B,T,K) is told as it is."""
        return Loss(torch.zeros((), device=x.device), {}, (self.encode(x), counted))

    def learn(self, seen: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Count (tokens (B,T,K), counted (B,T))."""
        tokens, counted = seen
        return self.usage.update(tokens, counted[..., None].expand_as(tokens))

    def _wrong(self, x: Tensor) -> Tensor:
        return (x < 0) | (x >= self.sizes)
