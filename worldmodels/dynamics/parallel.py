"""All tokens of a step at once: queries branch off a causal transformer after every action.

Axes: B batch, T steps, K tokens a frame, D width, L = root_size + T * stride positions of the
episode, N = L + T * K with the queries woven in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from worldmodels.batch import Batch
from worldmodels.dynamics.one_pass import OnePass
from worldmodels.dynamics.scores import step_loss
from worldmodels.dynamics.sequence import embed
from worldmodels.nets.conv import largest_map
from worldmodels.protocols import Layout, Loss


class Parallel(OnePass):
    """Scores and samples the tokens of a step in one pass, and its reward and end.

    Parallel observation prediction (REM: Cohen et al. 2024, arXiv 2402.05643) with attention in
    place of retention. After each action stand K learned queries, at the places of the K tokens
    that they predict; query k sees all real positions up to that action and queries 1..k of its
    step. Nothing else sees a query, and a query sees no token of its own step, so the tokens of a
    step are independent of each other given the past.

    We differ from REM: the layout embeds tokens, not the tokenizer's codes; every valid step is
    scored, the first ones too; frames may enter (`Layout.look`). Reward and end are read at the
    action as there, not at the last query as in its successor Simulus.

    Arguments as for OneTransformer; `vocab` is the number of tokens.
    """

    def __init__(self, *, vocab: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        layout, blocks = self.layout, self.net.capacity // self.layout.stride
        self.query = nn.Embedding(layout.tokens, self.width)
        self.add_heads(vocab)
        # A frame's pixels, or its positions, queries too, in a block's MLP or in attention.
        woven = layout.stride + layout.tokens
        sequence = woven * max(4 * self.width, self.net.heads * woven * blocks)
        self.frame_values = max(largest_map(self), sequence)

    def loss(self, batch: Batch, tokens: Tensor) -> Loss:
        """Cross-entropies over valid steps; tokens (B,T+1,K) describe obs.

        One pass over the window with all its queries.
        """
        feats = self._features(batch, tokens)
        ask = feats[:, :, 0]
        return step_loss(
            batch,
            tokens[:, 1:],
            logits=self.token_head(feats[:, :, 1:]),
            rew_logits=self.reward_head(ask),
            end_logits=self.end_head(ask),
            reward=self.reward,
            weights=self.weights,
            spans=self.layout.spans,
        )

    def _features(self, batch: Batch, tokens: Tensor) -> Tensor:
        """(B,T,1+K,D): features where each step has acted, and of its queries."""
        layout, (rows, steps) = self.layout, batch.valid.shape
        x, visible = embed(layout, batch, tokens)
        queries = self.query.weight.to(x.dtype).expand(rows, steps, -1, -1)
        x = weave(layout, x, queries)
        # A query is seen by those after it as its action is.
        visible = weave(layout, visible, batch.valid[..., None].expand(-1, -1, layout.tokens))
        feats = self.net.arranged(x, visible, *arrangement(layout, steps, x.device))
        feats = feats[:, layout.root_size :].unflatten(1, (steps, -1))
        return feats[:, :, layout.act_size - 1 : layout.act_size + layout.tokens]

    def queries(self, rows: int) -> Tensor:
        """(B,K,D): one for each token."""
        return self.query.weight.expand(rows, -1, -1)

    def logits(self, feats: Tensor, now: Tensor) -> Tensor:
        """(B,K,V) of features (B,1+K,D)."""
        logits: Tensor = self.token_head(feats[:, 1:])
        return logits


def weave(layout: Layout, x: Tensor, queries: Tensor) -> Tensor:
    """Put queries (B,T,K,...) after each action of an episode (B,L,...): (B,N,...)."""
    root, steps = x[:, : layout.root_size], x[:, layout.root_size :]
    steps = steps.unflatten(1, (queries.shape[1], layout.stride))
    acted = layout.act_size
    woven = torch.cat((steps[:, :, :acted], queries, steps[:, :, acted:]), 2)
    return torch.cat((root, woven.flatten(1, 2)), 1)


def arrangement(layout: Layout, steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """REM's training mask: the place (N,) of each woven position, and whom it sees (N,N) bool.

    A query is at the place of the token it predicts, as in imagination, where it follows the
    action. Everyone sees real positions woven before; only queries of a step see each other.
    """
    at = torch.arange(layout.root_size + steps * layout.stride, device=device)
    inside = at[layout.root_size :].view(1, steps, layout.stride)
    predicted = inside[:, :, layout.act_size : layout.act_size + layout.tokens]
    place = weave(layout, at[None], predicted)[0]
    step = torch.arange(steps, device=device)[None, :, None].expand(-1, -1, layout.tokens)
    # The step that a query belongs to; -1 are real positions.
    owner = weave(layout, torch.full_like(at, -1)[None], step)[0]
    order = torch.arange(len(place), device=device)
    shared = (owner < 0) | (owner == owner[:, None])
    return place, shared & (order <= order[:, None])
