"""How many nats the frames of windows cost a world model, so that all kinds of them compare."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from runners.horizon import Band
from runners.intervals import half_over_groups
from runners.rollout import ROWS
from worldmodels.dynamics.diffusion import Diffusion
from worldmodels.dynamics.nats import frame_nats, frame_nats_at, group_counts

if TYPE_CHECKING:
    from torch import Tensor

    from worldmodels.batch import Batch
    from worldmodels.world_model import WorldModel


@dataclass(frozen=True)
class Likelihood:
    """Nats a frame by name, each a mean (1,) over windows and frames, with its interval.

    nll: what a frame costs given the true past, which is exact where tokens are drawn one by one or
    all at once; of a denoiser it is the bound. nll_at_n: that of a denoiser in n groups.
    Groups are of tokens in random order, whatever the sampler; logits have the guidance of dreams,
    but not their temperature and top_k. factorization_gap: what the sampler's number of steps costs
    more than as many as tokens. Nothing of a denoiser of noise without masks. steps: those of the
    sampler, 0 of no denoiser.
    """

    bands: dict[str, Band]
    steps: int

    def scalars(self) -> dict[str, float]:
        """The numbers to log, such as imagination/nll."""
        return {f"imagination/{name}": float(band.mean[0]) for name, band in self.bands.items()}

    def as_dict(self) -> dict[str, dict[str, float | None]]:
        """Means and intervals, for a JSON file; NaN becomes None."""

        def ends(band: Band) -> dict[str, float | None]:
            numbers = {"mean": band.mean[0], "low": band.low[0], "high": band.high[0]}
            return {k: float(x) if math.isfinite(x) else None for k, x in numbers.items()}

        return {name: ends(band) for name, band in self.bands.items()}

    def words(self) -> str:
        """The same for a reader, in a line; empty where nothing is known."""
        if not self.bands:
            return ""
        nats = {name: f"{float(band.mean[0]):.2f}" for name, band in self.bands.items()}
        start = f"a frame given the true past costs {nats['nll']} nats"
        if not self.steps:
            return start
        together = nats[f"nll_at_{self.steps}"]
        return (
            f"{start} or less, drawn token by token, {together} in {self.steps} groups, "
            "as many as the sampler's steps"
        )


def likelihood_of(
    world_model: WorldModel, batch: Batch, context: int, episode: np.ndarray
) -> Likelihood:
    """The cost of the frames after `context` steps of windows; call it within `undisturbed`.

    All steps must be valid; episode (B,) says which windows belong together.
    """
    net = world_model.dynamics
    steps = min(net.sampler.steps, net.layout.tokens) if isinstance(net, Diffusion) else 0
    chunks = [slice(i, i + ROWS) for i in range(0, len(batch.act), ROWS)]
    parts = [_costs(world_model, batch.rows(rows), context, steps) for rows in chunks]
    costs = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    # A window is one number: what it costs at each of its frames matters to nobody here.
    rows = {name: cost.mean(1, keepdim=True).cpu().numpy() for name, cost in costs.items()}
    return Likelihood({name: _band(row, episode) for name, row in rows.items()}, steps)


def _band(rows: np.ndarray, episode: np.ndarray) -> Band:
    """As `band_of`, but a gap may be below 0."""
    mean, half = rows.mean(axis=0, dtype=np.float64), half_over_groups(rows, episode)
    return Band(mean, mean - half, mean + half)


def _costs(world_model: WorldModel, batch: Batch, context: int, steps: int) -> dict[str, Tensor]:
    """Nats (B,H) of a few windows, by name; the same past is known as in a dream."""
    seen = context if world_model.context is None else min(context, world_model.context)
    batch = batch.last(batch.act.shape[1] - context + seen)
    tokens, net = world_model.tokenize(batch), world_model.dynamics
    if not isinstance(net, Diffusion):
        return {"nll": frame_nats(net, batch, tokens, seen)}
    if not net.process.masks:
        return {}
    every = net.layout.tokens
    found = frame_nats_at(net, batch, tokens, group_counts(every, steps), seen)
    at = {f"nll_at_{n}": nats for n, nats in found.items()}
    return {"nll": found[every], **at, "factorization_gap": found[steps] - found[every]}
