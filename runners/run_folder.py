"""Run folders: where everything about a run is kept, how to name one, who works on it. No torch.

ROOT/<env>/<agent>/<date>_<time>_s<seed>_<4 letters>/
    config.yaml      the resolved settings         metrics.jsonl tb/   every logged number
    command.txt      each command that worked on it   checkpoints/0001000/...
    versions.json    packages, commit, machine     replay/   all experience
    summary.json     state and result at a glance  media/  eval/
    error.txt        the last failure, if any
    lock             held by the process that trains
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import functools
import json
import os
import secrets
import shlex
import socket
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from runners.durable import disk_full_explained, write_atomic
from runners.errors import UserError
from runners.versions import describe_versions

ROOT = Path("runs")
"""Where commands look for a run by its name."""
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_held: set[int] = set()


@dataclass(frozen=True)
class RunInfo:
    """A run at a glance.

    `status` is running, finished, interrupted (a run whose process was killed is that too) or
    failed (see error.txt), or damaged where summary.json cannot be read. `started` is an ISO time.
    """

    path: Path
    env: str
    agent: str
    seed: int | None
    steps: int
    status: str
    last_return: float | None
    started: str


def create_run(
    root: Path,
    *,
    env: str,
    agent: str,
    seed: int,
    config: str,
    command: Sequence[str],
    name: str | None = None,
) -> Path:
    """Make a run folder with its config.yaml (the text `config`) and the other small files.

    `name` replaces the folder's made-up name. Raises UserError where the name is taken or
    the folder cannot be made. The folder appears whole or not at all.
    """
    now = datetime.now()
    if name is None:
        name = _new_name(now, seed)
    elif Path(name).name != name or name.startswith(".") or name in ("", "last"):
        raise UserError(f"name={name}: expected a plain folder name, without a dot in front")
    folder = root / env / agent / name
    if folder.exists():
        raise UserError(f"name={name}: {folder} exists; resume it, or choose another name")
    new = folder.with_name(f".new-{folder.name}")
    summary = {
        "env": env,
        "agent": agent,
        "seed": seed,
        "started": now.isoformat(timespec="seconds"),
        "status": "running",
        "steps": 0,
        "last_return": None,
    }
    try:
        with disk_full_explained(root):
            new.mkdir(parents=True, exist_ok=True)
            write_atomic(new / "config.yaml", config)
            write_atomic(new / "versions.json", json.dumps(describe_versions(), indent=2))
            write_atomic(new / "summary.json", json.dumps(summary, indent=2))
            note_command(new, command)
            os.rename(new, folder)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}") from error
    return folder


def note_command(run: Path, command: Sequence[str]) -> None:
    """Append a command to command.txt, with the time."""
    line = f"{datetime.now().isoformat(timespec='seconds')}  {shlex.join(command)}\n"
    with (
        disk_full_explained(run),
        (run / "command.txt").open("a", encoding="utf-8") as file,
    ):
        file.write(line)


def read_summary(run: Path) -> dict[str, Any]:
    """The content of summary.json; UserError where it is missing or damaged."""
    path = run / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{run} is not a run folder: summary.json is missing") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: it is not JSON") from error
    if not isinstance(summary, dict):
        raise UserError(f"{path} is damaged: expected an object")
    return summary


def write_summary(run: Path, **changes: Any) -> None:
    """Change fields of summary.json; the others stay. `status steps last_return` are listed."""
    write_atomic(run / "summary.json", json.dumps(read_summary(run) | changes, indent=2))


@contextlib.contextmanager
def failure_noted(run: Path) -> Iterator[None]:
    """Where work on a run ends in an exception, say so in summary.json and RUN/error.txt."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        words = str(error).strip() or type(error).__name__
        # A full disk may have been the cause; the error itself must be told in any case.
        with contextlib.suppress(OSError, UserError):
            if not stopped:
                write_atomic(run / "error.txt", traceback.format_exc())
            status = "interrupted" if stopped else "failed"
            write_summary(run, status=status, error=words.splitlines()[-1])
        raise


