"""The files that the perceptual loss needs: who asks for them, when, and what is said."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from runners import cli, train
from runners.compare import by_agent
from runners.results import check_alike, read_result
from runners.settings.load import load, read_for_resume, to_yaml
from tests.perceptual import on, save_weights
from tests.runs import small, words_of
from tests.test_cli import contents, run
from tests.test_report import make_run
from worldmodels.nets.lpips_files import LINEAR, VGG, folder_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("cache", [{}, {"XDG_CACHE_HOME": "/x"}, {"TORCH_HOME": "~/y"}])
def test_the_usual_folder_is_that_of_torch(
    monkeypatch: pytest.MonkeyPatch, cache: dict[str, str]
) -> None:
    for name in ("XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in cache.items():
        monkeypatch.setenv(name, value)
    assert str(folder_of(None)) == os.path.join(torch.hub.get_dir(), "checkpoints")


@pytest.mark.parametrize(
    ("command", "there"),
    [
        ("train", []),
        ("train", [LINEAR]),
        ("train", [VGG]),
        ("bench", []),
        ("quantizers", []),
        ("resume", []),
    ],
)
def test_a_missing_file_is_told_before_torch_is_there(
    tmp_path: Path, command: str, there: list[str]
) -> None:
    for name in there:
        (tmp_path / name).touch()
    words = ["agent=iris", "size=tiny", *on(tmp_path)]
    if command == "resume":
        made = tmp_path / "runs" / "crafter" / "iris" / "r"
        made.mkdir(parents=True)
        (made / "config.yaml").write_text(to_yaml(load(words).config))
        (made / "summary.json").write_text("{}")
        words = ["last"]
    before = contents(tmp_path)
    done = run(tmp_path, command, *words)
    assert done.returncode == 2 and done.stdout == "" and contents(tmp_path) == before
    assert done.stderr.startswith("error: agent.tokenizer.perceptual=0.5 needs published weights")
    assert done.stderr.count("error") == 1 and "Traceback" not in done.stderr
    assert f"not in {tmp_path}" in done.stderr and "perceptual_weights=FOLDER" in done.stderr
    for name in (VGG, LINEAR):
        assert (f"\n  {name}: " in done.stderr) == (name not in there)


def damaged(folder: Path, to: Path, how: str) -> str:
    """A copy of the weights in which something is wrong; what is said of it."""
    for name in (VGG, LINEAR):
        shutil.copy(folder / name, to / name)
    linear = torch.load(folder / LINEAR)
    first = next(iter(linear))
    if how == "keys":
        torch.save({"model": linear}, to / LINEAR)
        return f"{LINEAR} does not hold the weights lin0.model.1.weight"
    if how == "shape":
        torch.save(linear | {first: torch.rand(64)}, to / LINEAR)
        return "lin0.model.1.weight is (64,) instead of (1, 64, 1, 1)"
    if how == "number":
        torch.save(linear | {first: linear[first] * torch.nan}, to / LINEAR)
        return "lin0.model.1.weight is not finite"
    if how == "list":
        torch.save([1], to / LINEAR)
        return f"{LINEAR} does not hold weights by name"
    name = {"page": LINEAR, "cut": VGG}[how]
    content = (to / name).read_bytes()
    (to / name).write_bytes(content[: len(content) // 2] if how == "cut" else b"<html>")
    return f"cannot read {to / name}"


@pytest.mark.parametrize("how", ["keys", "shape", "number", "list", "page", "cut"])
def test_a_damaged_file_is_one_message(
    folder: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = damaged(folder, tmp_path, how)
    words = [*words_of("iris"), *on(tmp_path), f"root={tmp_path / 'runs'}"]
    assert cli.main(["train", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: agent.tokenizer.perceptual: ") and said in error
    assert len(error.splitlines()) == 1 and not (tmp_path / "runs").exists()


def test_a_trained_agent_plays_and_dreams_without_the_files(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(folder, tmp_path / "weights")
    few = ["agent.phases.tokenizer.batch=2", "agent.phases.tokenizer.frames=2", "run.steps=30"]
    config = small(f"root={tmp_path / 'runs'}", *on(moved), *few, agent="iris")
    made = train.main(config)
    lines = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    assert any(line.get("tokenizer/perceptual", 0) > 0 for line in lines)
    shutil.rmtree(moved)
    assert cli.main(["evaluate", str(made), "episodes=2"]) == 0
    assert cli.main(["imagine", str(made), "episodes=2", "horizon=3"]) == 0
    capsys.readouterr()
    assert cli.main(["resume", str(made), "run.steps=45"]) == 2
    assert f"not in {moved}" in capsys.readouterr().err
    elsewhere = f"agent.tokenizer.perceptual_weights={folder}"
    assert read_for_resume(made / "config.yaml", [elsewhere]).config.agent != config.agent


def test_where_the_files_lie_makes_no_other_agent(tmp_path: Path) -> None:
    words = "agent=iris", "agent.tokenizer.perceptual=1"
    own = "agent.tokenizer.perceptual_weights=here"
    runs = [
        make_run(tmp_path / "a", 0, [1.0], *words),
        make_run(tmp_path / "b", 1, [1.0], *words, own),
    ]
    results = [read_result(made) for made in runs]
    check_alike(results)
    assert len(by_agent(results)) == 1
