"""The report as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from runners.console import duration
from runners.frame_errors import Pictures
from runners.markdown import markdown_table
from runners.settings.show import place
from runners.suites import literature

if TYPE_CHECKING:
    from runners.results import RunResult

HORIZONS = (1, 2, 5, 10, 15, 20)


def markdown(found: dict[str, Any], results: Sequence[RunResult]) -> str:
    """From the numbers of `runners.report.summary`."""
    presets = found["presets"]
    others = literature(results[0].config, results[0].steps)
    blocks = [
        f"# {presets['agent']} on {place(results[0].config)}, size {presets['size']}, "
        f"budget {presets['run']}",
        _result(found),
        _verdict(found),
        *(others.text() if others else []),
        "![return by step](curves.png)",
        *_imagination(results),
        "## Runs",
        _runs(found),
        machines((f"seed {result.seed}", result) for result in results),
        "Commands:",
        code([command for run in found["runs"] for command in run["commands"]]),
        "This report (runs are named as on the machine that made them):",
        code([found["command"]]),
    ]
    return "\n\n".join(blocks) + "\n"


def _result(found: dict[str, Any]) -> str:
    def own(score: float) -> list[str]:
        return [num(score)] if found["score"] else []

    rows = [
        [
            f"seed {run['seed']}",
            f"{found['episodes']}",
            num(run["return"]),
            span(run["low"], run["high"]),
            *own(run["score"]),
            _yes(run["above_random"]),
        ]
        for run in found["runs"]
    ]
    pooled, chance = found["pooled"], found["random"]
    if len(rows) > 1:
        rows.append(
            [
                f"**mean of {len(rows)} seeds**",
                "",
                f"**{num(pooled['return'])}**",
                f"**{span(pooled['low'], pooled['high'])}**",
                *own(pooled["score"]),
                _yes(pooled["above_random"]),
            ]
        )
    if chance is not None:
        around = span(chance["low"], chance["high"])
        episodes = f"{chance['episodes']}"
        rows.append(["random actions", episodes, num(chance["ret"]), around, *own(chance["score"])])
    names = [found["score"]] if found["score"] else []
    head = ["policy", "games", "return", "95 % interval", *names, "above random"]
    return markdown_table(head, rows)


def _verdict(found: dict[str, Any]) -> str:
    runs, pooled = found["runs"], found["pooled"]
    lines = [
        "Final evaluation of each run, whole games in fresh environments. Intervals of one policy "
        "are bootstrapped over its games; that of the mean is Student's t over seeds."
    ]
    if found["score"]:
        lines[0] += " Scores are computed for each seed, then averaged."
    trained = [run["training_score"] for run in runs if not math.isnan(run["training_score"])]
    if trained:
        mean = sum(trained) / len(trained)
        lines.append(
            f"The Crafter score over all games of training, as the benchmark counts it, is "
            f"{num(mean)} %, a mean of {len(trained)} seed(s)."
        )
    if found["random"] is not None:
        above = sum(bool(run["above_random"]) for run in runs)
        lines.append(
            f"The interval lies above that of random actions in {above} of {len(runs)} seed(s)."
        )
        if len(runs) > 1:
            does = "does too" if pooled["above_random"] else "does not"
            lines.append(f"The interval of the mean over seeds {does}.")
    return "\n".join(lines)


def _imagination(results: Sequence[RunResult]) -> list[str]:
    """A table for each thing that the environment shows; nothing where no dreams were drawn."""
    reports = [(result.seed, report) for result in results for report in result.horizons]
    if not reports:
        return []
    first = reports[0][1]
    blocks = [
        "## Imagination beside reality",
        f"With 95 % intervals, over {first['num_windows']} windows of {first['num_episodes']} "
        "held-out games (per seed).",
    ]
    # Reports of older runs are of pictures, and do not say so.
    for entry in dict.fromkeys(report.get("entry", "") for _, report in reports):
        those = [(seed, r) for seed, r in reports if r.get("entry", "") == entry]
        unit = those[0][1].get("unit", Pictures.unit)
        blocks += [f"{f'{entry}: ' if entry else ''}{unit}.", _errors(those)]
    return blocks


def _errors(reports: Sequence[tuple[int, dict[str, Any]]]) -> str:
    """Errors by horizon of one entry, by seed."""
    rows = []
    for seed, report in reports:
        last = report["horizon"][-1]
        for h in sorted({*(h for h in HORIZONS if h < last), last}):
            dream, copy = report["mse"]["mean"][h - 1], report["copy_mse"]["mean"][h - 1]
            rows.append(
                [
                    str(seed),
                    str(h),
                    _error(report["mse"], h),
                    _error(report.get("misled_mse"), h),
                    _error(report["copy_mse"], h),
                    f"{dream / copy:.2f}" if copy and dream is not None else "-",
                    _error(report["recon_mse"], h),
                    f"{report['token_accuracy']['mean'][h - 1]:.1%}",
                ]
            )
    head = ["seed", "imagined steps", "imagination", "of other actions", "copy last frame", "ratio"]
    return markdown_table([*head, "reconstruction", "tokens right"], rows)


def _error(band: dict[str, Any] | None, h: int) -> str:
    # Errors that were not worked out yet when the run's dreams were drawn, or cannot be.
    if band is None or band["mean"][h - 1] is None:
        return "-"
    mean, low, high = (band[name][h - 1] for name in ("mean", "low", "high"))
    return f"{mean:.5f}" + ("" if low is None else f" ({low:.5f} to {high:.5f})")


def _runs(found: dict[str, Any]) -> str:
    rows = []
    for run in found["runs"]:
        speeds = [num(speed) for speed in run["speeds"].values()]
        time = "-" if math.isnan(run["hours"]) else duration(3600 * run["hours"])
        rows.append(
            [
                *(str(run["seed"]), run["run"], f"{run['steps']:,}", time),
                *(*speeds, num(run["peak_gib"])),
            ]
        )
    head = ["seed", "run", "steps", "time", "collected steps/s", "updates/s", "imagined steps/s"]
    return markdown_table([*head, "peak GiB"], rows)


def machines(named: Iterable[tuple[str, RunResult]]) -> str:
    """Each different machine and version once, with the names of its runs."""
    names: dict[str, list[str]] = {}
    for name, result in named:
        v = result.versions
        gpus = ", ".join(v.get("gpus") or []) or "no GPU"
        words = (
            f"{v.get('cpu')}, {v.get('cores')} cores, {v.get('memory_gib')} GiB, {gpus}; "
            f"Python {v.get('python')}, torch {v.get('packages', {}).get('torch')}; "
            f"commit {v.get('git') or 'unknown'}"
        )
        names.setdefault(words, []).append(name)
    return "\n".join(f"- {', '.join(dict.fromkeys(of))}: {words}" for words, of in names.items())


def code(lines: Sequence[str]) -> str:
    """Lines as they are."""
    return "\n".join(["```", *lines, "```"])


def num(value: float) -> str:
    """Two decimals, none from a thousand on; - for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"


def span(low: float, high: float) -> str:
    """An interval, - where there is none."""
    return "-" if math.isnan(low) else f"{num(low)} to {num(high)}"


def _yes(answer: bool | None) -> str:
    return "-" if answer is None else "yes" if answer else "no"
