"""Replay: segments of experience in, batches of windows out.

Episodes are drawn by how seldom a component has drawn them before (delta-iris, after Curious
Replay [Kauvar et al. 2023]): p(i) ~ (1 / (1 + n_i))^alpha. Where the reference biases the start
states of imagination and leaves padding unmarked, this draws them uniformly and marks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from envs.experience import Segment
from envs.spaces import ActSpace, Image, Obs, ObsSpace, Space
from envs.trees import each, leaves
from runners.errors import UserError
from runners.replay_spaces import step_record
from runners.replay_store import Episode, Store
from runners.replay_streams import EPISODE
from worldmodels.batch import Batch

Ints = NDArray[np.int64]


class Replay:
    """All experience of a run, kept in `folder`, which it makes or goes on with.

    `priorities` names the components that draw from it, each with its exponent alpha.
    `length_exponent` multiplies the priority by length**length_exponent: 0 draws episodes
    alike however long they are, 1 draws steps alike. `pin_memory` is for copies to a GPU.
    Only one process may write to a folder; others look at it through `Store.read`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        num_streams: int,
        obs: Space,
        act: ActSpace,
        priorities: Mapping[str, float],
        seed: int,
        length_exponent: float = 0.0,
        pin_memory: bool = False,
    ) -> None:
        self._store = Store.open(folder, num_streams=num_streams, obs=obs, act=act)
        self._priorities = dict(priorities)
        self._length_exponent = length_exponent
        self._pin_memory = pin_memory
        self._counts: dict[str, Ints] = {name: np.zeros(0, np.int64) for name in priorities}
        self._rng = np.random.Generator(np.random.PCG64(seed))

    @property
    def num_steps(self) -> int:
        """Steps stored, of running episodes too."""
        return int(self._store.table.rows["length"].sum())

    @property
    def num_episodes(self) -> int:
        """Episodes stored, running ones included."""
        return len(self._store.table.rows)

    @property
    def bytes_on_disk(self) -> int:
        """Size of the frames and steps stored."""
        return sum(stream.bytes() for stream in self._store.streams)

    def add(self, env: int, segment: Segment) -> None:
        """Append what environment `env` lived through; it can be drawn at once.

        `segment.first` begins a new episode; one that was still running stays as it is, without
        `end` or `trunc`. Raises UserError where the disk is full, with nothing added.
        """
        self._store.append(env, segment)

    def close_open(self, env: int) -> None:
        """End the running episode of `env`, if any, by truncation after its last step."""
        self._store.close_open(env)

    def commit(self) -> None:
        """Make durable what was added; cheap where nothing was."""
        self._store.commit()

    def clear(self) -> None:
        """Forget everything, on disk too: for a run that died before its first checkpoint."""
        empty: dict[str, list[int]] = {"stream": [], "start": [], "cut": []}
        running = [-1] * len(self._store.streams)
        self._store.cut([0] * len(running), empty | {"running": running})
        self._counts = {name: np.zeros(0, np.int64) for name in self._priorities}

    def close(self) -> None:
        """Close the files without a commit."""
        self._store.close()

    def episodes(self) -> list[Episode]:
        """All episodes, oldest first."""
        return self._store.episodes()

    def episode(self, index: int) -> Segment:
        """A copy of a whole episode, as far as it is known."""
        return self._store.episode(index)

    def numbers(self, most: int) -> Obs:
        """At most `most` of all frames without their pictures, (N,*O), evenly spread over them.

        Draws no random number.
        """
        lengths = np.array(self._store.lengths)
        total, ends = int(lengths.sum()), np.cumsum(lengths)
        which = np.linspace(0, total - 1, min(most, total)).astype(np.int64)
        parts = []
        for stream, end, length in zip(self._store.streams, ends, lengths, strict=True):
            here = which[(which >= end - length) & (which < end)] - (end - length)
            shown, spaces = stream.frames(), self._store.obs
            if isinstance(spaces, dict):
                shown = {k: shown[k] for k, s in spaces.items() if not isinstance(s, Image)}
            parts.append(each(lambda x, here=here: x[here], shown))
        return each(lambda *xs: torch.from_numpy(np.concatenate(xs)), *parts)

    def sample_windows(
        self, component: str, batch: int, frames: int, *, count: bool = True
    ) -> Batch:
        """Windows of `frames` frames around a uniformly drawn step, padded on both sides.

        The step lies anywhere in the window, so windows reach past both ends of short episodes.
        `count=False` draws by the priorities but leaves them unchanged.
        """
        assert frames > 1, "a window needs two frames"
        steps = frames - 1
        episodes = self._draw(component, batch, count)
        lengths = episodes["length"]
        first = self._rng.integers(0, lengths) - self._rng.integers(0, steps, size=batch)
        return self._gather(episodes, first, np.minimum(first + steps, lengths), steps)

    def sample_starts(
        self, component: str, batch: int, context: int, *, count: bool = True
    ) -> Batch:
        """Starts of imagination, obs[:, -1], after `context` real steps padded on the left.

        A start is uniform over the frames of the episode that were acted from, which leaves
        out its final frame.
        """
        episodes = self._draw(component, batch, count)
        start = self._rng.integers(0, episodes["length"])
        return self._gather(episodes, start - context, start, context)

    def tails(self, frames: int) -> Batch:
        """The last `frames` frames of each running episode, one row an environment.

        obs[:, -1] is the frame to act on next; a row without a running episode is all black.
        """
        running = np.array(self._store.table.running, np.int64)
        episodes = np.zeros(len(running), EPISODE)
        episodes["length"] = -1
        episodes[running >= 0] = self._store.table.rows[running[running >= 0]]
        last = episodes["length"]
        return self._gather(episodes, last - (frames - 1), last, frames - 1)

    def state_dict(self) -> dict[str, Any]:
        """Counts, random state, and which part of the folder is meant; commits first.

        The folder may grow afterwards: `load_state_dict` cuts it back.
        """
        self.commit()
        return {
            "lengths": np.array(self._store.lengths, np.int64),
            "episodes": self._store.table.state_dict(),
            "counts": {name: self._counts_of(name).copy() for name in self._priorities},
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to the moment of `state_dict`: what was added since is cut, on disk too.

        Raises UserError where the folder is not the one, or holds less than it did.
        """
        missing = set(self._priorities) ^ set(state["counts"])
        lengths = [int(length) for length in state["lengths"]]
        if missing or len(lengths) != len(self._store.streams):
            raise UserError(
                f"the checkpoint drew for {sorted(state['counts'])} from {len(lengths)} "
                f"environments, the settings ask for {sorted(self._priorities)} and "
                f"{len(self._store.streams)}"
            )
        self._store.cut(lengths, state["episodes"])
        self._counts = {
            name: np.array(counts, np.int64) for name, counts in state["counts"].items()
        }
        self._rng.bit_generator.state = state["rng"]

    def _counts_of(self, component: str) -> Ints:
        """How often each episode was drawn, with zeros for those that are new."""
        counts = self._counts[component]
        new = self.num_episodes - len(counts)
        if new:
            counts = np.concatenate([counts, np.zeros(new, np.int64)])
            self._counts[component] = counts
        return counts

    def _draw(self, component: str, batch: int, count: bool) -> NDArray[np.void]:
        """EPISODE records, drawn with replacement by the priorities."""
        lengths = self._store.table.rows["length"]
        counts = self._counts_of(component)
        if not lengths.any():
            raise ValueError(f"replay {self._store.folder} is empty, nothing to draw")
        by_count = np.arange(1.0, counts.max() + 2.0) ** -self._priorities[component]
        weights = by_count[counts] * (lengths > 0)
        if self._length_exponent:
            weights *= lengths.astype(np.float64) ** self._length_exponent
        ladder = np.cumsum(weights)
        drawn = np.searchsorted(ladder, self._rng.random(batch) * ladder[-1], side="right")
        drawn = np.minimum(drawn, np.flatnonzero(lengths)[-1])
        if count:
            np.add.at(counts, drawn, 1)
        return self._store.table.rows[drawn]

    def _gather(self, episodes: NDArray[np.void], first: Ints, last: Ints, num_steps: int) -> Batch:
        """Frames first..last of each episode, in rows that begin at `first` (below 0: padding).

        `episodes` holds EPISODE records; `last` = -1 makes a row of padding alone.
        """
        padding, begin = np.maximum(-first, 0), np.maximum(first, 0)
        shown = last - begin + 1
        rows, act = len(episodes), self._store.act
        obs = each(lambda space: self._room((rows, num_steps + 1), space), self._store.obs)
        shown_in = [tensor.numpy() for tensor in leaves(obs)]
        steps = np.zeros((rows, num_steps), step_record(act))
        stored = [(leaves(stream.frames()), stream.steps()) for stream in self._store.streams]
        places = zip(
            episodes["stream"].tolist(),
            (episodes["start"] + begin).tolist(),
            padding.tolist(),
            (padding + shown).tolist(),
            strict=True,
        )
        for row, (stream, at, left, right) in enumerate(places):
            stored_frames, stored_steps = stored[stream]
            for frames, source in zip(shown_in, stored_frames, strict=True):
                frames[row, :left] = 0
                frames[row, right:] = 0
                frames[row, left:right] = source[at : at + right - left]
            if right > left:
                steps[row, left : right - 1] = stored_steps[at : at + right - left - 1]
        closed = np.flatnonzero(episodes["cut"] & (last == episodes["length"]) & (shown > 1))
        steps["trunc"][closed, (padding + shown - 2)[closed]] = True
        column = np.arange(num_steps)
        valid = (column >= padding[:, None]) & (column < (padding + shown - 1)[:, None])
        return Batch(
            obs=obs,
            act=self._tensor(steps["act"].astype(act.dtype)),
            rew=self._tensor(steps["rew"].copy()),
            end=self._tensor(steps["end"].copy()),
            trunc=self._tensor(steps["trunc"].copy()),
            valid=self._tensor(valid),
        )

    def _room(self, batch: tuple[int, int], space: ObsSpace) -> torch.Tensor:
        """Frames (B,T+1,*O) of anything."""
        dtype: torch.dtype = getattr(torch, space.dtype.name)
        return torch.empty((*batch, *space.shape), dtype=dtype, pin_memory=self._pin_memory)

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(values)
        return tensor.pin_memory() if self._pin_memory else tensor
