"""Dreams beside what really happened: the same start, the same actions.

Axes: B windows, T = num_seen + H frames, of which H are imagined; N dreams; *O one observation.
Frames are arrays, or dicts of arrays where an environment shows several things.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from agents.protocols import ActionHead
from envs.experience import Segment
from envs.spaces import Obs
from envs.trees import Tree, each
from worldmodels.batch import Batch, at, stacked
from worldmodels.protocols import Prev, State
from worldmodels.world_model import WorldModel

ROWS = 8
"""Windows dreamed at once: bounds the memory that reconstruction needs."""


class Dreamer(Protocol):
    """What is asked of an agent here; it is an nn.Module as well."""

    @property
    def world_model(self) -> WorldModel:
        """Imagines."""

    @property
    def head(self) -> ActionHead:
        """Draws actions from the policy's outputs."""

    def watch(self, batch: Batch) -> Any:
        """The policy's memory of the frames before obs[:, -1]."""

    def judge(self, obs: Obs, carry: Any) -> tuple[Tensor, Tensor, Any]:
        """The policy's outputs (B,size), values (B,) at frames (B,*O), and the memory after."""

    def judge_dream(self, state: State, carry: Any) -> tuple[Tensor, Tensor, Any]:
        """The same at imagined moments."""


@dataclass(frozen=True)
class Comparison:
    """Reality and imagination over the same B windows, on the host.

    real recon dream (B,T,*O): `dream` shows real frames until num_seen, each frame of `recon` is
    made from the true frame before it. rew_true rew_pred end_true end_prob (B,T): what came with
    each frame; predictions are NaN while seen. value (B,T): of the dreamed frames and of the
    start, the last one seen. token_accuracy (B,H): share of the sampled tokens that equal those
    of the real frame. misled (B,H,*O): the frames of a second dream, which was told the actions
    of another window from the start on.
    """

    real: Obs
    recon: Obs
    dream: Obs
    rew_true: np.ndarray
    rew_pred: np.ndarray
    end_true: np.ndarray
    end_prob: np.ndarray
    value: np.ndarray
    token_accuracy: np.ndarray
    misled: Obs
    num_seen: int

    @property
    def horizon(self) -> int:
        """Number of imagined frames."""
        return int(self.rew_true.shape[1] - self.num_seen)


@dataclass(frozen=True)
class FreeDreams:
    """N dreams of the policy from one start: frames (N,T,*O), the first num_seen real.

    returns (N,T) dreamed reward so far; ended (N,T) True after a sampled end.
    """

    frames: Obs
    returns: np.ndarray
    ended: np.ndarray
    num_seen: int


