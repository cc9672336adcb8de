"""What a world model knows of games that it never saw, and how its dreams of them end.

Axes: B windows, T steps of a window, H imagined ones, K tokens of a frame, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from envs.trees import Tree, each, leaves
from runners.frame_errors import Measure, measure_of
from runners.hardware import Hardware
from runners.recorded import clock_of
from runners.rollout import shown
from worldmodels.batch import Batch, at, stacked
from worldmodels.diffusion.objective import token_nll
from worldmodels.dynamics.autoregressive import Autoregressive
from worldmodels.dynamics.diffusion import Diffusion
from worldmodels.dynamics.nats import along, frame_nats_at, group_counts
from worldmodels.nets.heads import CLOSE
from worldmodels.world_model import WorldModel

CHUNK = 32
"""Windows that are walked along, and dreamed, at once."""


@dataclass(frozen=True)
class Known:
    """What true frames cost, each given the true past; means over all frames of the windows.

    nats: of a frame; exact where tokens come one after the other, or all at once, else the bound;
    NaN where no bound is worked out, as of noise without masks. nats_at: NLL@n by n, the nats of
    drawing a frame in n groups, of what draws in groups. Of logits as they are with the guidance of
    dreams, without their temperature and top_k. changed: of tokens that differ from those
    at the same place a step before, the share that was the likeliest, when scored from nothing but
    noise, or from the true tokens before it where tokens come one after the other; NaN where tokens
    say what changed, as equal ones then may not mean that nothing did. reward_error: absolute.
    reward_f1, end_f1: of rewards that are not 0, predicted as at least CLOSE, and of ends,
    predicted with at least one half; NaN where there is none.
    """

    nats: float
    nats_at: dict[int, float]
    changed: float
    reward_error: float
    reward_f1: float
    end_f1: float


@dataclass(frozen=True)
class Dreamed:
    """What came of the windows' own actions from the same starts.

    mse (H): of the frames drawn, in the units of `frame_errors`, the mean over what the environment
    shows: of a picture the squared error per pixel. recon_mse, copy_mse (H): of the
    tokenizer's, given the true frame before, and of the last frame seen. events, true_events: share
    of steps with a reward of at least CLOSE. apart: total variation between how often each token
    was drawn and how often it was true, mean over the places of a frame. frames_s: imagined.
    """

    mse: tuple[float, ...]
    recon_mse: tuple[float, ...]
    copy_mse: tuple[float, ...]
    events: float
    true_events: float
    apart: float
    frames_s: float


@torch.no_grad()
def known(world_model: WorldModel, windows: Batch) -> Known:
    """Walk along whole windows that are no longer than the dynamics remembers."""
    chunks = [_known(world_model, batch) for batch in _chunks(windows)]
    columns = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    dynamics = world_model.dynamics
    at_once = float(columns["nats"].mean())
    nats_at = {} if isinstance(dynamics, Autoregressive) else {1: at_once}
    groups = [name for name in columns if isinstance(name, int)]
    nats_at |= {n: float(columns[n].mean()) for n in groups}
    nats = nats_at[max(groups)] if groups else at_once
    if isinstance(dynamics, Diffusion) and not groups:
        nats = math.nan
    hits, changed = columns["hits"], columns["changed"]
    whole = world_model.tokenizer.square is not None
    rew, said = windows.rew.to(hits.device), columns["rew"]
    return Known(
        nats=nats,
        nats_at=nats_at,
        changed=float((hits & changed).sum() / changed.sum()) if whole else math.nan,
        reward_error=float((said - rew).abs().mean()),
        reward_f1=f1(said.abs() >= CLOSE, rew != 0),
        end_f1=f1(columns["end"] >= 0.5, windows.end.to(hits.device)),
    )


def _known(world_model: WorldModel, batch: Batch) -> dict[str | int, Tensor]:
    """nats rew end (B,T), NLL@n (B,T) by n, hits and changed (B,T-1,K), of one chunk."""
    dynamics, tokens = world_model.dynamics, world_model.tokenize(batch)
    said = [prediction for _, _, _, prediction in along(dynamics, batch, tokens)]
    logits = torch.stack([p.logits for p in said], 1)
    goal = tokens[:, 1:]
    found: dict[str | int, Tensor] = {
        "nats": token_nll(logits, goal).sum(-1),
        "rew": torch.stack([p.rew for p in said], 1).float(),
        "end": torch.stack([p.end_prob for p in said], 1),
        # The first frame of a window may have no tokens of its own.
        "hits": (logits.argmax(-1) == goal)[:, 1:],
        "changed": goal[:, 1:] != goal[:, :-1],
    }
    if isinstance(dynamics, Diffusion) and dynamics.process.masks:
        # In one group they cost what was said of nothing but masks.
        counts = [n for n in group_counts(dynamics.layout.tokens) if n > 1]
        found[1] = found["nats"]
        found.update(frame_nats_at(dynamics, batch, tokens, counts).items())
    return found


@torch.no_grad()
def dreamed(world_model: WorldModel, windows: Batch, context: int, hardware: Hardware) -> Dreamed:
    """Dream the windows' own actions from frame `context` (>= 1) on, to their end."""
    real = at(windows.obs, slice(context, None))
    measures = each(lambda x: measure_of(x.cpu().numpy()), real)
    chunks = [
        _dreamed(world_model, batch, context, hardware, measures) for batch in _chunks(windows)
    ]
    seconds = sum(chunk.seconds for chunk in chunks)
    errors = np.concatenate([chunk.errors for chunk in chunks], 1)
    mse, recon, copy = (tuple(float(x) for x in rows.mean(0)) for rows in errors)
    drawn, true = (torch.cat([getattr(c, name) for c in chunks]) for name in ("drawn", "true"))
    rew, steps = torch.cat([chunk.rew for chunk in chunks]), windows.act.shape[1] - context
    return Dreamed(
        mse=mse,
        recon_mse=recon,
        copy_mse=copy,
        events=float((rew.abs() >= CLOSE).float().mean()),
        true_events=float((windows.rew[:, context:].abs() >= CLOSE).float().mean()),
        apart=total_variation(drawn, true, world_model.tokenizer.vocab),
        frames_s=len(rew) * steps / max(seconds, 1e-9),
    )


