"""The run's header: what is seen and done, whatever it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from envs.experience import EnvSpec
from envs.probes import CountingDictGame, CountingGame
from envs.spaces import Discrete, Vector
from runners import header as header_module
from runners.header import header
from runners.settings.load import load
from tests.runs import games, small, trainer_of


def test_what_is_seen_and_done_is_told_with_its_size_on_disk(tmp_path: Path) -> None:
    config = small("run.steps=10000000")
    trainer = trainer_of(config, tmp_path, games(lambda: CountingGame(size=64, num_actions=5)))

    def told(spec: EnvSpec) -> str:
        return "\n".join(header(config, tmp_path, spec, trainer))

    spec = CountingDictGame().spec
    lines = told(spec)
    assert "sees     pixels: image 8x8x3; state: vector of 4; kind: 2 choices of 10\n" in lines
    assert "acts     2 continuous in [-1, 1]\n" in lines
    size = 8 * 8 * 3 + 4 * 4 + 2 * 8 + 2 * 4 + 4 + 1 + 1
    assert f"replay grows to {size * 1e7 / 2**30:.2f} GiB" in lines
    assert "budget   10,000,000 steps in " in lines and "a step is a decision" in lines
    assert "NOT ENOUGH DISK" in told(EnvSpec(Vector(10**9), spec.act))


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("env=atari", "6,000 steps = 24,000 frames = "),
        ("env=dmc_state", "6,000 steps (12,000 control steps) in "),
    ],
)
def test_a_budget_is_told_in_what_its_suite_counts(env: str, words: str) -> None:
    config = load([env, "run.steps=6000"]).config
    spec = EnvSpec(Vector(1), Discrete(2), frames_per_step=4)
    assert header_module._budget(config, spec).startswith(words)
