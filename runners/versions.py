"""What a run ran on: package versions, the commit, the machine. No torch."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from envs.cores import available_cores

_SOURCE = Path(__file__).resolve().parent.parent


def describe_versions() -> dict[str, Any]:
    """For versions.json: enough to set up the same again."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": available_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpu_names(),
        "git": _git_commit(),
        "packages": dict(sorted({dist.name: dist.version for dist in distributions()}.items())),
    }


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """For a file of measurements: what made them, and where."""
    versions = describe_versions()
    return {
        "command": shlex.join(command),
        "commit": versions["git"],
        "machine": {k: versions[k] for k in ("cpu", "cores", "memory_gib", "gpus")},
        "torch": versions["packages"].get("torch"),
    }


def provenance_text(found: Mapping[str, Any]) -> str:
    """The same for a reader of Markdown."""
    machine = found["machine"]
    return (
        f"```\n{found['command']}\n```\n\n"
        f"commit {found['commit'] or 'unknown'}; {machine['cpu']}, {machine['cores']} cores; "
        f"torch {found['torch']}"
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _gpu_names() -> list[str]:
    """NVIDIA GPUs by the driver's own files, as asking torch would load it."""
    found = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = [line for path in found for line in path.read_text(encoding="utf-8").splitlines()]
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:")]


def _git_commit() -> str | None:
    """The commit of a source checkout, with `+changes` where files differ from it."""
    if not (_SOURCE / ".git").exists():
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_SOURCE), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
