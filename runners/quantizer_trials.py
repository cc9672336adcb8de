"""Tokenizers alone, one quantizer after the other, on the same recorded games.

Axes: B windows, T steps of a window, K tokens of a step, V codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from runners.hardware import Hardware, open_hardware
from runners.opening import agent_to_train
from runners.recorded import Course, Games, clock_of, open_course, phase_of
from runners.settings.config import Config
from worldmodels.batch import Batch
from worldmodels.protocols import Prev, Tokenizer
from worldmodels.quantizers.usage import perplexity

CHAIN = 10
"""Steps of a held-out window, through which a tokenizer is fed its own frames."""
CHUNK = 16
LATE = 0.9
"""Churn is counted from this share of the updates on."""


@dataclass(frozen=True)
class Trial:
    """What one training of a tokenizer gave, on games that it never saw.

    mse: of a frame rebuilt from its tokens and the true frame before it; chain_mse: after CHAIN
    steps whose frame before is the tokenizer's own. worst: largest error of a frame's colours,
    mean over frames, in [0,1]. perplexity: of all tokens, slot_perplexity: mean over positions.
    codes: how many there are; in_use and dead are the last codes_in_use and dead_codes of training
    (Usage). churn: share of the tokens of fixed training frames that the last tenth of the updates
    changed. seconds: of one update and its batch; on a CPU of processor time, which other programs
    hardly change. token_bits: of a step.
    """

    quantizer: str
    seed: int
    mse: float
    chain_mse: float
    worst: float
    perplexity: float
    slot_perplexity: float
    codes: int
    in_use: float
    dead: float
    token_bits: float
    churn: float
    seconds: float


def copy_mse(held_out: Batch) -> tuple[float, float]:
    """Error of the frame before in place of a frame, and of the first after a window's steps."""
    obs = held_out.obs.float() / 255
    one, chain = obs[:, 1:] - obs[:, :-1], obs[:, -1] - obs[:, 0]
    return float(one.square().mean()), float(chain.square().mean())


def run_trials(configs: Sequence[Config], games: Games, updates: int) -> Iterator[Trial]:
    """Train the tokenizer of each of the settings in turn, and measure it.

    All draw from the same games; those with the same seed see the same batches.
    """
    first = configs[0]
    hardware = open_hardware(first.device, first.precision, first.threads)
    with open_course(first, games) as course:
        for config in configs:
            yield _trial(config, games, course, hardware, updates)


def _trial(config: Config, games: Games, course: Course, hardware: Hardware, updates: int) -> Trial:
    agent = agent_to_train(config, games.spec, hardware)
    phase = phase_of(config, agent.learners()[0], hardware)
    late = int(LATE * updates)
    metrics: dict[str, Tensor] = {}
    clock = clock_of(hardware)
    begin = clock()
    for update, batch in enumerate(course.batches(phase, config.seed, updates)):
        if update == late:
            phase.settle()
        metrics = phase.update(batch.to(hardware.device))
    in_use, dead = float(metrics["codes_in_use"]), float(metrics["dead_codes"])
    seconds = (clock() - begin) / updates
    tokenizer = agent.world_model.tokenizer
    agent.eval()
    with hardware.autocast(), torch.no_grad():
        return Trial(
            quantizer=config.agent.tokenizer.quantizer.kind,  # type: ignore[attr-defined]
            seed=config.seed,
            **measure(tokenizer, games.held_out.to(hardware.device)),
            codes=tokenizer.vocab,
            in_use=in_use,
            dead=dead,
            token_bits=tokenizer.tokens * float(np.log2(tokenizer.vocab)),
            churn=float(phase.settle()["churn"]),
            seconds=seconds,
        )


def measure(tokenizer: Tokenizer, windows: Batch) -> dict[str, float]:
    """mse, chain_mse, worst, perplexity and slot_perplexity of Trial, on whole windows."""
    starts = range(0, len(windows.act), CHUNK)
    chunks = [_measure(tokenizer, windows.rows(slice(i, i + CHUNK))) for i in starts]
    tokens, one, chain, worst = (torch.cat(column) for column in zip(*chunks, strict=True))
    # Tokens of all steps by position: (K,V) counts.
    slots = tokens.flatten(0, 1).T
    counts = torch.stack([row.bincount(minlength=tokenizer.vocab) for row in slots]).double()
    total = counts.sum(0)
    return {
        "mse": float(one.mean()),
        "chain_mse": float(chain.mean()),
        "worst": float(worst.mean()),
        "perplexity": float(perplexity(total / total.sum())),
        "slot_perplexity": float(perplexity(counts / counts.sum(1, keepdim=True)).mean()),
    }


def _measure(tokenizer: Tokenizer, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens (B,T,K), squared errors (B,T) and, at the end of the chain, (B,); worst (B,T)."""
    prev, real = Prev(batch.obs[:, :-1], batch.act), batch.obs[:, 1:]
    tokens = tokenizer.encode(prev, real)
    error = _error(tokenizer.decode(prev, tokens), real)
    frame = batch.obs[:, :1]
    for t in range(batch.act.shape[1]):
        step = slice(t, t + 1)
        frame = tokenizer.decode(Prev(frame, batch.act[:, step]), tokens[:, step])
    chain = _error(frame, real[:, -1:])[:, 0]
    dims = (-3, -2, -1)
    return tokens, error.square().mean(dims), chain.square().mean(dims), error.abs().amax(dims)


def _error(frames: Tensor, real: Tensor) -> Tensor:
    return (frames.float() - real.float()) / 255
