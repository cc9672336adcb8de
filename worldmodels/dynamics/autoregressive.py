"""Token by token: a causal transformer over [root | act, tokens, look | act, tokens, look ...]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodels.batch import Batch
from worldmodels.dynamics.scores import Weights, among, head, predict, step_loss
from worldmodels.dynamics.sequence import Memory, begin, embed, moment, moments, see, with_room
from worldmodels.nets.conv import largest_map
from worldmodels.nets.heads import REWARD_TARGETS, sample
from worldmodels.nets.init import init_normal
from worldmodels.nets.transformer import Transformer
from worldmodels.protocols import Layout, Loss, Prediction


class Autoregressive(nn.Module):
    """Scores and samples the tokens of a step one after the other, and its reward and end.

    `blocks` is the longest context in steps; where it is used up, imagination goes on from the
    present frame alone. `dropout` is for `loss` only. `reward` names one of REWARD_TARGETS.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        vocab: int,
        width: int,
        layers: int,
        heads: int,
        blocks: int,
        dropout: float,
        reward: str,
        token_weight: float,
        reward_weight: float,
        end_weight: float,
    ) -> None:
        super().__init__()
        self.layout, self.reward, self.width = layout, REWARD_TARGETS[reward], width
        self.weights = Weights(token_weight, reward_weight, end_weight)
        capacity = layout.stride * blocks
        self.net = Transformer(
            dim=width, layers=layers, heads=heads, capacity=capacity, dropout=dropout
        )
        self.token_head = head(width, vocab)
        self.reward_head = head(width, self.reward.size)
        self.end_head = head(width, 2)
        self.apply(init_normal)
        # A frame's pixels, or its positions in a block's MLP or in attention.
        sequence = layout.stride * max(4 * width, heads * capacity)
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
        )

    def _features(self, batch: Batch, tokens: Tensor) -> Tensor:
        """(B,T,K,D): features that score the K tokens of each step, the first at its action."""
        layout, (rows, steps) = self.layout, batch.act.shape
        x, visible = embed(layout, batch, tokens)
        feats = self.net(x, visible)[:, layout.root_size :]
        return feats.view(rows, steps, layout.stride, -1)[:, :, : layout.tokens]

    def start(self, batch: Batch, tokens: Tensor) -> Memory:
        """Read a real past in one pass; the memory stands at obs[:, -1]."""
        return begin(self.net, self.layout, batch, tokens)

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
            scores.append(among(known, self.token_head(feats[:, -1]).float()))
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

    def see(self, memory: Memory, obs: Tensor | None, tokens: Tensor) -> Memory:
        """Queue the frame for the next pass, and make it the place to restart from."""
        return see(self.layout, memory, obs, tokens)

    def moments(self, batch: Batch, tokens: Tensor) -> Tensor:
        """Features (B,T+1,D) float32 of a window's moments, in one pass."""
        return moments(self.net, self.layout, batch, tokens)

    def moment(self, memory: Memory) -> Tensor:
        """The same (B,D) of an imagined moment; one pass over what is pending."""
        return moment(self.net, self.layout, memory)
