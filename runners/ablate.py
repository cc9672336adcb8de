"""Which dynamics a world model should have: what `tokendream ablate` measures and prints."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runners.console import duration
from runners.durable import folder_for_output, json_text, write_atomic
from runners.errors import UserError
from runners.intervals import mean_text
from runners.markdown import markdown_table
from runners.settings.ablations import Plan, Table, plan, read_table
from runners.settings.options import AblateOptions
from runners.settings.show import place
from runners.versions import provenance, provenance_text

if TYPE_CHECKING:
    from runners.ablation_trials import Trial


OF_FRAMES = (
    "`nats`: what a frame costs, given the true past; of tokens drawn one after the other, or "
    "all at once, exact, and of a denoiser the bound, with one group for each token. `in n`: "
    "of drawing it in n groups of tokens, in random order; noise without masks has no more "
    "than `in 1`. `changed`: of tokens that differ from those at the same place a step before, "
    "for how many of 100 the likeliest was right; a denoiser knows nothing else of the frame, "
    "an autoregressive model the true tokens before; nothing where tokens say themselves what "
    "changed. Logits have the guidance of dreams, not their temperature and top_k. `reward`: "
    "absolute error; `reward F1`: of rewards that are not 0; a denoiser reads reward and end "
    "from the finished, true frame."
)
OF_DREAMS = (
    "`after n`: error after n imagined steps of the true actions: of pictures squared, per "
    "pixel, with colours in [0,1]; of vectors squared, by the variance of each number; of "
    "categories how many are wrong; of several things the mean. `events`: imagined steps with "
    "a reward, by how many of 100 they are wrong; {true:.1f} of 100 true steps have one. "
    "`apart`: total "
    "variation between how often tokens are drawn and how often they are true, 0 to 1. "
    "Seconds, on a CPU, are of processor time, of all threads together: of an update without "
    "the tokenizer; frames a second are imagined in batches of 32. `trained as`: the row whose "
    "training it shares."
)
"""What the columns of the two tables mean."""


def settings_of(words: Sequence[str], options: AblateOptions) -> tuple[Table, Plan]:
    """The table and the settings of its rows; raises UserError where one is wrong."""
    if any(word.startswith("seed=") for word in words):
        raise UserError("ablate trains with several seeds, from 0 on: seeds=3, not seed=")
    table = read_table(options.table)
    return table, plan(table, options.rows, words)


def main(table: Table, chosen: Plan, options: AblateOptions, command: Sequence[str]) -> None:
    """Record the games, train and measure, print the tables; the files are whole after each row.

    Raises UserError where the folder cannot be made, or all held-out games are too short.
    """
    from runners.ablation_trials import run_trials, steps_of
    from runners.recorded import record

    out = folder_for_output(options.out)
    print(
        f"playing {options.games} games at random, then training ...", file=sys.stderr, flush=True
    )
    config = chosen.rows[0].config
    try:
        games = record(config, options.games, steps_of(config))
    except ValueError as error:
        raise UserError(str(error)) from error
    about = provenance(command) | {
        "frames": games.frames,
        "windows": len(games.held_out.act),
        "steps": games.held_out.act.shape[1],
        "left_out": chosen.left_out,
    }
    trials: list[Trial] = []
    left = _TimeLeft(chosen, options.seeds)
    try:
        for trial in run_trials(chosen, games, options):
            trials.append(trial)
            write(out, trials, table, chosen, options, about)
            print(
                f"{len(trials)}/{left.all}  {trial.row}, seed {trial.seed}: "
                f"{trial.known.nats:.3f} nats, error {trial.dreamed.mse[-1]:.5f}, "
                f"left: {duration(left.after(trial))}",
                file=sys.stderr,
                flush=True,
            )
    except KeyboardInterrupt:
        print(f"\n{len(trials)} of {left.all} rows measured: {out}", file=sys.stderr)
        raise
    print((out / "ablate.md").read_text("utf-8"))
    print(f"Written to {out}")


class _TimeLeft:
    """Guesses from the rows so far; those that had to be trained took longer than others."""

    def __init__(self, chosen: Plan, seeds: int) -> None:
        self.all = seeds * len(chosen.rows)
        self._trained = {group[0].name for group in chosen.trainings()}
        # What a row takes, whether or not it is trained: how many are left, seconds, how many done.
        trained = seeds * len(self._trained)
        self._rows = {True: [trained, 0.0, 0], False: [self.all - trained, 0.0, 0]}
        self._last = time.perf_counter()

    def after(self, trial: Trial) -> float:
        """Seconds, once this row is done."""
        row, now = self._rows[trial.row in self._trained], time.perf_counter()
        row[0], row[1], row[2] = row[0] - 1, row[1] + now - self._last, row[2] + 1
        self._last = now
        return sum(left * seconds / max(1, done) for left, seconds, done in self._rows.values())


def write(
    out: Path,
    trials: Sequence[Trial],
    table: Table,
    chosen: Plan,
    options: AblateOptions,
    about: dict[str, Any],
) -> None:
    """ablate.json, with every trial, ablate.md, with their means, and the charts, to a folder."""
    from runners.ablation_charts import write_charts

    config = chosen.rows[0].config
    found = about | {"trials": [asdict(trial) for trial in trials]}
    write_atomic(out / "ablate.json", json_text(found))
    groups = by_row(trials, chosen)
    dreams = [trial.dreamed for trial in trials]
    horizon = len(dreams[0].mse)
    steps, marks = about["steps"], sorted({h for h in (1, 5, 10, horizon) if h <= horizon})
    text = [
        f"# World models on {place(config)}: {table.description}",
        f"{len(trials)} of {options.seeds * len(chosen.rows)} rows of all seeds measured. Means "
        "over seeds, with the 95 % interval (Student's t) where there are several.",
        "## True frames",
        markdown_table(*known_table(groups)),
        f"{OF_FRAMES} "
        f"{len(chosen.rows)} rows, {about['windows']} windows of at most {steps} steps.",
        "## Dreams",
        markdown_table(*dream_table(groups, marks)),
        OF_DREAMS.format(true=100 * dreams[0].true_events),
        table.note,
        *(["Left out: " + "; ".join(chosen.left_out) + "."] if chosen.left_out else []),
        f"{options.updates:,} updates of each dynamics on {about['frames']:,} frames of "
        f"{options.games} random games, after {options.tokenizer_updates:,} of the tokenizer, one "
        "for all rows with a seed; measured on other games. One command, commit and machine:",
        provenance_text(about),
    ]
    write_atomic(out / "ablate.md", "\n\n".join(block for block in text if block) + "\n")
    write_charts(out, groups, table)


Groups = dict[str, list["Trial"]]
Number = Callable[["Trial"], float]


def by_row(trials: Sequence[Trial], chosen: Plan) -> Groups:
    """The trials of each row that has one, in the order of the table."""
    found: Groups = {row.name: [t for t in trials if t.row == row.name] for row in chosen.rows}
    return {name: those for name, those in found.items() if those}


def known_table(groups: Groups) -> tuple[list[str], list[list[str]]]:
    """Head and rows of what is known of true frames."""
    counts = sorted({n for those in groups.values() for t in those for n in t.known.nats_at})
    columns: list[tuple[str, Number, str, bool]] = [
        ("parameters", lambda t: t.parameters, ",.0f", False),
        ("nats", lambda t: t.known.nats, ".3f", True),
        *((f"in {n}", _nats_at(n), ".3f", False) for n in counts),
        ("changed", lambda t: 100 * t.known.changed, ".1f", False),
        ("reward", lambda t: t.known.reward_error, ".4f", False),
        ("reward F1", lambda t: t.known.reward_f1, ".2f", False),
        ("end F1", lambda t: t.known.end_f1, ".2f", False),
    ]
    return _table(groups, columns)


def dream_table(groups: Groups, marks: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of what came of dreams, with what copying and rebuilding would give."""
    columns: list[tuple[str, Number, str, bool]] = [
        *((f"after {h}", _error_after("mse", h), ".5f", h == marks[-1]) for h in marks),
        ("events", lambda t: 100 * abs(t.dreamed.events - t.dreamed.true_events), ".2f", False),
        ("apart", lambda t: t.dreamed.apart, ".3f", False),
        ("frames a s", lambda t: t.dreamed.frames_s, ",.0f", False),
        ("s an update", lambda t: t.seconds, ".3f", False),
    ]
    head, rows = _table(groups, columns)
    for row, those in zip(rows, groups.values(), strict=True):
        row.append(those[0].training if those[0].training != those[0].row else "")
    first = next(iter(groups.values()))
    for name, key in (("copy of the last frame", "copy_mse"), ("reconstruction", "recon_mse")):
        cells = [mean_text([_error_after(key, h)(t) for t in first], ".5f") for h in marks]
        rows.append([f"*{name}*", *cells])
    return [*head, "trained as"], rows


def _table(
    groups: Groups, columns: Sequence[tuple[str, Number, str, bool]]
) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            name,
            *(mean_text([number(t) for t in those], form, sp) for _, number, form, sp in columns),
        ]
        for name, those in groups.items()
    ]
    return ["row", *(heading for heading, *_ in columns)], rows


def _nats_at(n: int) -> Number:
    return lambda trial: trial.known.nats_at.get(n, float("nan"))


def _error_after(key: str, steps: int) -> Number:
    return lambda trial: float(getattr(trial.dreamed, key)[steps - 1])
