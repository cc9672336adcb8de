"""One learner's updates: slices, optimiser, clipping, what is learned afterwards."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from agents.protocols import Learner
from envs.trees import each
from runners.churn import Probe
from runners.hardware import Hardware
from runners.replay import Replay
from worldmodels.batch import Batch

# On a CPU, an update runs over slices of the batch whose widest map stays near this size, so
# that it lives in the caches; gradients are accumulated and the result is that of one batch.
CPU_MAP_BYTES = 16 << 20
# What an update keeps for its backward pass, in widest maps of its slice. Measured on CPUs:
# 110 to 150 for the three networks of the tokenizer, less for the others.
MAPS_KEPT = 140
GPU_SHARE = 0.6
# Enough to know the tails of a grid by.
FIT_FRAMES = 16_384


class Phase:
    """Trains one learner: AdamW, weight decay on Linear weights only, gradient-norm clipping.

    A learner without parameters takes in what it sees, and nothing is differentiated.

    batch: rows of an update. frames: frames of a row. updates: per epoch, `first_updates` in the
    first one; none before epoch `after_epoch` + 1. repeats: steps of the optimiser in an update,
    all on what the learner prepared once.
    """

    def __init__(
        self,
        learner: Learner,
        hardware: Hardware,
        *,
        batch: int,
        frames: int,
        updates: int,
        first_updates: int,
        after_epoch: int,
        lr: float,
        weight_decay: float,
        clip: float,
        repeats: int = 1,
    ) -> None:
        self.learner, self.name, self.hardware = learner, learner.name, hardware
        self.batch, self.frames = batch, frames
        self.updates, self.first_updates, self.after_epoch = updates, first_updates, after_epoch
        self.clip, self.repeats = clip, repeats
        groups = _decay_groups(learner.module, weight_decay)
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)
        self.slice = self._slice_rows()
        self.probe = Probe(learner.tokenize) if learner.tokenize else None

    def fit(self, replay: Replay) -> None:
        """Let the learner see what was collected first, if it wants to; before any update."""
        if self.learner.fit is not None:
            shown = replay.numbers(FIT_FRAMES)
            self.learner.fit(each(lambda x: x.to(self.hardware.device), shown))

    def due(self, epoch: int) -> int:
        """Updates in `epoch`, counted from 1."""
        if epoch <= self.after_epoch:
            return 0
        return self.first_updates if epoch == 1 else self.updates

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One update; returns metrics of its last step on the device, without waiting for it."""
        assert len(batch.act) == self.batch
        if self.probe:
            self.probe.keep(batch)
        with self.hardware.autocast():
            data = self.learner.prepare(batch)
        for _ in range(self.repeats):
            metrics = self._step(data)
        return metrics

    def _step(self, data: Any) -> dict[str, Tensor]:
        """One step of the optimiser on prepared data."""
        self.optimizer.zero_grad(set_to_none=True)
        weight = self.learner.weight(data).float()
        weight = weight / weight.sum().clamp_min(1)
        metrics: dict[str, Tensor] = {}
        learned: list[Any] = []
        for first in range(0, self.batch, self.slice):
            stop = min(first + self.slice, self.batch)
            share = weight[first:stop].sum()
            with self.hardware.autocast():
                loss = self.learner.loss(rows(data, first, stop))
            if self.parameters:
                (loss.total * share).backward()
            for key, part in {"loss": loss.total, **loss.parts}.items():
                metrics[key] = metrics.get(key, 0.0) + part.detach() * share
            learned.append(loss.learn)
        if self.parameters:
            metrics["grad_norm"] = nn.utils.clip_grad_norm_(self.parameters, self.clip)
            self.optimizer.step()
        return metrics | self.learner.learn(_join(learned))

    def settle(self) -> dict[str, Tensor]:
        """Metrics of all updates since the last call: how many tokens they changed."""
        with self.hardware.autocast():
            return self.probe.churn() if self.probe else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of an optimiser, as `optimizer.state_dict` gave it."""
        self.optimizer.load_state_dict(state)
        # A fused update walks through memory: moments must lie as their weights do
        # (channels last), which files do not tell, or they meet the wrong weights.
        for weight, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if value.shape == weight.shape:
                    moments[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)

    @property
    def activation_bytes(self) -> int:
        """About the memory that a slice's forward pass keeps for its backward pass."""
        return self.slice * self._row_bytes() * MAPS_KEPT

    def _row_bytes(self) -> int:
        return self.learner.frame_values * self.frames * self.hardware.dtype.itemsize

    def _slice_rows(self) -> int:
        """Even slices, one where all rows fit: a GPU's free memory, a CPU's caches."""
        room = CPU_MAP_BYTES
        if self.hardware.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.hardware.device)
            room = int(free * GPU_SHARE / MAPS_KEPT)
        fits = max(1, room // self._row_bytes())
        return math.ceil(self.batch / math.ceil(self.batch / fits))


def rows(data: Any, first: int, stop: int) -> Any:
    """Rows first..stop of tensors in nested dataclasses, dicts and tuples."""
    if isinstance(data, Tensor):
        return data[first:stop]
    if isinstance(data, tuple):
        return tuple(rows(x, first, stop) for x in data)
    if isinstance(data, dict):
        return {name: rows(x, first, stop) for name, x in data.items()}
    assert is_dataclass(data) and not isinstance(data, type)
    return replace(data, **{f.name: rows(getattr(data, f.name), first, stop) for f in fields(data)})


def _join(parts: list[Any]) -> Any:
    """The learners' Loss.learn of all slices as one: tensors, maybe in nested tuples."""
    if parts[0] is None:
        return None
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return tuple(_join(list(column)) for column in zip(*parts, strict=True))


def _decay_groups(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    linear = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear)}
    decayed = [p for p in module.parameters() if id(p) in linear]
    others = [p for p in module.parameters() if id(p) not in linear]
    return [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
