"""Churn: how many tokens of the same frames changed, which is what the world model feels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from worldmodels.batch import Batch

# Some 3 MB in a checkpoint.
FRAMES = 256


class Probe:
    """The first windows that it is shown, for good, and the tokens that they had last.

    tokenize: tokens (B,T+1,K) of windows. It lives beside the optimiser: the frames are the
    run's, not the model's.
    """

    def __init__(self, tokenize: Callable[[Batch], Tensor]) -> None:
        self.tokenize = tokenize
        self.batch: Batch | None = None
        self.tokens: Tensor | None = None

    def keep(self, batch: Batch) -> None:
        """Remember windows of about `FRAMES` frames; all but the first call do nothing."""
        if self.batch is None:
            rows = max(1, FRAMES // batch.valid.shape[1])
            self.batch = batch.map(lambda x: x[:rows].clone())

    @torch.no_grad()
    def churn(self) -> dict[str, Tensor]:
        """The share of tokens of valid steps that changed since the last call, if there was one."""
        if self.batch is None:
            return {}
        before, self.tokens = self.tokens, self.tokenize(self.batch)
        if before is None:
            return {}
        # tokens[:, t + 1] describes what step t led to; the first frame may have none.
        changed = (self.tokens != before)[:, 1:].float().mean(-1)
        valid = self.batch.valid
        return {"churn": (changed * valid).sum() / valid.sum().clamp_min(1)}

    def state_dict(self) -> dict[str, Any]:
        """Frames and tokens; empty before the first batch."""
        batch = self.batch
        kept = batch and {f.name: getattr(batch, f.name) for f in fields(batch)}
        return {"batch": kept, "tokens": self.tokens}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on with the same frames, on a device."""
        batch, tokens = state["batch"], state["tokens"]
        self.batch = None if batch is None else Batch(**batch).to(device)
        self.tokens = None if tokens is None else tokens.to(device)
