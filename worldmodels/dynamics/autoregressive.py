"""Token by token: a causal transformer over [root | act, tokens, look | act, tokens, look ...]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldmodels.batch import Batch
from worldmodels.dynamics.one_transformer import OneTransformer
from worldmodels.dynamics.scores import among, predict, step_loss
from worldmodels.dynamics.sequence import Memory, embed, with_room
from worldmodels.nets.conv import largest_map
from worldmodels.nets.heads import sample
from worldmodels.protocols import Loss, Prediction


class Autoregressive(OneTransformer):
    """Scores and samples the tokens of a step one after the other, and its reward and end.

    Arguments as for OneTransformer; `vocab` is the number of tokens.
    """

    def __init__(self, *, vocab: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.add_heads(vocab)
        # A frame's pixels, or its positions in a block's MLP or in attention.
        sequence = self.layout.stride * max(4 * self.width, self.net.heads * self.net.capacity)
        self.frame_values = max(largest_map(self), sequence)

    def loss(self, batch: Batch, tokens: Tensor) -> Loss:
        """Cross-entropies over valid steps; tokens (B,T+1,K) describe obs.

        The reward and end of a step are read where its action is, before its tokens.
        """
        feats = self._features(batch, tokens)
        return step_loss(
            batch,
            tokens[:, 1:],
            logits=self.token_head(feats),
            rew_logits=self.reward_head(feats[:, :, 0]),
            end_logits=self.end_head(feats[:, :, 0]),
            reward=self.reward,
            weights=self.weights,
            spans=self.layout.spans,
        )

    def _features(self, batch: Batch, tokens: Tensor) -> Tensor:
        """(B,T,K,D): features that score the tokens of each step, the first at its action."""
        layout, (rows, steps) = self.layout, batch.valid.shape
        x, visible = embed(layout, batch, tokens)
        feats = self.net(x, visible)[:, layout.root_size :]
        asked = layout.act_size - 1
        return feats.view(rows, steps, layout.stride, -1)[:, :, asked : asked + layout.tokens]

    def step(
        self, memory: Memory, act: Tensor, tokens: Tensor | None, known: Tensor | None = None
    ) -> tuple[Memory, Prediction]:
        """K transformer passes; nothing waits for the host."""
        layout = self.layout
        cache, pending = with_room(self.net, layout, memory, layout.stride + 1)
        x = torch.cat((pending, layout.act(act).to(pending.dtype)), 1)
        scores: list[Tensor] = []
        drawn: list[Tensor] = []
        for k in range(layout.tokens):
            cache, feats = self.net.extend(cache, x)
            if k == 0:
                ask = feats[:, -1]
            scores.append(
                among(None if known is None else known[k], self.token_head(feats[:, -1]).float())
            )
            drawn.append(sample(scores[-1]) if tokens is None else tokens[:, k])
            x = layout.answer(drawn[-1][:, None]).to(pending.dtype)
        prediction = predict(
            torch.stack(drawn, 1),
            logits=torch.stack(scores, 1),
            rew_logits=self.reward_head(ask),
            end_logits=self.end_head(ask),
            reward=self.reward,
        )
        return Memory(cache, x, memory.obs, prediction.tokens), prediction
