"""How fast each part of a run is on this machine: what `tokendream bench` prints.

Each part is measured in a process of its own, one after the other, so that each has its own peak
of memory. Nothing here imports torch: a process that is started counts the memory of its starter
as its own peak.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from envs.cores import available_cores
from runners.bench_grid import Grid, grid_json, grid_text
from runners.bench_table import Row, comparable, references, table_text
from runners.errors import UserError
from runners.settings.config import Config
from runners.settings.options import BenchOptions
from runners.versions import describe_versions

BUSY = 0.4
"""Load for each core, before the first measurement, from which the reader is warned."""


@dataclass(frozen=True)
class Measured:
    """What one process found out: its rows or its grid, its hardware in words, torch's version."""

    rows: list[Row]
    hardware: str
    device: str
    torch: str
    grid: Grid | None = None


@dataclass(frozen=True)
class Failed:
    """A part that could not be measured, and why."""

    part: str
    reason: str


def main(config: Config, options: BenchOptions) -> None:
    """Measure parts with the settings of a run, print the table, write it to a JSON file.

    A part too long to be timed twice may take up to twice the seconds. Raises UserError where
    the file cannot be written, before anything is measured.
    """
    json_file = None if options.json_file is None else Path(options.json_file)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise UserError(f"json_file={json_file}: there is no folder {json_file.parent}")
    load = os.getloadavg()[0]
    done: list[Measured] = []
    failed: list[Failed] = []
    for part in options.parts:
        print(f"{part} ...", end=" ", file=sys.stderr, flush=True)
        begin = time.perf_counter()
        result = run_part(part, config, options.seconds)
        print(f"{time.perf_counter() - begin:.0f} s", file=sys.stderr)
        if isinstance(result, Measured):
            done.append(result)
        else:
            failed.append(result)
    if not done:
        raise UserError("; ".join(f"{f.part}: {f.reason}" for f in failed))
    about = _about(config, done[0], load)
    rows = with_shares([row for measured in done for row in measured.rows])
    grids = [measured.grid for measured in done if measured.grid]
    compare = comparable(config, done[0].device)
    print("\n".join(f"{name:9} {text}" for name, text in about.items()))
    if rows:
        print(f"\n{table_text(rows, compare, one_thread=config.threads == 1)}")
    for grid in grids:
        print(f"\n{grid_text(grid)}")
    if load > BUSY * available_cores():
        print("other programs are running: seconds are too long; threads=1 suffers least")
    for f in failed:
        print(f"not measured: {f.part}: {f.reason}")
    if json_file is not None:
        found: dict[str, Any] = {"about": about, "rows": [asdict(row) for row in rows]}
        for grid in grids:
            found["dynamics"] = grid_json(grid)
        found["failed"] = [asdict(f) for f in failed]
        if compare:
            found["reference"] = {name: asdict(ref) for name, ref in references().items()}
        json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def run_part(part: str, config: Config, seconds: float) -> Measured | Failed:
    """Measure one part in a fresh process; one that runs out of memory is told, not raised."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        try:
            return pool.submit(_measure, part, config, seconds).result()
        except MemoryError as error:
            return Failed(part, str(error) or "out of memory")
        except BrokenProcessPool:
            return Failed(part, "its process was killed, probably for want of memory")


def with_shares(rows: Sequence[Row]) -> list[Row]:
    """Rows of replay with their share of the update that they feed."""
    updates = {row.name.removesuffix(" update"): row.value for row in rows}
    out = []
    for row in rows:
        update = updates.get(row.name.removeprefix("replay batch, "))
        if row.name.startswith("replay batch, ") and update:
            row = replace(row, note=f"{100 * row.value / update:.2g} % of an update")
        out.append(row)
    return out


def _measure(part: str, config: Config, seconds: float) -> Measured:
    from runners.bench_parts import measure

    return measure(part, config, seconds)


def _about(config: Config, measured: Measured, load: float) -> dict[str, str]:
    versions: dict[str, Any] = describe_versions()
    presets = config.presets
    return {
        "settings": f"env={presets.env} agent={presets.agent} size={presets.size}",
        "machine": f"{versions['cpu']}, {versions['cores']} cores, {versions['memory_gib']} GiB"
        f"; load {load:.1f} at the start",
        "hardware": measured.hardware,
        "torch": measured.torch,
        "commit": versions["git"] or "-",
    }
