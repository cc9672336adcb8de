"""The run's header: what is seen and done, whatever it is."""

from __future__ import annotations

from pathlib import Path

from envs.experience import EnvSpec
from envs.probes import CountingDictGame, CountingGame
from envs.spaces import Vector
from runners.header import header
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
    assert "NOT ENOUGH DISK" in told(EnvSpec(Vector(10**9), spec.act))
