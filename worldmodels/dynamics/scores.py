"""What the heads of a dynamics say about steps: as a loss, and as a prediction.

Axes: B batch, T steps, K tokens a frame, V vocabulary, R outputs of the reward target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodels.batch import Batch
from worldmodels.nets.heads import RewardTarget, sample
from worldmodels.protocols import Loss, Outlook, Prediction


@dataclass(frozen=True)
class Weights:
    """How much each cross-entropy counts in the sum."""

    token: float
    reward: float
    end: float


def head(width: int, out: int) -> nn.Sequential:
    """From features (...,width) to logits (...,out)."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))


def among(known: Tensor | None, logits: Tensor) -> Tensor:
    """Logits (...,K,V), -inf but where known (K,V) bool; None leaves them as they are.

    Only for imagination: a token that never is a label is soon unlikely in the loss by itself.
    """
    return logits if known is None else logits.masked_fill(~known, -torch.inf)


def step_loss(
    batch: Batch,
    tokens: Tensor,
    *,
    logits: Tensor,
    rew_logits: Tensor,
    end_logits: Tensor,
    reward: RewardTarget,
    weights: Weights,
    spans: Mapping[str, slice],
) -> Loss:
    """Cross-entropies over valid steps; tokens (B,T,K) describe obs[:, 1:].

    spans: the tokens of each of several observations, whose cost is then logged by name.
    logits (B,T,K,V); rew_logits (B,T,R); end_logits (B,T,2). A truncated step is no end: its
    label is False.
    """
    logits = logits.float()
    scores = F.cross_entropy(logits.flatten(0, -2), tokens.flatten(), reduction="none")
    scores = scores.view(tokens.shape)
    return weigh(
        batch,
        token=scores.mean(-1),
        nll=scores.sum(-1),
        hits=(logits.argmax(-1) == tokens).float().mean(-1),
        entries={name: scores[..., span].mean(-1) for name, span in spans.items()},
        rew_logits=rew_logits,
        end_logits=end_logits,
        reward=reward,
        weights=weights,
    )


def weigh(
    batch: Batch,
    *,
    token: Tensor,
    nll: Tensor | None,
    hits: Tensor,
    entries: Mapping[str, Tensor],
    rew_logits: Tensor,
    end_logits: Tensor,
    reward: RewardTarget,
    weights: Weights,
) -> Loss:
    """The same where what each step's tokens cost, (B,T), and the share guessed is known.

    nll (B,T): what the frame costs in nats, which counts in no sum; None where nobody knows.
    entries: the same as `token` of several observations by themselves, for the log.
    """
    weight = batch.valid.float() / batch.valid.sum().clamp_min(1)
    end = F.cross_entropy(
        end_logits.float().flatten(0, 1), batch.end.flatten().long(), reduction="none"
    )
    right = reward.right(rew_logits, batch.rew)
    parts = {
        "obs_ce": (token * weight).sum(),
        "reward_loss": (reward.loss(rew_logits, batch.rew) * weight).sum(),
        "end_loss": (end.view_as(weight) * weight).sum(),
    }
    factors = (weights.token, weights.reward, weights.end)
    total = torch.stack([w * part for w, part in zip(factors, parts.values(), strict=True)]).sum()
    accuracy = {
        "obs_accuracy": (hits * weight).sum(),
        "reward_accuracy": (right * weight).sum(),
    }
    each = {f"{name}/obs_ce": (cost.detach() * weight).sum() for name, cost in entries.items()}
    nats = {} if nll is None else {"nll": (nll.detach() * weight).sum()}
    return Loss(total, parts | each | nats | accuracy)


def predict(
    tokens: Tensor,
    *,
    logits: Tensor,
    rew_logits: Tensor,
    end_logits: Tensor,
    reward: RewardTarget,
) -> Prediction:
    """One step from its tokens (B,K), logits (B,K,V), (B,R) and (B,2); samples the end."""
    end_logits = end_logits.float()
    return Prediction(
        tokens=tokens,
        logits=logits.float(),
        rew=reward.predict(rew_logits),
        end=sample(end_logits).bool(),
        end_prob=end_logits.softmax(-1)[:, 1],
    )


def foresee(
    *, logits: Tensor, rew_logits: Tensor, end_logits: Tensor, reward: RewardTarget
) -> Outlook:
    """The same of which nothing is drawn, but where the reward's target draws."""
    return Outlook(
        logits=logits.float(),
        rew=reward.predict(rew_logits),
        end_prob=end_logits.float().softmax(-1)[:, 1],
    )
