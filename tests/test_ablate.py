"""World models compared on real games, with small nets and few updates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from runners import ablation_trials, commands
from runners.ablation_trials import learn_dynamics, learn_tokens, run_trials, steps_of
from runners.hardware import Hardware
from runners.opening import new_agent, open_env
from runners.recorded import open_course, phase_of, record
from runners.settings.ablations import Plan, plan, read_table
from runners.settings.options import AblateOptions

CONV = "patch=8 groups=4 mult=[1] down=[1]"
SIZES = {
    "tokenizer": f"{CONV} encoder.base=8 encoder.latent=4 context.base=8 context.latent=2 "
    "decoder.base=8 quantizer.size=16 quantizer.dim=8",
    "dynamics": "width=32 heads=2",
    "dynamics.layout": f"{CONV} base=8 latent=2",
    "actor_critic": f"{CONV} base=8 latent=2 hidden=16",
    "behaviour": "horizon=4 context=2",
    "phases.tokenizer": "batch=2",
    "phases.world_model": "batch=3 frames=6",
}
SMALL = ["size=tiny", "threads=1", "device=cpu", "env.length=9"] + [
    f"agent.{at}.{word}" for at, words in SIZES.items() for word in words.split()
]
ROWS = ("autoregressive", "diffusion", "steps_1", "uniform")
FEW = AblateOptions(rows=ROWS, seeds=2, updates=3, tokenizer_updates=2, games=2)
CPU = Hardware(torch.device("cpu"), torch.float32)


@pytest.fixture(autouse=True)
def few_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runners.recorded.WINDOWS", 12)
    monkeypatch.setattr("runners.recorded.HELD_OUT_GAMES", 6)


def own(out: Path) -> list[str]:
    rows = f"rows=[{','.join(ROWS)}]"
    return [rows, "seeds=2", "updates=3", "tokenizer_updates=2", "games=2", f"out={out}"]


def test_rows_are_trained_and_measured_on_the_same_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.ablate([*SMALL, *own(tmp_path / "a")]) == 0
    found = json.loads((tmp_path / "a" / "ablate.json").read_text())
    trials = found["trials"]
    assert [(t["seed"], t["row"]) for t in trials] == [(s, row) for s in (0, 1) for row in ROWS]
    auto, diffusion, steps_1, uniform = trials[:4]
    assert [t["training"] for t in trials[:4]] == [
        *("autoregressive", "diffusion", "diffusion", "uniform")
    ]
    # One training, hence the same of true frames; other dreams.
    assert steps_1["known"] == diffusion["known"] and steps_1["seconds"] == diffusion["seconds"]
    assert steps_1["dreamed"]["apart"] != diffusion["dreamed"]["apart"]
    assert abs(diffusion["parameters"] / auto["parameters"] - 1) < 0.1
    assert auto["known"]["nats_at"] == {} and auto["known"]["nats"] > 0
    assert list(diffusion["known"]["nats_at"]) == ["1", "2", "4"]
    assert diffusion["known"]["nats"] == diffusion["known"]["nats_at"]["4"]
    assert list(uniform["known"]["nats_at"]) == ["1"] and uniform["known"]["nats"] is None
    for trial in trials:
        dreamed = trial["dreamed"]
        assert len(dreamed["mse"]) == 4 and all(0 < x < 1 for x in dreamed["mse"])
        assert 0 <= dreamed["apart"] <= 1 and dreamed["frames_s"] > 0 and trial["seconds"] > 0
        assert dreamed["copy_mse"] == auto["dreamed"]["copy_mse"]
    # Another seed is another tokenizer.
    assert trials[4]["dreamed"]["recon_mse"] != auto["dreamed"]["recon_mse"]
    said = capsys.readouterr()
    text = (tmp_path / "a" / "ablate.md").read_text()
    assert said.out.startswith(text) and said.out.endswith(f"Written to {tmp_path / 'a'}\n")
    assert "8 of 8 rows of all seeds measured" in text
    assert "| row | parameters | nats | in 1 | in 2 | in 4 | changed | reward |" in text
    assert "| row | after 1 | after 4 | events | apart | frames a s | s an update |" in text
    assert "| *copy of the last frame* |" in text and "tokendream ablate size=tiny" in text
    assert "8/8  uniform, seed 1: " in said.err and "left: 0 s" in said.err
    for name in ("error_by_horizon.png", "nll.png"):
        Image.open(tmp_path / "a" / name).verify()


def test_an_interrupted_comparison_leaves_whole_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: Any) -> Any:
        yield next(run_trials(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(ablation_trials, "run_trials", stopped)
    with pytest.raises(KeyboardInterrupt):
        commands.ablate([*SMALL, *own(tmp_path / "a")])
    assert f"1 of 8 rows measured: {tmp_path / 'a'}" in capsys.readouterr().err
    found = json.loads((tmp_path / "a" / "ablate.json").read_text())
    assert [t["row"] for t in found["trials"]] == ["autoregressive"]
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"ablate.json", "ablate.md", "error_by_horizon.png"}


def chosen(*rows: str) -> Plan:
    return plan(read_table("diffusion"), rows, SMALL)


def test_a_row_is_what_its_agent_learns_by_itself() -> None:
    """The same weights, bit by bit, as the agent's own learner on the same batches."""
    config = chosen("diffusion").rows[0].config
    env = open_env(config, num_envs=1, workers=0, training=False)
    env.close()
    games = record(config, 2, steps_of(config))
    with open_course(config, games) as course:
        lesson = learn_tokens(config, env.spec, CPU, course, FEW)
        agent, _ = learn_dynamics(config, env.spec, CPU, course, lesson)
        other = new_agent(config, env.spec, CPU)
        other.world_model.tokenizer = lesson.tokenizer
        assert not same(other.world_model.dynamics, agent.world_model.dynamics)
        phase = phase_of(config, other.learners()[1], CPU)
        for batch in course.batches(phase, config.seed, FEW.updates):
            phase.update(batch)
    assert same(other.world_model.dynamics, agent.world_model.dynamics)


def same(a: object, b: object) -> bool:
    """Whether two nets have the same weights."""
    assert isinstance(a, nn.Module) and isinstance(b, nn.Module)
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)