@contextmanager
def undisturbed(agent: Dreamer, seed: int) -> Iterator[torch.device]:
    """Dream without a trace: no gradients, evaluation mode, and random numbers of its own.

    Training goes on afterwards exactly as if nothing had been dreamed. Gives the device.
    """
    modules = list(agent.modules()) if isinstance(agent, nn.Module) else []
    modes = [module.training for module in modules]
    device = next(agent.world_model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(seed)
        for module in modules:
            module.training = False
        try:
            yield device
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode


def windows(
    episodes: Sequence[Segment], context: int, horizon: int, num: int, rng: np.random.Generator
) -> tuple[Batch, np.ndarray] | None:
    """Up to `num` different windows of context + horizon real steps, and their episodes (B,).

    Each episode has as many as any other, as far as it is long enough: windows of one episode
    are alike. None where none is long enough.
    """
    steps = context + horizon
    room = np.array([max(0, len(e.act) - steps + 1) for e in episodes], np.int64)
    total = int(room.sum())
    if total == 0:
        return None
    # Round by round, one window of each episode that has more, in a new order in each round.
    rounds = np.concatenate([rng.permutation(n) for n in room]) + rng.random(total)
    picks = np.sort(np.argsort(rounds)[:num])
    which = np.searchsorted(np.cumsum(room), picks, side="right")
    start = picks - (np.cumsum(room) - room)[which]

    def stack(name: str, length: int) -> Tree:
        rows = [
            each(lambda x, t=t: x[t : t + length], getattr(episodes[i], name))
            for i, t in zip(which.tolist(), start.tolist(), strict=True)
        ]
        return each(lambda *x: torch.from_numpy(np.stack(x)), *rows)

    of_steps = {name: stack(name, steps) for name in ("act", "rew", "end", "trunc")}
    valid = torch.ones(len(picks), steps, dtype=torch.bool)
    return Batch(obs=stack("obs", steps + 1), valid=valid, **of_steps), which


def rollout(agent: Dreamer, batch: Batch, context: int) -> Comparison:
    """Dream the windows' own actions from frame `context` (>= 1) on, to the end of the window.

    All steps must be valid. Call it within `undisturbed`.
    """
    assert context >= 1 and bool(batch.valid.all())
    wrong = batch.act[:, context:].roll(1, 0)
    chunks = [slice(i, i + ROWS) for i in range(0, len(batch.act), ROWS)]
    parts = [_rollout(agent, batch.rows(rows), context, wrong[rows]) for rows in chunks]
    arrays = {
        f.name: each(lambda *x: np.concatenate(x), *(getattr(part, f.name) for part in parts))
        for f in fields(Comparison)
        if f.name != "num_seen"
    }
    return Comparison(num_seen=context, **arrays)


def _rollout(agent: Dreamer, batch: Batch, context: int, wrong: Tensor) -> Comparison:
    world_model = agent.world_model
    prev, real = Prev(at(batch.obs, slice(-1)), batch.act), at(batch.obs, slice(1, None))
    tokens = world_model.tokenizer.encode(prev, real)
    recon = world_model.tokenizer.decode(prev, tokens)
    past = batch.first(context)
    state, obs = world_model.start(past), at(past.obs, -1)
    _, value, carry = agent.judge(obs, agent.watch(past))
    frames, values, predictions = [], [value], []
    for act in batch.act[:, context:].unbind(1):
        state, prediction = world_model.imagine(state, act)
        _, value, carry = agent.judge_dream(state, carry)
        obs = shown(world_model, obs, act, state)
        frames.append(obs)
        values.append(value)
        predictions.append(prediction)
    state, obs, misled = world_model.start(past), at(past.obs, -1), []
    for act in wrong.unbind(1):
        state, _ = world_model.imagine(state, act)
        obs = shown(world_model, obs, act, state)
        misled.append(obs)
    sampled = torch.stack([p.tokens for p in predictions], 1)
    return Comparison(
        real=each(_host, real),
        recon=each(_host, recon),
        dream=_after_real(at(real, slice(context)), frames),
        rew_true=_host(batch.rew.float()),
        rew_pred=_after(context, [p.rew for p in predictions]),
        end_true=_host(batch.end),
        end_prob=_after(context, [p.end_prob for p in predictions]),
        value=_after(context - 1, values),
        token_accuracy=_host((sampled == tokens[:, context:]).float().mean(-1)),
        misled=each(_host, stacked(misled)),
        num_seen=context,
    )


def free_dreams(agent: Dreamer, batch: Batch, context: int, num: int) -> FreeDreams:
    """Let the policy act in `num` dreams from frame `context` of the batch's first window.

    They last as long as the window does. Call it within `undisturbed`.
    """
    horizon = batch.act.shape[1] - context
    past = batch.rows(torch.zeros(num, dtype=torch.int64)).first(context)
    state, obs = agent.world_model.start(past), at(past.obs, -1)
    outputs, _, carry = agent.judge(obs, agent.watch(past))
    frames, rews, ends = [], [], []
    for _ in range(horizon):
        act = agent.head.sample(outputs)
        state, prediction = agent.world_model.imagine(state, act)
        outputs, _, carry = agent.judge_dream(state, carry)
        obs = shown(agent.world_model, obs, act, state)
        frames.append(obs)
        rews.append(prediction.rew)
        ends.append(prediction.end)
    seen = at(past.obs, slice(1, None))
    nothing = np.zeros((num, context))
    rew, end = _host(torch.stack(rews, 1).float()), _host(torch.stack(ends, 1))
    before = np.cumsum(end, 1) - end > 0
    return FreeDreams(
        frames=_after_real(seen, frames),
        returns=np.concatenate([nothing, np.cumsum(np.where(before, 0.0, rew), 1)], 1),
        ended=np.concatenate([nothing > 0, before], 1),
        num_seen=context,
    )


def shown(world_model: WorldModel, obs: Obs, act: Tensor, state: State) -> Obs:
    """The frame (B,*O) of an imagined moment, drawn here where imagination drew none.

    obs, act: the frame before, and what was done there.
    """
    return world_model.draw(obs, act, state.tokens) if state.obs is None else state.obs


def _after_real(seen: Obs, frames: Sequence[Obs]) -> Obs:
    """Imagined frames behind the real ones (B,T,*O) that were seen, on the host."""
    return each(lambda x, y: _host(torch.cat([x, y], 1)), seen, stacked(frames))


def _after(blank: int, columns: list[Tensor]) -> np.ndarray:
    """Columns (B,) side by side, behind `blank` columns of NaN."""
    numbers = _host(torch.stack(columns, 1).float())
    return np.concatenate([np.full((len(numbers), blank), np.nan, np.float32), numbers], 1)


def _host(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
