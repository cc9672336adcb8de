"""Means of what an epoch's updates say, and how long its work took."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Meter:
    """Sums of an epoch's metrics, left on the device until they are read; times and counts."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.work: dict[str, int] = {}

    def add(self, name: str, metrics: dict[str, Tensor]) -> None:
        """Count one update of `name`."""
        for key, value in metrics.items():
            tag = f"grad/{name}" if key == "grad_norm" else f"{name}/{key}"
            self._sums[tag] = self._sums.get(tag, 0.0) + value.float()
            self._counts[tag] = self._counts.get(tag, 0) + 1
        self.count(name, 1)

    def count(self, name: str, amount: int) -> None:
        """Count finished work of `name`."""
        self.work[name] = self.work.get(name, 0) + amount

    def spend(self, name: str, seconds: float) -> None:
        """Count time spent on `name`."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def means(self) -> dict[str, float]:
        """The means so far, in one copy from the device."""
        if not self._sums:
            return {}
        values = torch.stack(list(self._sums.values())).tolist()
        return {t: v / self._counts[t] for t, v in zip(self._sums, values, strict=True)}

    def read(self) -> dict[str, float]:
        """The means; they start anew, times and counts go on."""
        means = self.means()
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """The sums of the present epoch; times and counts belong to this process."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on with the sums of an epoch."""
        self._sums = {tag: value.to(device) for tag, value in state["sums"].items()}
        self._counts = dict(state["counts"])
