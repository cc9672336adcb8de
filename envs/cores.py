"""How many processors this process may use. Standard library only."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Those that the process is allowed to run on, where the system tells (Linux); else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