def list_runs(root: Path) -> list[RunInfo]:
    """All runs under `root`, oldest first."""
    runs = [_info(path.parent) for path in root.glob("*/*/[!.]*/config.yaml")]
    return sorted(runs, key=lambda run: (run.started, run.path.name))


def find_run(text: str, root: Path) -> Path:
    """The run that `text` means: a folder, a unique prefix of a name, or `last`.

    The prefix may also be of the path under `root`. Raises UserError with the candidates.
    """
    path = Path(text)
    if (path / "config.yaml").is_file():
        return path
    runs = [run.path for run in list_runs(root)]
    if not runs:
        raise UserError(f"run {text!r}: no run under {root} yet; `tokendream train` starts one")
    if text == "last":
        return runs[-1]
    places = {run: run.relative_to(root).as_posix() for run in runs}
    text = text.strip("/")
    found = [run for run in runs if text in (run.name, places[run])]
    found = found or [run for run in runs if run.name.startswith(text) and text]
    found = found or [run for run in runs if places[run].startswith(text) and text]
    if len(found) == 1:
        return found[0]
    if found:
        shown = [places[run] for run in found[-8:]]
        more = f" and {len(found) - 8} older" if len(found) > 8 else ""
        raise UserError(f"run {text!r} means {len(found)} runs: {', '.join(shown)}{more}")
    near = difflib.get_close_matches(text, [run.name for run in runs], n=3, cutoff=0.4)
    near = near or [run.name for run in runs[-3:]]
    reason = "that folder has no config.yaml" if path.is_dir() else f"no such run under {root}"
    raise UserError(f"run {text!r}: {reason}; did you mean {' or '.join(near)}, or last?")


def run_word(run: Path) -> str:
    """What to type as RUN where nothing else is said: the name, or the path if elsewhere."""
    return run.name if run.is_relative_to(ROOT) else str(run)


@contextlib.contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Hold the run for this process; UserError names the process that has it already.

    The system frees the lock with the process, however it dies; forked workers do not keep it.
    """
    _forget_locks_in_children()
    descriptor = os.open(run / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(descriptor, run)
        _held.add(descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def is_locked(run: Path) -> bool:
    """Whether some process trains this run now."""
    try:
        descriptor = os.open(run / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _acquire(descriptor: int, run: Path) -> None:
    """Try for a second, as `is_locked` elsewhere holds the lock for a moment."""
    give_up = time.monotonic() + 1.0
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > give_up:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace")
                raise UserError(
                    f"run {run.name} is in use by {holder or 'another process'}; "
                    "stop that one first, or start a run of your own"
                ) from error
            time.sleep(0.05)


@functools.cache
def _forget_locks_in_children() -> None:
    def forget() -> None:
        while _held:
            os.close(_held.pop())

    os.register_at_fork(after_in_child=forget)


def _new_name(now: datetime, seed: int) -> str:
    letters = "".join(secrets.choice(_LETTERS) for _ in range(4))
    return f"{now:%Y-%m-%d_%H-%M-%S}_s{seed}_{letters}"


def _info(run: Path) -> RunInfo:
    try:
        summary = read_summary(run)
        status = str(summary.get("status", "interrupted"))
        started = str(summary.get("started", ""))
    except UserError:
        summary, status = {}, "damaged"
        started = datetime.fromtimestamp((run / "config.yaml").stat().st_mtime).isoformat()
    if status == "running" and not is_locked(run):
        status = "interrupted"
    return RunInfo(
        path=run,
        env=str(summary.get("env", run.parent.parent.name)),
        agent=str(summary.get("agent", run.parent.name)),
        seed=summary.get("seed"),
        steps=int(summary.get("steps") or 0),
        status=status,
        last_return=summary.get("last_return"),
        started=started,
    )
