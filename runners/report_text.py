"""The report as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runners.console import duration

if TYPE_CHECKING:
    from runners.results import RunResult

HORIZONS = (1, 2, 5, 10, 15, 20)


def markdown(found: dict[str, Any], results: Sequence[RunResult]) -> str:
    """From the numbers of `runners.report.summary`."""
    presets = found["presets"]
    where = f"{presets['env']}" + (f" ({found['game']})" if found["game"] else "")
    blocks = [
        f"# {presets['agent']} on {where}, size {presets['size']}, budget {presets['run']}",
        _result(found),
        _verdict(found),
        "![return by step](curves.png)",
        *_imagination(results),
        "## Runs",
        _runs(found),
        _machines(found),
        "Commands:",
        _code([command for run in found["runs"] for command in run["commands"]]),
        "This report (runs are named as on the machine that made them):",
        _code([found["command"]]),
    ]
    return "\n\n".join(blocks) + "\n"


def _result(found: dict[str, Any]) -> str:
    rows = [
        [
            f"seed {run['seed']}",
            f"{found['episodes']}",
            _num(run["return"]),
            _span(run["low"], run["high"]),
            _num(run["score"]),
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
                f"**{_num(pooled['return'])}**",
                f"**{_span(pooled['low'], pooled['high'])}**",
                f"{_num(pooled['score'])}",
                _yes(pooled["above_random"]),
            ]
        )
    if chance is not None:
        span = _span(chance["low"], chance["high"])
        episodes = f"{chance['episodes']}"
        rows.append(["random actions", episodes, _num(chance["ret"]), span, _num(chance["score"])])
    head = ["policy", "games", "return", "95 % interval", found["score"], "above random"]
    return _table(head, rows)


def _verdict(found: dict[str, Any]) -> str:
    runs, pooled = found["runs"], found["pooled"]
    lines = [
        "Final evaluation of each run, whole games in fresh environments. Intervals of one policy "
        "are bootstrapped over its games; that of the mean is Student's t over seeds. Scores are "
        "computed for each seed, then averaged."
    ]
    trained = [run["training_score"] for run in runs if not math.isnan(run["training_score"])]
    if trained:
        mean = sum(trained) / len(trained)
        lines.append(
            f"The Crafter score over all games of training, as the benchmark counts it, is "
            f"{_num(mean)} %, a mean of {len(trained)} seed(s)."
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
    shown = [result for result in results if result.horizon is not None]
    if not shown:
        return []
    rows = []
    for result in shown:
        report = result.horizon
        assert report is not None
        last = report["horizon"][-1]
        for h in sorted({*(h for h in HORIZONS if h < last), last}):
            dream, copy = report["mse"]["mean"][h - 1], report["copy_mse"]["mean"][h - 1]
            rows.append(
                [
                    str(result.seed),
                    str(h),
                    _error(report["mse"], h),
                    _error(report.get("misled_mse"), h),
                    _error(report["copy_mse"], h),
                    f"{dream / copy:.2f}" if copy else "-",
                    _error(report["recon_mse"], h),
                    f"{report['token_accuracy']['mean'][h - 1]:.1%}",
                ]
            )
    head = ["seed", "imagined steps", "imagination", "of other actions", "copy last frame", "ratio"]
    first = shown[0].horizon
    assert first is not None
    return [
        "## Imagination beside reality",
        f"Mean squared error per pixel, colours in [0,1], with 95 % intervals, over "
        f"{first['num_windows']} windows of {first['num_episodes']} held-out games (per seed).",
        _table([*head, "reconstruction", "tokens right"], rows),
    ]


def _error(band: dict[str, Any] | None, h: int) -> str:
    # Errors that were not worked out yet when the run's dreams were drawn, or cannot be.
    if band is None or band["mean"][h - 1] is None:
        return "-"
    mean, low, high = (band[name][h - 1] for name in ("mean", "low", "high"))
    return f"{mean:.5f}" + ("" if low is None else f" ({low:.5f} to {high:.5f})")


def _runs(found: dict[str, Any]) -> str:
    rows = []
    for run in found["runs"]:
        speeds = [_num(speed) for speed in run["speeds"].values()]
        time = "-" if math.isnan(run["hours"]) else duration(3600 * run["hours"])
        rows.append(
            [
                *(str(run["seed"]), run["run"], f"{run['steps']:,}", time),
                *(*speeds, _num(run["peak_gib"])),
            ]
        )
    head = ["seed", "run", "steps", "time", "collected steps/s", "updates/s", "imagined steps/s"]
    return _table([*head, "peak GiB"], rows)


def _machines(found: dict[str, Any]) -> str:
    """Each different machine and version once, with its seeds."""
    seeds: dict[str, list[str]] = {}
    for run in found["runs"]:
        m = run["machine"]
        gpus = ", ".join(m["gpus"] or []) or "no GPU"
        words = (
            f"{m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB, {gpus}; Python {m['python']}, "
            f"torch {m['torch']}; commit {m['git'] or 'unknown'}"
        )
        seeds.setdefault(words, []).append(str(run["seed"]))
    return "\n".join(f"- seed {', '.join(names)}: {words}" for words, names in seeds.items())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    every = [head, ["---"] * len(head), *([*row] + [""] * (len(head) - len(row)) for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in every)


def _code(lines: Sequence[str]) -> str:
    return "\n".join(["```", *lines, "```"])


def _num(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"


def _span(low: float, high: float) -> str:
    return "-" if math.isnan(low) else f"{_num(low)} to {_num(high)}"


def _yes(answer: bool | None) -> str:
    return "-" if answer is None else "yes" if answer else "no"
