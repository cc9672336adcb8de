"""All tokens of a step from one position: where the action stands, their laws side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldmodels.batch import Batch
from worldmodels.dynamics.one_pass import OnePass
from worldmodels.dynamics.scores import head, step_loss
from worldmodels.dynamics.sequence import embed
from worldmodels.nets.conv import largest_map
from worldmodels.protocols import Loss


class Factorised(OnePass):
    """Scores and samples the tokens of a step by one head, and its reward and end.

    Given the past, tokens are independent of each other, as the categories of STORM (Zhang et al.
    2023, arXiv 2310.09615) and DreamerV3 are, and as those of `Parallel`, which asks at a query
    for each. Over a `PackedLayout` a step has two positions, however many tokens.

    With `max_offset` > 0, the logit of a token that is at most so many ids from the present one of
    its place has a term for that offset, too, so that a change is learned once for all places of
    a grid. Ours; for ids in order, as those of `Bins`. Of others, such as codes of pictures, it
    only means something that a token stays as it is.

    Other arguments as for OneTransformer; `vocab` is the number of tokens. The tokens of `layout`
    must show whole frames where there are offsets.
    """

    def __init__(self, *, vocab: int, max_offset: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        tokens, self.max_offset = self.layout.tokens, max_offset
        assert not max_offset or self.layout.whole, "tokens of changes have no present one"
        if max_offset:
            self.offset_head = head(self.width, tokens * (2 * max_offset + 1))
        self.add_heads(tokens * vocab)
        # A frame's pixels, its logits, or its positions in a block's MLP or in attention.
        sequence = self.layout.stride * max(4 * self.width, self.net.heads * self.net.capacity)
        scored = tokens * (vocab + 2 * max_offset)
        self.frame_values = max(largest_map(self), sequence, scored)

    def loss(self, batch: Batch, tokens: Tensor) -> Loss:
        """Cross-entropies over valid steps; tokens (B,T+1,K) describe obs."""
        feats = self._features(batch, tokens)
        return step_loss(
            batch,
            tokens[:, 1:],
            logits=self._scores(feats, tokens[:, :-1]),
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

    def logits(self, feats: Tensor, now: Tensor) -> Tensor:
        """(B,K,V) of features (B,1,D)."""
        return self._scores(feats[:, 0], now)

    def _scores(self, feats: Tensor, now: Tensor) -> Tensor:
        """(...,K,V) of features (...,D) and the tokens (...,K) before the step."""
        logits: Tensor = self.token_head(feats).unflatten(-1, (self.layout.tokens, -1))
        if not self.max_offset:
            return logits
        offsets = self.offset_head(feats).unflatten(-1, (self.layout.tokens, -1))
        # With room on both sides for what leads beyond the first id and the last.
        wide = offsets.new_zeros(*now.shape, logits.shape[-1] + 2 * self.max_offset)
        places = now[..., None] + torch.arange(offsets.shape[-1], device=now.device)
        wide = wide.scatter(-1, places, offsets)
        return logits + wide[..., self.max_offset : -self.max_offset]
