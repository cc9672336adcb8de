"""Token by token: a causal transformer over [root | act, tokens, look | act, tokens, look ...]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodels.batch import Batch
from worldmodels.nets.heads import REWARD_TARGETS, sample
from worldmodels.nets.init import init_normal
from worldmodels.nets.transformer import Cache, Transformer
from worldmodels.protocols import Layout, Loss, Prediction


@dataclass(frozen=True)
class Memory:
    """What an imagined moment remembers.

    `pending` (B,P,D) are positions not yet fed to the transformer; they ride along with the next
    action, so the last token costs no pass of its own. `obs` (B,H,W,C) and `tokens` (B,K) open a
    new sequence at this moment when the cache is full.
    """

    cache: Cache
    pending: Tensor
    obs: Tensor
    tokens: Tensor


class Autoregressive(nn.Module):
    """Scores and samples the tokens of a step one after the other, and its reward and end.

    `blocks` is the longest context in steps; where it is used up, imagination goes on from the
    present frame alone. `reward` names one of REWARD_TARGETS.
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
        reward: str,
        token_weight: float,
        reward_weight: float,
        end_weight: float,
    ) -> None:
        super().__init__()
        self.layout, self.reward = layout, REWARD_TARGETS[reward]
        self.weights = {
            "obs_ce": token_weight,
            "reward_loss": reward_weight,
            "end_loss": end_weight,
        }
        capacity = layout.stride * blocks
        self.net = Transformer(dim=width, layers=layers, heads=heads, capacity=capacity)
        self.token_head = _head(width, vocab)
        self.reward_head = _head(width, self.reward.size)
        self.end_head = _head(width, 2)
        self.apply(init_normal)

    def loss(self, batch: Batch, tokens: Tensor) -> Loss:
        """Cross-entropies over valid steps; tokens (B,T+1,K) describe obs.

        A truncated step is no end: its label is False. The reward and end of a step are read
        where its action is, before its tokens.
        """
        feats, tokens = self._features(batch, tokens), tokens[:, 1:]
        weight = batch.valid.float() / batch.valid.sum().clamp_min(1)
        logits = self.token_head(feats).float()
        scores = F.cross_entropy(logits.flatten(0, -2), tokens.flatten(), reduction="none")
        rew_logits, end_logits = self.reward_head(feats[:, :, 0]), self.end_head(feats[:, :, 0])
        end = F.cross_entropy(
            end_logits.float().flatten(0, 1), batch.end.flatten().long(), reduction="none"
        )
        hits = (logits.argmax(-1) == tokens).float().mean(-1)
        parts = {
            "obs_ce": (scores.view(tokens.shape).mean(-1) * weight).sum(),
            "reward_loss": (self.reward.loss(rew_logits, batch.rew) * weight).sum(),
            "end_loss": (end.view_as(weight) * weight).sum(),
        }
        total = torch.stack([self.weights[k] * parts[k] for k in self.weights]).sum()
        right = self.reward.right(rew_logits, batch.rew)
        accuracy = {
            "obs_accuracy": (hits * weight).sum(),
            "reward_accuracy": (right * weight).sum(),
        }
        return Loss(total, parts | accuracy)

    def _features(self, batch: Batch, tokens: Tensor) -> Tensor:
        """(B,T,K,D): features that score the K tokens of each step, the first at its action."""
        layout, (rows, steps) = self.layout, batch.act.shape
        x, visible = self._sequence(batch, tokens)
        feats = self.net(x, visible)[:, layout.root_size :]
        return feats.view(rows, steps, layout.stride, -1)[:, :, : layout.tokens]

    def _sequence(self, batch: Batch, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """All positions (B,L,D) of a batch, and which of them are real (B,L)."""
        layout, seen = self.layout, batch.seen
        root = layout.root(batch.obs[:, 0], tokens[:, 0])
        steps = (layout.act(batch.act), layout.answer(tokens[:, 1:]), layout.look(batch.obs[:, 1:]))
        x = torch.cat([s.to(root.dtype) for s in steps], 2)
        answered = batch.valid[..., None].expand(-1, -1, 1 + layout.tokens)
        looked = seen[:, 1:, None].expand(-1, -1, layout.look_size)
        visible = torch.cat((answered, looked), 2).flatten(1)
        opened = seen[:, :1].expand(-1, layout.root_size)
        return torch.cat((root, x.flatten(1, 2)), 1), torch.cat((opened, visible), 1)

    def start(self, batch: Batch, tokens: Tensor) -> Memory:
        """Read a real past in one pass; the memory stands at obs[:, -1]."""
        x, visible = self._sequence(batch, tokens)
        cache, _ = self.net.extend(self.net.empty(len(x)), x, visible)
        return Memory(cache, x[:, :0], batch.obs[:, -1], tokens[:, -1])

    def step(self, memory: Memory, act: Tensor, tokens: Tensor | None) -> tuple[Memory, Prediction]:
        """K transformer passes; nothing waits for the host."""
        layout, cache, pending = self.layout, memory.cache, memory.pending
        if cache.capacity - cache.filled <= layout.stride:
            cache = self.net.empty(len(act))
            pending = layout.root(memory.obs, memory.tokens).to(pending.dtype)
        x = torch.cat((pending, layout.act(act).to(pending.dtype)), 1)
        scores: list[Tensor] = []
        drawn: list[Tensor] = []
        for k in range(layout.tokens):
            cache, feats = self.net.extend(cache, x)
            if k == 0:
                ask = feats[:, -1]
            scores.append(self.token_head(feats[:, -1]).float())
            drawn.append(sample(scores[-1]) if tokens is None else tokens[:, k])
            x = layout.answer(drawn[-1][:, None]).to(pending.dtype)
        end_logits = self.end_head(ask).float()
        chosen = torch.stack(drawn, 1)
        prediction = Prediction(
            tokens=chosen,
            logits=torch.stack(scores, 1),
            rew=self.reward.predict(self.reward_head(ask)),
            end=sample(end_logits).bool(),
            end_prob=end_logits.softmax(-1)[:, 1],
        )
        return Memory(cache, x, memory.obs, chosen), prediction

    def see(self, memory: Memory, obs: Tensor, tokens: Tensor) -> Memory:
        """Queue the frame for the next pass, and make it the place to restart from."""
        look = self.layout.look(obs).to(memory.pending.dtype)
        return Memory(memory.cache, torch.cat((memory.pending, look), 1), obs, tokens)


def _head(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))
