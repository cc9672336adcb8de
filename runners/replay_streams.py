"""Replay on disk, lower half: append-only streams of frames and steps, and the episode table.

An episode of T steps is T+1 frames in a row of one stream. Record f of the steps file belongs
to frame f: what was done there and what came of it. The record of an episode's last frame is
filler, written only when the next episode of the stream begins; hence a stream of F frames
holds F-1 records, and one number is its whole length. Of several observations each has its own
file of frames. NumPy only, no torch.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.experience import Segment
from envs.spaces import ActSpace, Obs, Space
from envs.trees import each, leaves
from runners.replay_spaces import frame_files, step_record

EPISODE = np.dtype([("stream", "<i4"), ("start", "<i8"), ("length", "<i8"), ("cut", "?")])


class GrowingFile:
    """A file of equal records that only grows; writes go to the OS, reads through a memory map."""

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], writable: bool):
        self.path = path
        self._dtype, self._shape = dtype, shape
        self.record_bytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        self._descriptor = os.open(path, flags, 0o644)
        self.close = weakref.finalize(self, os.close, self._descriptor)
        self._mapped: NDArray[Any] = np.zeros((0, *shape), dtype)

    def records_on_disk(self) -> int:
        """Whole records in the file, committed or not."""
        return os.fstat(self._descriptor).st_size // self.record_bytes

    def write(self, index: int, records: NDArray[Any]) -> None:
        """Write from record `index` on; what a failed write left there is written over."""
        assert records.dtype == self._dtype and records.shape[1:] == self._shape
        rest = np.ascontiguousarray(records).reshape(-1).view(np.uint8).data
        offset = index * self.record_bytes
        while rest:
            written = os.pwrite(self._descriptor, rest, offset)
            offset, rest = offset + written, rest[written:]

    def read(self, length: int) -> NDArray[Any]:
        """The first `length` records or more, read-only and without a copy."""
        if len(self._mapped) < length:
            shape = (length, *self._shape)
            self._mapped = np.asarray(np.memmap(self.path, self._dtype, mode="r", shape=shape))
        return self._mapped

    def truncate(self, length: int) -> None:
        """Drop everything from record `length` on."""
        self._mapped = np.zeros((0, *self._shape), self._dtype)
        os.ftruncate(self._descriptor, length * self.record_bytes)

    def sync(self) -> None:
        """Wait until the content is on disk."""
        os.fsync(self._descriptor)


class Stream:
    """What one environment slot lived through, episode after episode. `length` is in frames."""

    def __init__(
        self, folder: Path, index: int, obs: Space, act: ActSpace, *, writable: bool
    ) -> None:
        files = [
            GrowingFile(folder / name, space.dtype, space.shape, writable)
            for name, space in frame_files(obs, index)
        ]
        self._frames = dict(zip(obs, files, strict=True)) if isinstance(obs, dict) else files[0]
        self._step = step_record(act)
        self._steps = GrowingFile(folder / f"steps-{index:02d}.bin", self._step, (), writable)
        self._files = [*files, self._steps]
        self.length = 0
        self._unsynced = writable

    def holds(self, length: int) -> bool:
        """Whether the files are long enough for `length` frames."""
        enough_steps = self._steps.records_on_disk() >= length - 1
        return enough_steps and all(
            file.records_on_disk() >= length for file in leaves(self._frames)
        )

    def append(self, segment: Segment) -> None:
        """Add a segment; where a write fails, the stream stays as it was."""
        filler = int(segment.first and self.length > 0)
        steps = np.zeros(filler + len(segment.act), self._step)
        for name in ("act", "rew", "end", "trunc"):
            steps[name][filler:] = getattr(segment, name)
        self._unsynced = True
        known = int(not segment.first)
        each(lambda file, obs: file.write(self.length, obs[known:]), self._frames, segment.obs)
        self._steps.write(max(self.length - 1, 0), steps)
        self.length += len(segment.act) + 1 - known

    def frames(self) -> Obs:
        """All frames (at least `length` of them, *O)."""
        return each(lambda file: file.read(self.length), self._frames)

    def steps(self) -> NDArray[np.void]:
        """All step records (at least `length - 1` of them)."""
        return self._steps.read(max(self.length - 1, 0))

    def cut(self, length: int) -> None:
        """Forget everything from frame `length` on."""
        self.length = length
        each(lambda file: file.truncate(length), self._frames)
        self._steps.truncate(max(length - 1, 0))
        self._unsynced = True

    def sync(self) -> None:
        """Wait until all that was appended is on disk."""
        if self._unsynced:
            for file in self._files:
                file.sync()
            self._unsynced = False

    def close(self) -> None:
        """Close the files; arrays handed out stay readable."""
        for file in self._files:
            file.close()

    def bytes(self) -> int:
        """Size of what is stored."""
        frame = sum(file.record_bytes for file in leaves(self._frames))
        return self.length * frame + max(self.length - 1, 0) * self._steps.record_bytes


class EpisodeTable:
    """Where each episode lies, in order of their beginnings.

    `running[s]` is the episode that stream s goes on with, or -1. A `cut` episode was closed
    from outside: its last step counts as truncated though its record does not say so.
    """

    def __init__(self, num_streams: int) -> None:
        self._rows = np.zeros(64, EPISODE)
        self._size = 0
        self.running = [-1] * num_streams

    @property
    def rows(self) -> NDArray[np.void]:
        """One EPISODE record for each episode; a view."""
        return self._rows[: self._size]

    def begin(self, stream: int, start: int) -> None:
        """A new episode begins at frame `start`; one still running there stays as it is."""
        if self._size == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._rows[self._size] = (stream, start, 0, False)
        self.running[stream] = self._size
        self._size += 1

    def extend(self, stream: int, steps: int) -> None:
        """The running episode of the stream grew."""
        self._rows["length"][self.running[stream]] += steps

    def close(self, stream: int, *, cut: bool) -> None:
        """The running episode of the stream is over."""
        self._rows["cut"][self.running[stream]] = cut
        self.running[stream] = -1

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything but the lengths, which follow from the lengths of the streams."""
        state = {name: self.rows[name].copy() for name in ("stream", "start", "cut")}
        return state | {"running": np.array(self.running, np.int64)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], stream_lengths: list[int]) -> EpisodeTable:
        """The table of streams that hold `stream_lengths` frames.

        Raises ValueError where the two contradict each other.
        """
        table = cls(len(stream_lengths))
        rows = np.zeros(len(state["start"]), EPISODE)
        for name in ("stream", "start", "cut"):
            rows[name] = state[name]
        for index, length in enumerate(stream_lengths):
            mine = np.flatnonzero(rows["stream"] == index)
            edges = np.append(rows["start"][mine], length)
            if edges[0] != 0 or (np.diff(edges) < 1).any():
                raise ValueError(f"stream {index}: episodes {edges.tolist()[:8]}... do not fit")
            rows["length"][mine] = np.diff(edges) - 1
        table._rows = np.concatenate([rows, np.zeros(64, EPISODE)])
        table._size = len(rows)
        table.running = [int(episode) for episode in state["running"]]
        if len(table.running) != len(stream_lengths) or max(table.running, default=-1) >= len(rows):
            raise ValueError("the running episodes do not fit")
        return table
