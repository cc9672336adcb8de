"""What docs/extending.md says to write and to run does what it says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
COPIED = ("agents", "configs", "envs", "runners", "tests", "worldmodels")
PROGRAMS = {"pytest": ["pytest", "-q"], "tokendream": ["runners"]}

# A paragraph that begins with a path and ends in a colon, then the block.
BLOCK = re.compile(r"^`([\w/]+\.\w+)`(?:(?!\n\n).)*:\n\n```(\w+)\n(.*?)^```$", re.M | re.S)
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)
COMMANDS = [line for block in SHELL.findall(TEXT) for line in block.splitlines()]

# Fewer of all that takes time; networks stay those of the command.
FEW = """
device=cpu precision=float32 threads=1 console=plain env.num_envs=2 env.workers=0 env.length=12
run.steps=30 run.first_steps=20 run.epoch_steps=10 run.chunk_steps=5 run.tail_epochs=0
run.eval_episodes=2 run.eval_envs=2 agent.phases.tokenizer.first_updates=1
agent.phases.tokenizer.updates=1 agent.phases.world_model.first_updates=1
agent.phases.world_model.updates=1 agent.phases.policy.first_updates=1
agent.phases.policy.updates=1
"""


def edited(text: str, diff: str) -> str:
    """The text with each hunk done; hunks have no line numbers, so each must fit in one place."""
    for hunk in re.split(r"^@@\n", diff, flags=re.M):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        # A line's end belongs to it, and its beginning must too.
        assert before and f"\n{text}".count(f"\n{before}") == 1, hunk
        text = f"\n{text}".replace(f"\n{before}", f"\n{after}")[1:]
    return text


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which all blocks of the page are written."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in COPIED:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for path, language, block in BLOCK.findall(TEXT):
        file = copy / path
        assert file.exists() == (language == "diff"), path
        old = file.read_text(encoding="utf-8") if file.exists() else ""
        file.write_text(edited(old, block) if old else block, encoding="utf-8")
    return copy


def run(checkout: Path, *words: str) -> None:
    """A module of Python in the copy. Fails with what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_block_is_a_file_an_edit_or_a_command() -> None:
    found = len(BLOCK.findall(TEXT)) + len(SHELL.findall(TEXT))
    assert found == len(re.findall(r"^```\w+$", TEXT, re.M))
    assert {line.split()[0] for line in COMMANDS} == PROGRAMS.keys()


def test_the_code_is_in_the_style_of_the_house(checkout: Path) -> None:
    run(checkout, "ruff", "check", "--quiet", "--no-cache")
    run(checkout, "ruff", "format", "--check", "--quiet", "--no-cache")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_works(checkout: Path, command: str) -> None:
    program, *words = shlex.split(command)
    few = FEW.split() if words[0] == "train" else []
    run(checkout, *PROGRAMS[program], *words, *few)
