"""What `check-env` says of real environments, and how it refuses what cannot be learned in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from envs import gl
from runners.cli import main
from tests.test_cli import run
from tests.test_envs_dmc import needs_dmc

pytest.importorskip("gymnasium")

MAZE = '''
import gymnasium, numpy as np
from gymnasium import spaces

class Maze(gymnasium.Env):
    """A corridor, seen as a number and a choice."""
    observation_space = spaces.Dict({"door": spaces.Discrete(2), "place": spaces.Box(0, 4, (1,))})
    action_space = spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = 2
        return self.see(), {}

    def step(self, action):
        self.x = min(max(self.x + 2 * int(action[0]) - 1, 0), 4)
        return self.see(), float(self.x == 4), self.x == 4, False, {}

    def see(self):
        return {"door": self.x // 3, "place": np.array([self.x], np.float32)}

class Mission(Maze):
    observation_space = spaces.Dict({"place": spaces.Box(0, 4, (1,)), "mission": spaces.Text(9)})

class Endless(Maze):
    observation_space = spaces.Dict({"all": spaces.Discrete(10**6)})

    def see(self):
        return {"all": self.x}

class Broken(Maze):
    def step(self, action):
        if self.x == 3:
            return np.stack([np.zeros(2), np.zeros(3)])  # the line at fault
        return super().step([1, 0])

class Wrong(Maze):
    def see(self):
        return {"door": 2, "place": np.array([self.x], np.float32)}
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with environments of its user."""
    (tmp_path / "mazes.py").write_text(MAZE)
    return tmp_path


def checked(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What the command prints where all is well."""
    assert main(["check-env", *words, "steps=20"]) == 0
    return capsys.readouterr().out.splitlines()


def test_cart_pole(capsys: pytest.CaptureFixture[str]) -> None:
    lines = checked(capsys, "CartPole-v1")
    assert lines[0] == "gym (CartPole-v1) shows"
    assert lines[1].startswith("  vector of 4, seen -")
    assert lines[2:8] == [
        "    -> 4 tokens of 401 codes, by agent.vectors.kind=bins",
        "and is acted on by",
        "  one of 2",
        "    -> the policy draws one of them, from 2 outputs",
        "    -> the world model is told which one, in 1 position",
        "agent state_tokens: 4 tokens a frame, 401 codes in all",
    ]
    assert lines[-2:] == [
        "seeds repeat a game exactly",
        "to train in it: tokendream train env=gym env.id=CartPole-v1",
    ]


@needs_dmc
@pytest.mark.skipif(bool(gl.missing_packages("egl")), reason="no EGL")
def test_pictures_and_state_of_dm_control(tmp_path: Path) -> None:
    # In a process of its own: dm-control binds its process to a renderer, or to none.
    words = ["env=dmc_vision", "env.observe=both", "env.quality=fast", "agent.actions.form=tokens"]
    code = "import sys; from runners.cli import main; sys.exit(main(['check-env', *sys.argv[1:]]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "steps=5"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for said in (
        "  pixels: image 64x64x3, seen ",
        "    -> 4 tokens of 1,024 codes, by agent.tokenizer.kind=delta_vq",
        "  state: vector of 24, seen ",
        "    -> 24 tokens of 125 codes, by agent.vectors.kind=bins",
        "  6 continuous in [-1, 1]",
        "the policy draws each number by itself, agent.policy.kind=gaussian, from 12 outputs",
        "told the nearest of 51 values, agent.actions.form=tokens, in 6 positions",
        "28 tokens a frame, 1,149 codes in all",
        "one step lasts 2 of the simulator's",
        "to train in it: tokendream train env=dmc_vision env.observe=both ",
    ):
        assert said in done.stdout


def test_pictures_of_crafter(capsys: pytest.CaptureFixture[str]) -> None:
    lines = checked(capsys, "env=crafter", "agent=iris", "size=tiny")
    assert lines[1].startswith("  image 64x64x3, seen 0 to 2")
    assert lines[2].endswith("by agent.tokenizer.kind=frame_vq")


def test_an_environment_of_the_working_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    lines = checked(capsys, "mazes:Maze", "agent.actions.form=tokens")
    assert lines[1:5] == [
        "  door: 1 choice of 2, seen 0 to 1",
        "    -> 1 token of 2 codes, as they are",
        "  place: vector of 1, seen 0 to 4",
        "    -> 1 token of 401 codes, by agent.vectors.kind=bins",
    ]
    assert "from 5 outputs" in lines[7] and lines[8].endswith("form=tokens, in 2 positions")


def test_workers_find_the_working_folder_too(folder: Path) -> None:
    root = Path(__file__).parent.parent
    code = (
        f"import sys; sys.path[:] = [p for p in sys.path if p]; sys.path.insert(0, {str(root)!r})\n"
        "import numpy as np\nfrom envs.make import make_env\n"
        "env = make_env({'suite': 'gym', 'id': 'mazes:Maze'}, num_envs=2, workers=2)\n"
        "print(env.reset(0)['place'].tolist()); env.step(np.zeros((2, 2), int)); env.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.stdout.strip() == "[[2.0], [2.0]]", done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mazes:Mission"], "observation 'mission' is of the space Text.*leave it out, with"),
        (["mazes:Maz"], "env.id=mazes:Maz is unknown in .*mazes.py; nearest: mazes:Maze"),
        (["maze:Maze"], "needs the package maze, which is neither installed nor in the working"),
        (["CartPol-v1"], "env.id=CartPol-v1 is unknown; nearest: CartPole-v1"),
        (["env=dmc_state", "env.task=wlaker-walk"], "env.task=wlaker-walk.*nearest: walker-walk"),
        (["mazes:Wrong"], "observation 'door' is out of range: 2 of 2 choices from 0"),
        (["walker-walk"], "did you mean: env=dmc_vision env.task=walker-walk"),
        (["pong"], "did you mean: env=atari env.game=pong"),
        (["crafter"], "did you mean: env=crafter"),
        (["CartPole-v1", "step=3"], "there is no setting 'step'"),
        (
            ["mazes:Broken"],
            r"raised ValueError in step 2 of an episode, .*mazes.py:34: all input arrays must",
        ),
        (["mazes:Endless"], "observation 'all' is one of 1000000 categories"),
    ],
)
def test_a_mistake_is_told_before_torch_is_there(folder: Path, words: list[str], said: str) -> None:
    done = run(folder, "check-env", *words)
    assert done.returncode == 2 and done.stdout == ""
    assert re.search(said, done.stderr) and "Traceback" not in done.stderr
    if "did you mean" not in done.stderr:
        assert done.stderr.count("\n") == 1


def test_training_refuses_it_in_the_same_words(folder: Path) -> None:
    done = run(folder, "train", "env=gym", "env.id=CartPol-v1")
    assert done.returncode == 2 and "nearest: CartPole-v1" in done.stderr
