"""Tokenizers alone, one quantizer after the other, on the same recorded games.

Axes: B windows, T steps of a window, K tokens of a step, V codes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from envs.experience import Segment
from runners.dream import HELD_OUT_SEED
from runners.evaluate import play
from runners.hardware import Hardware, open_hardware
from runners.opening import agent_to_train, open_env
from runners.phases import Phase
from runners.replay import Replay
from runners.rollout import rows_of, windows
from runners.settings.config import Config
from worldmodels.batch import Batch
from worldmodels.protocols import Prev, Tokenizer
from worldmodels.quantizers.usage import perplexity

CHAIN = 10
"""Steps of a held-out window, through which a tokenizer is fed its own frames."""
WINDOWS = 128
HELD_OUT_GAMES = 16
MOST_ENVS = 16
"""Games that run at once while they are recorded."""
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


@dataclass(frozen=True)
class Games:
    """Recorded games: those to learn from, and windows (B,CHAIN+1) of others."""

    train: list[Segment]
    held_out: Batch

    @property
    def frames(self) -> int:
        """Frames to learn from."""
        return sum(len(game.obs) for game in self.train)

    def copy_mse(self) -> tuple[float, float]:
        """Error of the frame before in place of a frame, and of the first after CHAIN steps."""
        obs = self.held_out.obs.float() / 255
        one, chain = obs[:, 1:] - obs[:, :-1], obs[:, -1] - obs[:, 0]
        return float(one.square().mean()), float(chain.square().mean())


def record(config: Config, games: int) -> Games:
    """Games of random actions, and the windows of others; the same for the same environment.

    Raises ValueError where no held-out game lasts CHAIN steps.
    """
    hardware = Hardware(torch.device("cpu"), torch.float32)

    def at_random(count: int, seed: int) -> list[Segment]:
        found: list[Segment] = []
        for first in range(0, count, MOST_ENVS):
            # `play` keeps the first game of each environment.
            now = min(MOST_ENVS, count - first)
            env = open_env(config, num_envs=now, workers=0, training=False)
            try:
                found += play(None, env, hardware, episodes=now, seed=seed + first, keep=now)[1]
            finally:
                env.close()
        return found

    held_out = at_random(HELD_OUT_GAMES, HELD_OUT_SEED)
    drawn = windows(held_out, 0, CHAIN, WINDOWS, np.random.default_rng(0))
    if drawn is None:
        raise ValueError(f"no held-out game lasts {CHAIN} steps")
    return Games(at_random(games, 0), drawn[0])


def run_trials(configs: Sequence[Config], games: Games, updates: int) -> Iterator[Trial]:
    """Train the tokenizer of each of the settings in turn, and measure it.

    All draw from the same games; those with the same seed see the same batches.
    """
    first = configs[0]
    hardware = open_hardware(first.device, first.precision, first.threads)
    with _replay(first, games.train) as replay:
        start = replay.state_dict()
        for config in configs:
            rng = np.random.PCG64(config.seed).state
            replay.load_state_dict(start | {"rng": rng})
            yield _trial(config, games, replay, hardware, updates)


def _trial(config: Config, games: Games, replay: Replay, hardware: Hardware, updates: int) -> Trial:
    env = open_env(config, num_envs=1, workers=0, training=False)
    env.close()
    agent = agent_to_train(config, env.spec, hardware)
    learner = agent.learners()[0]
    numbers = config.agent.phases.tokenizer.model_dump()
    numbers.pop("priority")
    phase = Phase(learner, hardware, **numbers)
    late = int(LATE * updates)
    metrics: dict[str, Tensor] = {}
    clock = time.process_time if hardware.device.type == "cpu" else time.perf_counter
    begin = clock()
    for update in range(updates):
        if update == late:
            phase.settle()
        batch = replay.sample_windows(learner.name, phase.batch, phase.frames)
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
    chunks = [_measure(tokenizer, rows_of(windows, slice(i, i + CHUNK))) for i in starts]
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


@contextmanager
def _replay(config: Config, games: Sequence[Segment]) -> Iterator[Replay]:
    """The games in a replay of their own, as training draws from."""
    with tempfile.TemporaryDirectory() as folder:
        replay = Replay(
            Path(folder),
            num_streams=1,
            obs_shape=games[0].obs.shape[1:],
            priorities={"tokenizer": config.agent.phases.tokenizer.priority},
            seed=0,
            length_exponent=config.agent.length_exponent,
        )
        try:
            for game in games:
                replay.add(0, game)
            yield replay
        finally:
            replay.close()
