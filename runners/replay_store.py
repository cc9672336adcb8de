"""Replay on disk, upper half: all streams of a run under one manifest.

`manifest.json` holds the committed length of each stream and the episode table, and is always
replaced whole, after the data it speaks of. What lies behind the committed lengths is cut when
the folder is opened for writing, so a crash at any moment loses only what was not committed.
NumPy only, no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from envs.experience import Segment
from envs.spaces import ActSpace, ObsSpace, Space, describe
from envs.trees import each, leaves
from runners.durable import disk_full_explained, sync_file, write_atomic
from runners.errors import UserError
from runners.replay_spaces import from_json, to_json
from runners.replay_streams import EpisodeTable, Stream

FORMAT = 2


@dataclass(frozen=True)
class Episode:
    """A stored episode: its number, its environment, its steps, and whether it may still grow."""

    index: int
    env: int
    length: int
    running: bool


class Store:
    """The episodes of a run on disk. Build one with `Store.open` or `Store.read`."""

    def __init__(
        self, folder: Path, num_streams: int, obs: Space, act: ActSpace, *, writable: bool
    ) -> None:
        self.folder, self.obs, self.act, self.writable = folder, obs, act, writable
        with disk_full_explained(folder):
            self.streams = [
                Stream(folder, index, obs, act, writable=writable) for index in range(num_streams)
            ]
        self.table = EpisodeTable(num_streams)
        self._committed = False

    @classmethod
    def open(cls, folder: Path, *, num_streams: int, obs: Space, act: ActSpace) -> Store:
        """For the one process that adds to it; makes the folder, cuts what was not committed."""
        folder.mkdir(parents=True, exist_ok=True)
        manifest = _read_manifest(folder)
        asked = _words(num_streams, obs, act)
        held = asked if manifest is None else _words(*_contents(manifest, folder))
        if held != asked:
            raise UserError(f"replay {folder} holds {held}; the settings ask for {asked}")
        store = cls(folder, num_streams, obs, act, writable=True)
        if manifest is None and any(stream.holds(1) for stream in store.streams):
            raise UserError(f"replay {folder} is damaged: manifest.json is missing")
        if manifest is not None:
            store._load(manifest)
        for stream in store.streams:
            stream.cut(stream.length)
        store.commit()
        return store

    @classmethod
    def read(cls, folder: Path) -> Store:
        """For looking at committed episodes, also while another process adds more."""
        manifest = _read_manifest(folder)
        if manifest is None:
            raise UserError(f"no replay in {folder} (manifest.json is missing)")
        try:
            store = cls(folder, *_contents(manifest, folder), writable=False)
        except FileNotFoundError as error:
            raise UserError(f"replay {folder} is damaged: {error.filename} is missing") from error
        store._load(manifest)
        return store

    @property
    def lengths(self) -> list[int]:
        """Frames of each stream."""
        return [stream.length for stream in self.streams]

    def append(self, env: int, segment: Segment) -> None:
        """Add what environment `env` lived through; on a full disk nothing is added."""
        assert self.writable
        self._check(env, segment)
        stream, start = self.streams[env], self.streams[env].length
        with disk_full_explained(self.folder):
            stream.append(segment)
        self._committed = False
        if segment.first:
            self.table.begin(env, start)
        self.table.extend(env, len(segment.act))
        if len(segment.act) and (segment.end[-1] or segment.trunc[-1]):
            self.table.close(env, cut=False)

    def close_open(self, env: int) -> None:
        """End the running episode of `env`, if any, by truncation after its last step."""
        if self.table.running[env] >= 0:
            self.table.close(env, cut=True)
            self._committed = False

    def commit(self) -> None:
        """Make everything added so far durable: the data first, then the manifest."""
        if self._committed or not self.writable:
            return
        with disk_full_explained(self.folder):
            for stream in self.streams:
                stream.sync()
            sync_file(self.folder)
        state = {name: values.tolist() for name, values in self.table.state_dict().items()}
        manifest = {
            "format": FORMAT,
            "obs": to_json(self.obs),
            "act": to_json(self.act),
            "lengths": self.lengths,
            "episodes": state,
        }
        write_atomic(self.folder / "manifest.json", json.dumps(manifest))
        self._committed = True

    def cut(self, lengths: list[int], table: Mapping[str, Any]) -> None:
        """Go back to an earlier moment of this store: its `lengths` and its episode table."""
        assert self.writable
        try:
            earlier = EpisodeTable.from_state(table, lengths)
            count = len(earlier.rows)
            same = all(
                np.array_equal(earlier.rows[name], self.table.rows[name][:count])
                for name in ("stream", "start")
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"the checkpoint's account of {self.folder} is broken") from error
        if not same or any(new > old for new, old in zip(lengths, self.lengths, strict=True)):
            raise UserError(
                f"replay {self.folder} ({self.lengths} frames) does not hold what the checkpoint "
                f"was trained on ({lengths} frames)"
            )
        self.table = earlier
        for stream, length in zip(self.streams, lengths, strict=True):
            stream.length = length
        self._committed = False
        self.commit()
        for stream, length in zip(self.streams, lengths, strict=True):
            stream.cut(length)

    def episodes(self) -> list[Episode]:
        """All episodes, oldest first."""
        running = set(self.table.running)
        return [
            Episode(index, int(row["stream"]), int(row["length"]), index in running)
            for index, row in enumerate(self.table.rows)
        ]

    def episode(self, index: int) -> Segment:
        """A copy of a whole episode, as far as it is known."""
        row = self.table.rows[index]
        stream, start, length = self.streams[row["stream"]], int(row["start"]), int(row["length"])
        steps = stream.steps()[start : start + length]
        trunc = steps["trunc"].copy()
        trunc[-1:] |= row["cut"]
        return Segment(
            obs=each(lambda x: x[start : start + length + 1].copy(), stream.frames()),
            act=steps["act"].astype(self.act.dtype),
            rew=steps["rew"].copy(),
            end=steps["end"].copy(),
            trunc=trunc,
            first=True,
        )

    def close(self) -> None:
        """Close the files."""
        for stream in self.streams:
            stream.close()

    def _check(self, env: int, segment: Segment) -> None:
        """Segments come from the collector, so a fault here is a fault of the program.

        Weights that learn from a number that is not finite would not be finite again.
        """
        steps = len(segment.act)
        each(lambda *one: _check_numbers(steps + 1, *one), self.obs, segment.obs)
        _check_numbers(steps, self.act, segment.act)
        assert len(segment.rew) == len(segment.end) == len(segment.trunc) == steps
        assert np.isfinite(segment.rew).all(), f"environment {env}: a reward is not finite"
        assert not (segment.end[:-1].any() or segment.trunc[:-1].any()), "ends before its last step"
        if not segment.first:
            assert self.table.running[env] >= 0, f"environment {env} has no running episode"
            stream = self.streams[env]
            joins = each(
                lambda new, old: np.array_equal(new[0], old[stream.length - 1]),
                segment.obs,
                stream.frames(),
            )
            assert all(leaves(joins)), f"environment {env}: frames do not join"

    def _load(self, manifest: dict[str, Any]) -> None:
        try:
            lengths = [int(length) for length in manifest["lengths"]]
            self.table = EpisodeTable.from_state(manifest["episodes"], lengths)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"replay {self.folder} is damaged: manifest.json: {error}") from error
        for index, (stream, length) in enumerate(zip(self.streams, lengths, strict=True)):
            if not stream.holds(length):
                raise UserError(
                    f"replay {self.folder} is damaged: stream {index:02d} is shorter than the "
                    f"{length} frames that manifest.json says were written"
                )
            stream.length = length
        self._committed = True


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / "manifest.json"
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"replay {folder} is damaged: manifest.json is not JSON") from error
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise UserError(f"replay {folder} is damaged: manifest.json has no format")
    if manifest["format"] != FORMAT:
        raise UserError(
            f"replay {folder} was made by another version (manifest.json has format "
            f"{manifest['format']}, this version reads {FORMAT}): the run has to be trained anew"
        )
    return manifest


def _contents(manifest: dict[str, Any], folder: Path) -> tuple[int, Space, ActSpace]:
    """Environments, observations and actions."""
    try:
        return len(manifest["lengths"]), from_json(manifest["obs"]), from_json(manifest["act"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"replay {folder} is damaged: manifest.json: {error}") from error


def _words(num_streams: int, obs: Space, act: ActSpace) -> str:
    unnamed = from_json(to_json(act))
    return (
        f"{num_streams} environments, observations [{describe(obs)}], actions [{describe(unnamed)}]"
    )


def _check_numbers(count: int, space: ObsSpace | ActSpace, array: np.ndarray) -> None:
    assert array.dtype == space.dtype and array.shape == (count, *space.shape)
    assert space.dtype.kind != "f" or np.isfinite(array).all(), "a number is not finite"
