"""All tokens of a step from one position: where the action stands, their laws side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldmodels.batch import Batch
from worldmodels.dynamics.one_transformer import OneTransformer
from worldmodels.dynamics.scores import among, foresee, predict, step_loss
from worldmodels.dynamics.sequence import Memory, embed, with_room
from worldmodels.nets.conv import largest_map
from worldmodels.nets.heads import sample
from worldmodels.nets.transformer import Cache
from worldmodels.protocols import Loss, Outlook, Prediction


class Factorised(OneTransformer):
    """Scores and samples the tokens of a step by one head, and its reward and end.

    Given the past, tokens are independent of each other, as the categories of STORM (Zhang et al.
    2023, arXiv 2310.09615) and DreamerV3 are, and as those of `Parallel`, which asks at a query
    for each. Over a `PackedLayout` a step has two positions, however many tokens.

    Arguments as for OneTransformer; `vocab` is the number of tokens.
    """

    def __init__(self, *, vocab: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        tokens = self.layout.tokens
        self.add_heads(tokens * vocab)
        # A frame's pixels, its logits, or its positions in a block's MLP or in attention.
        sequence = self.layout.stride * max(4 * self.width, self.net.heads * self.net.capacity)
        self.frame_values = max(largest_map(self), sequence, tokens * vocab)

    def loss(self, batch: Batch, tokens: Tensor) -> Loss:
        """Cross-entropies over valid steps; tokens (B,T+1,K) describe obs."""
        feats = self._features(batch, tokens)
        return step_loss(
            batch,
            tokens[:, 1:],
            logits=self._logits(feats),
            rew_logits=self.reward_head(feats),
            end_logits=self.end_head(feats),
            reward=self.reward,
            weights=self.weights,
            spans=self.layout.spans,
        )

    def _features(self, batch: Batch, tokens: Tensor) -> Tensor:
        """(B,T,D): features where each step has acted."""
        layout = self.layout
        x, visible = embed(layout, batch, tokens)
        feats = self.net(x, visible)[:, layout.root_size :]
        return feats[:, layout.act_size - 1 :: layout.stride]

    def _logits(self, feats: Tensor) -> Tensor:
        """(...,K,V) of features (...,D)."""
        logits: Tensor = self.token_head(feats)
        return logits.unflatten(-1, (self.layout.tokens, -1))

    def step(
        self, memory: Memory, act: Tensor, tokens: Tensor | None, known: Tensor | None = None
    ) -> tuple[Memory, Prediction]:
        """One pass over what is pending and the action; nothing waits for the host."""
        cache, x = self._acted(memory, act)
        cache, feats = self.net.extend(cache, x)
        said = self._said(feats, known)
        prediction = predict(
            sample(said["logits"]) if tokens is None else tokens, **said, reward=self.reward
        )
        answer = self.layout.answer(prediction.tokens).to(x.dtype)
        return Memory(cache, answer, memory.obs, prediction.tokens), prediction

    def outlook(self, memory: Memory, act: Tensor, known: Tensor | None = None) -> Outlook:
        """What `step` would say, with gradients to the action; the memory stays as it is."""
        said = self._said(self.net.peek(*self._acted(memory, act)), known)
        return foresee(**said, reward=self.reward)

    def _acted(self, memory: Memory, act: Tensor) -> tuple[Cache, Tensor]:
        """The cache, and what is to be fed to it: what is pending, and the action."""
        layout = self.layout
        needed = memory.pending.shape[1] + layout.act_size
        cache, pending = with_room(self.net, layout, memory, needed)
        return cache, torch.cat((pending, layout.act(act).to(pending.dtype)), 1)

    def _said(self, feats: Tensor, known: Tensor | None) -> dict[str, Tensor]:
        """What the heads say of the last of features (B,L,D)."""
        ask = feats[:, -1]
        return {
            "logits": among(known, self._logits(ask).float()),
            "rew_logits": self.reward_head(ask),
            "end_logits": self.end_head(ask),
        }
