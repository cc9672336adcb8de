"""The command line as a user meets it: real processes, their exit codes and what they print."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runners import cli, commands
from runners.checkpoint import save
from runners.settings.load import load, to_yaml
from runners.settings.options import ImagineOptions

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one run that never came to a checkpoint."""
    run = tmp_path / "runs" / "crafter" / "delta_iris" / "2026-01-02_03-04-05_s0_abcd"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(load(["size=tiny"]).config))
    (run / "summary.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in its own process. Any import of torch in it fails."""
    block = (
        "import sys; sys.modules['torch'] = None; from runners.cli import main; sys.exit(main())"
    )
    return subprocess.run(
        [sys.executable, "-c", block, *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=200,
    )


def contents(folder: Path) -> dict[str, float]:
    """All files with their times."""
    return {str(path): path.stat().st_mtime for path in folder.rglob("*")}


WRONG = [
    (["trian"], "did you mean: train"),
    (["--wrong"], "see: tokendream --help"),
    (["train", "env.num_env=3"], "did you mean: env.num_envs"),
    (["train", "seed=x", "env.num_envs=0"], "2 wrong setting(s)"),
    (["train", "seed=-3"], "greater than or equal to 0"),
    (["train", "env=craftr"], "did you mean: crafter"),
    (["train", "config=none.yaml"], "cannot read none.yaml"),
    (["train", "--seed", "1"], "settings have no dashes"),
    (["train", "agent.tokenizer.tokens=3"], "must be one of 1, 4, 16, 64"),
    (["train", "agent.view=reconstruction"], "which the first has not"),
    (["train", "agent.view=tokens"], "delta tokens do not show a whole frame"),
    (["train", "agent=delta_iris_tokens", "agent.behaviour.horizon=16"], "too few for imagination"),
    (["bench", "device=gpu"], "'auto', 'cpu' or 'cuda'"),
    (["bench", "parts=[dynamic]"], "error: parts=[dynamic] (command line): item 1"),
    (["config", "size=huge"], "there are: paper, small, tiny"),
    (["list", "game"], "did you mean: games"),
    (["list", "task"], "did you mean: tasks"),
    (["train", "env=dmc_state", "env.task=wlaker-walk"], "nearest: walker-walk"),
    (["ablate", "rows=[step_1]"], "did you mean: steps_1"),
    (["ablate", "table=diffusio"], "did you mean: diffusion"),
    (["ablate", "seed=3"], "seeds=3, not seed="),
    (["doctor", "x=1"], "doctor takes no settings"),
    (["evaluate"], "evaluate needs a RUN"),
    (["evaluate", "2027"], "2027"),
    (["resume", "nothing"], "nothing"),
    (["imagine", "nothing", "horizon=0"], "greater than or equal to 1"),
    (["evaluate", "last"], "has no checkpoint"),
    (["evaluate", "last", "episods=3"], "did you mean: episodes"),
    (["imagine", "2026", "checkpoint=best"], "has no checkpoint"),
    (["resume", "last", "seed=1"], "seed: 0 in the run, 1 asked for"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_a_wrong_command_ends_in_one_message(folder: Path, words: list[str], said: str) -> None:
    before = contents(folder)
    done = run(folder, *words)
    assert done.returncode == 2 and done.stdout == ""
    assert said in done.stderr and done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert contents(folder) == before


@pytest.mark.parametrize("command", ["resume", "evaluate", "imagine"])
@pytest.mark.parametrize("file", ["state.json", "model.safetensors", "tensors.safetensors"])
def test_a_damaged_checkpoint_is_told_before_torch_is_there(
    folder: Path, command: str, file: str
) -> None:
    point = next(folder.glob("runs/*/*/*")) / "checkpoints" / "0000100"
    save(point, {"model": {}})
    damaged = bytearray((point / file).read_bytes())
    damaged[-1] ^= 1
    (point / file).write_bytes(bytes(damaged))
    before = contents(folder)
    done = run(folder, command, "last")
    assert done.returncode == 2 and done.stdout == ""
    assert f"is damaged: {file}" in done.stderr and "Traceback" not in done.stderr
    assert contents(folder) == before


def test_a_damaged_checkpoint_names_the_newest_sound_one_before(folder: Path) -> None:
    points = next(folder.glob("runs/*/*/*")) / "checkpoints"
    for number in ("0000100", "0000200", "0000300"):
        save(points / number, {"model": {}})
    for number in ("0000200", "0000300"):
        (points / number / "model.safetensors").unlink()
    done = run(folder, "resume", "last")
    assert done.returncode == 2 and "0000300 is damaged: model.safetensors" in done.stderr
    assert "to go on from checkpoint 0000100" in done.stderr


def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for env, extra in (("atari", "atari"), ("dmc_state", "dmc"), ("gym", "gym")):
        assert cli.main(["train", f"env={env}"]) == 2
        assert f'pip install "tokendream[{extra}]"' in capsys.readouterr().err


def test_what_drawing_needs_is_told_before_torch_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("envs.gl.loads", lambda name: False)
    assert cli.main(["train", "env=dmc_vision"]) == 2
    told = capsys.readouterr().err
    assert "apt-get install --no-install-recommends libegl1 libopengl0 libegl-mesa0" in told
    assert told.count("\n") == 1 and "env.observe=state" in told


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a GPU")
def test_a_missing_gpu_is_told_before_torch_is_there(folder: Path) -> None:
    done = run(folder, "train", "device=cuda")
    assert done.returncode == 2 and "did you mean: device=auto" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help"], "train [key=value ...]"),
        (["--version"], "tokendream"),
        (["train", "--help"], "agent.behaviour.gamma"),
        (["train", "env=atari", "-h"], "env.game"),
        (["resume", "--help"], "run.steps"),
        (["evaluate", "--help"], "episodes"),
        (["imagine", "--help"], "horizon"),
        (["list", "--help"], "games"),
        (["doctor", "--help"], "no settings"),
        (["list"], "Crafter, 64x64"),
        (["list", "agents"], "delta_iris_tokens"),
        (["compare", "--help"], "random"),
        (["quantizers", "--help"], "updates"),
        (["ablate", "--help"], "tokenizer_updates"),
        (["list", "tables"], "sampler.steps=root"),
        (["bench", "--help"], "seconds"),
        (["list", "games"], "ms_pacman"),
        (["list", "tasks"], "18 tasks on which agents are compared"),
        (["check-env", "--help"], "package.module:EnvId"),
        (["list", "runs"], "2026-01-02_03-04-05_s0_abcd"),
        (["list", "runs", "root=elsewhere"], "no runs in elsewhere"),
        (["config", "size=tiny", "seed=3"], "command line"),
    ],
)
def test_help_and_lists_need_no_torch(folder: Path, words: list[str], said: str) -> None:
    before = contents(folder)
    done = run(folder, *words)
    assert done.returncode == 0 and done.stderr == ""
    assert said in done.stdout
    assert contents(folder) == before


def test_config_tells_value_meaning_and_origin(folder: Path) -> None:
    lines = run(folder, "config", "size=tiny", "run.steps=3e4").stdout.splitlines()
    steps = next(line for line in lines if line.startswith("run.steps "))
    assert steps.split()[1] == "30000" and steps.endswith("command line")
    assert "environment steps in all" in steps
    assert next(line for line in lines if line.startswith("threads ")).endswith("default")


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "seed=x"]])
def test_an_answer_costs_less_than_half_a_second_of_processor_time(
    folder: Path, words: list[str]
) -> None:
    # Processor time and the best of five, as other programs may run on this machine.
    times = []
    for _ in range(5):
        before = children_seconds()
        run(folder, *words)
        times.append(children_seconds() - before)
    assert min(times) < 0.5


def children_seconds() -> float:
    """Processor time of all finished child processes."""
    used = os.times()
    return used.children_user + used.children_system


def test_every_command_is_documented_in_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    printed = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name} {command.usage}".rstrip() in printed
        assert command.details()


def test_a_right_command_reaches_its_function(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runners import dream

    save(next(folder.glob("runs/*/*/*")) / "checkpoints" / "0000100", {})
    calls: list[tuple[Path, ImagineOptions]] = []
    monkeypatch.setattr(dream, "main", lambda run_dir, options: calls.append((run_dir, options)))
    assert commands.imagine(["last", "horizon=7"]) == 0
    (run_dir, options) = calls[0]
    assert run_dir.name == "2026-01-02_03-04-05_s0_abcd" and options.horizon == 7
    assert options == ImagineOptions(horizon=7)


def test_python_m_runners_is_the_same_command(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runners", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert done.stdout == run(folder, "--help").stdout
