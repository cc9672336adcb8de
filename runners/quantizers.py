"""Which quantizer a tokenizer should have: what `tokendream quantizers` measures and prints."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.spaces import Image, describe
from runners.console import duration
from runners.durable import folder_for_output, json_text, write_atomic
from runners.errors import UserError
from runners.intervals import mean_text
from runners.markdown import markdown_table
from runners.settings.config import Config
from runners.settings.load import load
from runners.settings.options import QuantizerOptions
from runners.settings.quantizers import QUANTIZERS as KINDS
from runners.settings.show import place, shown_value
from runners.settings.tokenizers import AutoencoderSettings
from runners.versions import provenance, provenance_text

if TYPE_CHECKING:
    from runners.quantizer_trials import Trial
    from runners.recorded import Games

LEVELS = (
    *((8, 8), (8, 4, 4), (8, 6, 5), (8, 8, 8)),
    *((8, 5, 5, 5), (8, 8, 6, 5), (7, 5, 5, 5, 5)),
)
"""Of FSQ, for 64, 128, 240, 512, 1,000, 1,920 and 4,375 codes; most are those of its paper."""


def settings_of(words: Sequence[str], options: QuantizerOptions) -> list[Config]:
    """The settings of every training, seed by seed; raises UserError where one is wrong."""
    if any(word.startswith("seed=") for word in words):
        raise UserError("quantizers trains with several seeds, from 0 on: seeds=3, not seed=")
    if len({*options.quantizers}) < len(options.quantizers):
        raise UserError(f"quantizers={shown_value(options.quantizers)} names one of them twice")
    tokenizer = load(words).config.agent.tokenizer
    if not isinstance(tokenizer, AutoencoderSettings):
        raise UserError(
            f"agent.tokenizer.kind={tokenizer.kind} has no quantizer\n"
            "  choose one that has: delta_vq, frame_vq"
        )
    kind = "agent.tokenizer.quantizer.kind="
    configs = [
        load([*words, f"{kind}{name}", *_sized(name, options.codes, tokenizer)]).config
        for name in options.quantizers
    ]
    seeds = range(options.seeds)
    return [config.model_copy(update={"seed": seed}) for seed in seeds for config in configs]


def _sized(name: str, codes: int, tokenizer: AutoencoderSettings) -> list[str]:
    """The words that give a quantizer about so many codes, and the vectors that all have."""
    numbers: dict[str, object] = {
        "size": codes,
        "levels": min(LEVELS, key=lambda n: abs(math.log(math.prod(n) / codes))),
        "bits": round(math.log2(codes)),
        "dim": getattr(tokenizer.quantizer, "dim", None),
    }
    has = KINDS[name].model_fields if name in KINDS else {}
    return [
        f"agent.tokenizer.quantizer.{key}={shown_value(number)}"
        for key, number in numbers.items()
        if key in has and number is not None
    ]


def main(configs: Sequence[Config], options: QuantizerOptions, command: Sequence[str]) -> None:
    """Record the games, train and measure, print the table; the files are whole after each step.

    Raises UserError where the folder cannot be made, the environment shows no picture, or not one
    alone, or all held-out games are too short.
    """
    from runners.opening import spec_of
    from runners.quantizer_trials import CHAIN, run_trials
    from runners.recorded import record

    shown = spec_of(configs[0]).obs
    if not isinstance(shown, Image):
        raise UserError(
            f"quantizers compares tokenizers of pictures; {place(configs[0])} shows: "
            f"{describe(shown)}"
        )

    out = folder_for_output(options.out)
    print(f"playing {options.games} games at random ...", file=sys.stderr, flush=True)
    try:
        games = record(configs[0], options.games, CHAIN)
    except ValueError as error:
        raise UserError(str(error)) from error
    about = _about(games, command)
    trials: list[Trial] = []
    begin = time.perf_counter()
    for trial in run_trials(configs, games, options.updates):
        trials.append(trial)
        write(out, trials, configs, options, about)
        left = (time.perf_counter() - begin) * (len(configs) / len(trials) - 1)
        print(
            f"{len(trials)}/{len(configs)}  {trial.quantizer}, seed {trial.seed}: "
            f"error {trial.mse:.5f}, left: {duration(left)}",
            file=sys.stderr,
            flush=True,
        )
    print((out / "quantizers.md").read_text("utf-8"))


def write(
    out: Path,
    trials: Sequence[Trial],
    configs: Sequence[Config],
    options: QuantizerOptions,
    about: dict[str, Any],
) -> None:
    """quantizers.json, with every trial, and quantizers.md, with their means, to a folder."""
    config = configs[0]
    found = about | {"trials": [asdict(trial) for trial in trials]}
    write_atomic(out / "quantizers.json", json_text(found))
    text = [
        f"# Quantizers of {config.agent.tokenizer.kind} on {place(config)}",
        markdown_table([heading for heading, _ in COLUMNS], _rows(trials)),
        f"{len(trials)} of {len(configs)} trainings. Means over seeds, with the 95 % interval "
        "(Student's t) where there are several. Errors are squared, per pixel, with colours in "
        "[0,1]; `after 10 steps` where the frame before is the tokenizer's own; copying the frame "
        f"before has {about['copy_mse']:.5f}, and {about['copy_chain_mse']:.5f} after 10 steps. "
        "`worst`: the largest error of a frame, from 0 to 1. In use: codes chosen in the last 100 "
        "updates. Dead: codes with a moving frequency below a tenth of even; one that was just "
        "replaced counts as even. Churn: tokens of fixed frames that the last tenth of the "
        "updates changed. Seconds of an update are of processor time on a CPU.",
        f"{options.updates:,} updates on {about['frames']:,} frames of {options.games} random "
        "games; measured on other games. One command, commit and machine:",
        provenance_text(about),
    ]
    write_atomic(out / "quantizers.md", "\n\n".join(text) + "\n")


def _about(games: Games, command: Sequence[str]) -> dict[str, Any]:
    """What all trainings have in common, for both files."""
    from runners.quantizer_trials import copy_mse

    one, chain = copy_mse(games.held_out)
    return provenance(command) | {
        "frames": games.frames,
        "copy_mse": one,
        "copy_chain_mse": chain,
    }


Number = Callable[["Trial"], float]
COLUMNS: tuple[tuple[str, tuple[Number, str] | None], ...] = (
    ("quantizer", None),
    ("error", (lambda t: t.mse, ".5f")),
    ("after 10 steps", (lambda t: t.chain_mse, ".5f")),
    ("worst", (lambda t: t.worst, ".3f")),
    ("perplexity", (lambda t: t.perplexity, ".0f")),
    ("by position", (lambda t: t.slot_perplexity, ".0f")),
    ("bits a step", (lambda t: t.token_bits, ".0f")),
    ("codes", (lambda t: t.codes, ".0f")),
    ("in use", (lambda t: t.in_use, ".0f")),
    ("dead", (lambda t: t.dead, ".0f")),
    ("churn", (lambda t: t.churn, ".2f")),
    ("s an update", (lambda t: t.seconds, ".3f")),
)
SPREAD = ("error", "after 10 steps", "worst")
"""The columns that show their interval."""


def _rows(trials: Sequence[Trial]) -> list[list[str]]:
    """One row a quantizer, those with the smallest error first."""
    kinds: dict[str, list[Trial]] = {}
    for trial in trials:
        kinds.setdefault(trial.quantizer, []).append(trial)
    ordered = sorted(kinds.items(), key=lambda pair: sum(t.mse for t in pair[1]) / len(pair[1]))
    return [
        [name, *(_cell(heading, column, those) for heading, column in COLUMNS if column)]
        for name, those in ordered
    ]


def _cell(heading: str, column: tuple[Number, str], trials: Sequence[Trial]) -> str:
    number, form = column
    return mean_text([number(trial) for trial in trials], form, heading in SPREAD)