@dataclass(frozen=True)
class _Chunk:
    errors: np.ndarray
    """(3,B,H): of the dream, the reconstruction, the last frame seen."""
    drawn: Tensor
    """(B,H,K), as `true`."""
    true: Tensor
    rew: Tensor
    """(B,H)."""
    seconds: float


def _dreamed(
    world_model: WorldModel, batch: Batch, context: int, hardware: Hardware, measures: Tree
) -> _Chunk:
    past, clock = batch.first(context), clock_of(hardware)
    true = world_model.tokenize(batch)[:, context + 1 :]
    state, obs = world_model.start(past), at(past.obs, -1)
    seconds, frames, rebuilt, said = 0.0, [], [], []
    for t, act in enumerate(batch.act[:, context:].unbind(1)):
        begin = clock()
        state, prediction = world_model.imagine(state, act)
        seconds += clock() - begin
        obs = shown(world_model, obs, act, state)
        frames.append(obs)
        rebuilt.append(world_model.draw(at(batch.obs, context + t), act, true[:, t]))
        said.append(prediction)
    real = at(batch.obs, slice(context + 1, None))
    last = at(batch.obs, slice(context, context + 1))

    def error(measure: Measure, x: Tensor, y: Tensor) -> np.ndarray:
        return measure.error(x.cpu().numpy(), y.cpu().numpy())

    told = [
        np.mean(leaves(each(error, measures, x, real)), axis=0)
        for x in (stacked(frames), stacked(rebuilt), last)
    ]
    return _Chunk(
        errors=np.stack(told),
        drawn=torch.stack([p.tokens for p in said], 1),
        true=true,
        rew=torch.stack([p.rew for p in said], 1).float(),
        seconds=seconds,
    )


def _chunks(windows: Batch) -> Sequence[Batch]:
    starts = range(0, len(windows.act), CHUNK)
    return [windows.rows(slice(i, i + CHUNK)) for i in starts]


def f1(said: Tensor, true: Tensor) -> float:
    """The harmonic mean of precision and recall; NaN where nothing is true."""
    if not true.any():
        return math.nan
    return float(2 * (said & true).sum() / (said.sum() + true.sum()))


def total_variation(a: Tensor, b: Tensor, vocab: int) -> float:
    """Between the frequencies of tokens (B,T,K), mean over K: 0 where equal, 1 where disjoint."""

    def frequencies(tokens: Tensor) -> Tensor:
        slots = tokens.flatten(0, 1).T
        counts = torch.stack([row.bincount(minlength=vocab) for row in slots]).double()
        return counts / counts.sum(1, keepdim=True)

    return float((frequencies(a) - frequencies(b)).abs().sum(1).mean() / 2)
