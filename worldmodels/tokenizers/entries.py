"""Tokens of numbers, and of several observations together.

Axes: B batch, T steps, K tokens a frame, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from envs.spaces import Obs
from worldmodels.batch import Batch
from worldmodels.protocols import EntryTokenizer, Loss, Prev, Tokenizer


class Whole(nn.Module):
    """A tokenizer of vectors or categories, each told by itself whatever came before it."""

    square = None
    spans: Mapping[str, slice] = {}

    def __init__(self, entry: EntryTokenizer) -> None:
        super().__init__()
        assert isinstance(entry, nn.Module)
        self.entry = entry
        self.tokens, self.vocab, self.dim = entry.tokens, entry.vocab, entry.dim

    def fit(self, obs: Tensor) -> None:
        """Take in what the first steps of a run showed, (N,D), once and before anything else."""
        self.entry.fit(obs)

    def encode(self, prev: Prev, obs: Tensor) -> Tensor:
        """Tokens (B,T,K) of vectors (B,T,D)."""
        tokens: Tensor = self.entry.encode(obs)
        return tokens

    def tokenize(self, batch: Batch) -> Tensor:
        """Tokens (B,T+1,K) of a window."""
        tokens: Tensor = self.entry.encode(batch.obs)
        return tokens

    def decode(self, prev: Prev, tokens: Tensor) -> Tensor:
        """Vectors (B,T,D) of tokens (B,T,K)."""
        obs: Tensor = self.entry.decode(tokens)
        return obs

    def embed(self, tokens: Tensor) -> Tensor:
        """The vectors (...,K,dim) float32 that tokens (...,K) stand for."""
        vectors: Tensor = self.entry.embed(tokens)
        return vectors

    def known(self) -> Tensor | None:
        """(K,V) bool: tokens that stand for something; None where all do."""
        known: Tensor | None = self.entry.known()
        return known

    def loss(self, batch: Batch) -> Loss:
        """Reconstruction, a mean over the real frames."""
        loss: Loss = self.entry.loss(batch.obs, batch.seen)
        return loss

    def weight(self, batch: Batch) -> Tensor:
        """(B,): real frames of each row."""
        return batch.seen.sum(1)

    def learn(self, seen: Any) -> dict[str, Tensor]:
        """Take in Loss.learn after an optimiser step."""
        metrics: dict[str, Tensor] = self.entry.learn(seen)
        return metrics


class Several(nn.Module):
    """A tokenizer for each of several observations; their tokens stand side by side in a frame.

    Each has ids of its own, one range after the other, so that dynamics need not know that there
    are several; `spans` says which tokens are whose. A token's vector ends in zeros where another
    observation's tokens have more numbers.
    """

    square = None

    def __init__(self, parts: Mapping[str, Tokenizer]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts.values())  # type: ignore[arg-type]
        self.spans: dict[str, slice] = {}
        self.tokens = self.vocab = 0
        self._first: list[int] = []
        for name, part in parts.items():
            self.spans[name] = slice(self.tokens, self.tokens + part.tokens)
            self._first.append(self.vocab)
            self.tokens, self.vocab = self.tokens + part.tokens, self.vocab + part.vocab
        self.dim = max(part.dim for part in parts.values())

    def fit(self, obs: Obs) -> None:
        """Take in what the first steps of a run showed, (N,*O) of all that are no pictures."""
        for name, part, _ in self._each():
            if isinstance(part, Whole):
                part.fit(obs[name])

    def encode(self, prev: Prev, obs: Obs) -> Tensor:
        """Tokens (B,T,K) of frames (B,T,*O)."""
        codes = [
            part.encode(Prev(prev.obs[name], prev.act), obs[name]) + first
            for name, part, first in self._each()
        ]
        return torch.cat(codes, -1)

    def tokenize(self, batch: Batch) -> Tensor:
        """Tokens (B,T+1,K) of a window."""
        codes = [part.tokenize(_only(batch, name)) + first for name, part, first in self._each()]
        return torch.cat(codes, -1)

    def decode(self, prev: Prev, tokens: Tensor) -> Obs:
        """Frames (B,T,*O) of tokens (B,T,K)."""
        return {
            name: part.decode(Prev(prev.obs[name], prev.act), tokens[..., self.spans[name]] - first)
            for name, part, first in self._each()
        }

    def embed(self, tokens: Tensor) -> Tensor:
        """The vectors (...,K,dim) that tokens (...,K) stand for."""
        found = []
        for name, part, first in self._each():
            vectors = part.embed(tokens[..., self.spans[name]] - first)
            found.append(F.pad(vectors, (0, self.dim - part.dim)))
        return torch.cat(found, -2)

    def known(self) -> Tensor:
        """(K,V) bool: each place has the tokens of its own observation."""
        rows = []
        for _, part, first in self._each():
            known = part.known()
            if known is None:
                known = torch.ones(part.tokens, part.vocab, dtype=torch.bool, device=self._device())
            rows.append(F.pad(known, (first, self.vocab - first - part.vocab)))
        return torch.cat(rows)

    def loss(self, batch: Batch) -> Loss:
        """The sum of all parts' losses; what each says is logged under its name.

        A part whose frames count less often than others', as it needs one before, weighs less.
        """
        total, learned = torch.zeros((), device=self._device()), []
        parts: dict[str, Tensor] = {}
        counted = batch.seen.sum().clamp_min(1)
        for name, part, _ in self._each():
            own = _only(batch, name)
            loss = part.loss(own)
            total = total + loss.total * (part.weight(own).sum() / counted)
            parts |= {f"{name}/{key}": value for key, value in loss.parts.items()}
            learned.append(loss.learn)
        return Loss(total, parts, tuple(learned))

    def weight(self, batch: Batch) -> Tensor:
        """(B,): real frames of each row."""
        return batch.seen.sum(1)

    def learn(self, seen: tuple[Any, ...]) -> dict[str, Tensor]:
        """Take in Loss.learn after an optimiser step."""
        metrics: dict[str, Tensor] = {}
        for (name, part, _), own in zip(self._each(), seen, strict=True):
            metrics |= {f"{name}/{key}": value for key, value in part.learn(own).items()}
        return metrics

    def _each(self) -> Iterator[tuple[str, Tokenizer, int]]:
        """Name, tokenizer and first id of each."""
        return zip(self.spans, self.parts, self._first, strict=True)  # type: ignore[arg-type]

    def _device(self) -> torch.device:
        tensors = (*self.parameters(), *self.buffers())
        return tensors[0].device


def _only(batch: Batch, name: str) -> Batch:
    return replace(batch, obs=batch.obs[name])
