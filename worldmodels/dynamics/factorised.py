"""All tokens of a step from one position: where the action stands, their laws side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldmodels.batch import Batch
from worldmodels.dynamics.one_pass import OnePass
from worldmodels.dynamics.scores import head, step_loss
from worldmodels.dynamics.sequence import Memory, embed
from worldmodels.nets.conv import largest_map
from worldmodels.protocols import Loss


class Factorised(OnePass):
    """Scores and samples the tokens of a step by one head, and its reward and end.

    Given the past, tokens are independent of each other, as the categories of STORM (Zhang et al.
    2023, arXiv 2310.09615) and DreamerV3 are, and as those of `Parallel`, which asks at a query
    for each. Over a `PackedLayout` a step has two positions, however many tokens.

    With `near` > 0 a token's logit is the sum of one for what it is and, up to `near` ids from the
    token in its place now, of one for how far it is from that. Ours: where ids are places on a
    grid, as those of `Bins`, the same change is then learned once for all places, as Delta-IRIS
    learns it of pictures, though tokens stay absolute. Tokens must show whole frames for that.

    Other arguments as for OneTransformer; `vocab` is the number of tokens. Raises ValueError for
    `near` with tokens of changes.
    """

    def __init__(self, *, vocab: int, near: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        if near and not self.layout.whole:
            raise ValueError("agent.dynamics.near: tokens of this layout tell changes already")
        tokens, self.near = self.layout.tokens, near
        if near:
            self.near_head = head(self.width, tokens * (2 * near + 1))
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
            logits=self._logits(feats, tokens[:, :-1]),
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

    def _logits(self, feats: Tensor, now: Tensor) -> Tensor:
        """(...,K,V) of features (...,D) and the tokens (...,K) before the step."""
        logits: Tensor = self.token_head(feats).unflatten(-1, (self.layout.tokens, -1))
        if not self.near:
            return logits
        offsets = self.near_head(feats).unflatten(-1, (self.layout.tokens, -1))
        # With room on both sides for what leads beyond the first id and the last.
        wide = offsets.new_zeros(*now.shape, logits.shape[-1] + 2 * self.near)
        places = now[..., None] + torch.arange(offsets.shape[-1], device=now.device)
        return logits + wide.scatter(-1, places, offsets)[..., self.near : -self.near]

    def queries(self, rows: int) -> Tensor:
        """None: the action's own position is asked."""
        return self.net.position.weight.new_zeros(rows, 0, self.width)

    def logits(self, feats: Tensor, memory: Memory) -> Tensor:
        """(B,K,V) of features (B,1,D)."""
        return self._logits(feats[:, 0], memory.tokens)
