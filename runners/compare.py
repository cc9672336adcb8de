"""Several agents at the same budget, side by side: what `tokendream compare` writes.

compare.md is for readers, compare.json for programs, curves.png for both.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from runners.charts import Line, line_chart
from runners.console import duration
from runners.drawing import BLUE
from runners.durable import folder_for_output, json_text, write_atomic
from runners.errors import UserError
from runners.intervals import interval_over_seeds
from runners.markdown import markdown_table
from runners.media import encode_png
from runners.needs import need_environment
from runners.report import Chance, above, chance_line, play_at_random
from runners.report_text import code, machines, num, span
from runners.results import OWN, SPEEDS, RunResult, check_alike, differences, read_result
from runners.settings.build import dotted, fields
from runners.settings.config import Config
from runners.settings.load import load
from runners.settings.options import CompareOptions
from runners.settings.show import place, shown_value
from runners.suites import axes, steps_text

COLOURS = (BLUE, "#d1495b", "#2e8b57", "#8a5cc2", "#c98a1b", "#3aa6b9", "#7a7a7a", "#b0559a")
MOST_BANDS = 3
"""Agents whose intervals one can still tell apart in one picture."""
SPEED_NAMES = ("collected steps/s", "updates/s", "imagined steps/s")
Groups = Mapping[str, list[RunResult]]


def main(runs: Sequence[Path], options: CompareOptions, command: Sequence[str]) -> Path:
    """Read the runs, play with random actions, write the folder, print the table.

    Raises UserError where runs are not finished, differ in more than their agents, or the folder
    cannot be made.
    """
    results = [read_result(run) for run in runs]
    groups = by_agent(results)
    if options.random:
        need_environment(results[0].config)
    out = folder_for_output(options.out)
    chance = play_at_random(results[0].config, options.random) if options.random else None
    rows = [row(name, those, chance) for name, those in groups.items()]
    rows.sort(key=lambda r: -r["return"])
    found = {
        "command": shlex.join(command),
        "presets": results[0].config.presets.model_dump(exclude={"agent"}),
        "agents": rows,
        "random": None if chance is None else asdict(chance),
    }
    write_atomic(out / "compare.json", json_text(found))
    (out / "curves.png").write_bytes(encode_png(chart(groups, chance)))
    text = markdown(found, groups, chance)
    write_atomic(out / "compare.md", text)
    print(text)
    print(f"Written to {out}")
    return out


def by_agent(results: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """The runs of each agent, by a name: its preset, and what it changes where two share one.

    Raises UserError where the runs differ in anything but agent and seed.
    """
    _check_budget(results)
    groups: dict[str, list[RunResult]] = {}
    for result in results:
        whole = f"{result.config.presets.agent} {_agent(result.config)}"
        groups.setdefault(whole, []).append(result)
    for those in groups.values():
        those.sort(key=lambda result: result.seed)
        check_alike(those)
    named: dict[str, list[RunResult]] = {}
    for those in groups.values():
        name = _name(those[0].config)
        named[name if name not in named else f"{name} ({len(named)})"] = those
    return named


def row(name: str, results: Sequence[RunResult], chance: Chance | None) -> dict[str, Any]:
    """One agent: its mean return over seeds, how fast it was, how long it took."""
    mean, low, high = interval_over_seeds([result.final.ret for result in results])
    speeds = {
        words: float(np.mean([result.speeds[tag] for result in results]))
        for tag, words in zip(SPEEDS, SPEED_NAMES, strict=True)
    }
    return {
        "agent": name,
        "seeds": [result.seed for result in results],
        "returns": [result.final.ret for result in results],
        "return": mean,
        "low": low,
        "high": high,
        "above_random": above(low, chance),
        "steps": results[0].steps,
        "hours": float(np.mean([result.hours for result in results])),
        "speeds": speeds,
        "commands": [result.commands for result in results],
    }


def markdown(found: Mapping[str, Any], groups: Groups, chance: Chance | None) -> str:
    """The table with what it is of, and the commands."""
    presets, rows = found["presets"], found["agents"]
    body = [
        [
            r["agent"],
            f"{len(r['seeds'])}",
            num(r["return"]),
            span(r["low"], r["high"]),
            *(num(speed) for speed in r["speeds"].values()),
            "-" if math.isnan(r["hours"]) else duration(3600 * r["hours"]),
        ]
        for r in rows
    ]
    if chance is not None:
        body.append(["random actions", "", num(chance.ret), span(chance.low, chance.high)])
    head = ["agent", "seeds", "return", "95 % interval", *SPEED_NAMES, "time of a run"]
    config = next(iter(groups.values()))[0].config
    every = [result for those in groups.values() for result in those]
    blocks = [
        f"# Agents on {place(config)}, size {presets['size']}, "
        f"{steps_text(config, rows[0]['steps'])}",
        markdown_table(head, body),
        f"Mean over seeds of the final evaluation, {config.run.eval_episodes} whole games each, "
        "with Student's t interval over seeds; that of random actions is over games. Speeds are "
        "medians of a run, means over seeds, on the machine as busy as it was then; imagined "
        "steps are counted with the updates that learn from them.",
        "![return by step](curves.png)",
        machines((name, result) for name, those in groups.items() for result in those),
        "Commands:",
        code([command for result in every for command in result.commands]),
        "This table (runs are named as on the machine that made them):",
        code([found["command"]]),
    ]
    return "\n\n".join(blocks) + "\n"


def chart(groups: Groups, chance: Chance | None) -> np.ndarray:
    """Mean evaluation return by step, a line for each agent, with bands where they are few."""
    first = next(iter(groups.values()))[0]
    x = np.array([p.step for p in first.evaluations], float)
    lines = []
    if chance is not None:
        lines.append(chance_line(chance, x))
    for number, (name, those) in enumerate(groups.items()):
        rows = [
            # Nothing before the first evaluation nor after the last one.
            np.interp(
                x,
                [p.step for p in r.evaluations],
                [p.ret for p in r.evaluations],
                left=np.nan,
                right=np.nan,
            )
            for r in those
        ]
        mean, low, high = np.array([interval_over_seeds(column) for column in np.transpose(rows)]).T
        if len(groups) > MOST_BANDS:
            low = high = np.full(len(x), np.nan)
        lines.append(Line(name, mean, low, high, COLOURS[number % len(COLOURS)]))
    presets, on = first.config.presets, axes(first.config)
    return line_chart(
        np.round(x / 1000, 1),
        lines,
        title=f"Evaluation ({presets.size}) on {presets.env}, means over seeds",
        x_name=on.x_name,
        y_name=on.y_name,
        y_range=on.y_range,
    )


def _agent(config: Config) -> dict[str, object]:
    """All settings that make an agent what it is."""
    pairs = ((dotted(key), value) for key, _, value in fields(config))
    return {key: value for key, value in pairs if key.startswith("agent.") and key not in OWN}


def _name(config: Config) -> str:
    """The preset's name, and what a run changes of it; what an unknown preset was is not said."""
    presets = config.presets
    words = [f"{group}={name}" for group, name in presets.model_dump().items() if name]
    try:
        plain = _agent(load(words).config)
    except UserError:
        return presets.agent
    changed = {k: v for k, v in _agent(config).items() if k not in plain or plain[k] != v}
    # Another kind brings settings of its own; it alone is what was chosen.
    kinds = [key.removesuffix("kind") for key in changed if key.endswith(".kind")]
    told = [
        f"{key.removeprefix('agent.')}={shown_value(value)}"
        for key, value in changed.items()
        if key.endswith(".kind") or not any(key.startswith(inside) for inside in kinds)
    ]
    return ", ".join([presets.agent, *told])


def _check_budget(results: Sequence[RunResult]) -> None:
    first = results[0]
    for other in results[1:]:
        apart = [
            f"{key}: {ours} and {theirs}"
            for key, ours, theirs in differences(first, other)
            if not key.startswith("agent.") and key != "presets.agent"
        ]
        if apart:
            raise UserError(
                f"runs {first.path} and {other.path} differ in {'; '.join(apart[:5])}; "
                "only agents are compared, on the same environment with the same budget"
            )
