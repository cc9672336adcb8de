"""What dynamics share that say all tokens of a step in one pass over a transformer."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from worldmodels.dynamics.one_transformer import OneTransformer
from worldmodels.dynamics.scores import among, foresee, predict
from worldmodels.dynamics.sequence import Memory, with_room
from worldmodels.nets.heads import sample
from worldmodels.nets.transformer import Cache
from worldmodels.protocols import Outlook, Prediction


class OnePass(OneTransformer):
    """Steps and looks ahead; what the head of tokens says is to be added."""

    def queries(self, rows: int) -> Tensor:
        """(B,Q,D): what is fed after the action, to be asked and then forgotten; nothing."""
        return self.net.position.weight.new_zeros(rows, 0, self.width)

    def logits(self, feats: Tensor, now: Tensor) -> Tensor:
        """(B,K,V) from features (B,1+Q,D) of the action and of queries; now (B,K) are present."""
        raise NotImplementedError

    def step(
        self, memory: Memory, act: Tensor, tokens: Tensor | None, known: Tensor | None = None
    ) -> tuple[Memory, Prediction]:
        """One transformer pass over what is pending, the action, and the queries, if any.

        Nothing waits for the host. The tokens, sampled or given, are pending after it.
        """
        cache, x, asked = self._asked(memory, act)
        cache, feats = self.net.extend(cache, x)
        said = self._said(feats[:, -asked:], memory.tokens, known)
        prediction = predict(
            sample(said["logits"]) if tokens is None else tokens, **said, reward=self.reward
        )
        # Queries are no part of the past: the next positions are written over theirs.
        cache = replace(cache, filled=cache.filled - (asked - 1))
        answer = self.layout.answer(prediction.tokens).to(x.dtype)
        return Memory(cache, answer, memory.obs, prediction.tokens), prediction

    def outlook(self, memory: Memory, act: Tensor, known: Tensor | None = None) -> Outlook:
        """What `step` would say, with gradients to the action; the memory stays as it is."""
        cache, x, asked = self._asked(memory, act)
        said = self._said(self.net.peek(cache, x)[:, -asked:], memory.tokens, known)
        return foresee(**said, reward=self.reward)

    def _asked(self, memory: Memory, act: Tensor) -> tuple[Cache, Tensor, int]:
        """The cache, what is to be fed to it, and at how many of these positions to listen."""
        queries = self.queries(len(act))
        needed = memory.pending.shape[1] + self.layout.act_size + queries.shape[1]
        cache, pending = with_room(self.net, self.layout, memory, needed)
        pieces = (pending, self.layout.act(act), queries)
        x = torch.cat([piece.to(pending.dtype) for piece in pieces], 1)
        return cache, x, 1 + queries.shape[1]

    def _said(self, feats: Tensor, now: Tensor, known: Tensor | None) -> dict[str, Tensor]:
        """What the heads say of features (B,1+Q,D)."""
        return {
            "logits": among(known, self.logits(feats, now).float()),
            "rew_logits": self.reward_head(feats[:, 0]),
            "end_logits": self.end_head(feats[:, 0]),
        }
