"""Imports go one way, and what must start quickly or run in many processes has no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("envs", "worldmodels", "agents", "runners")
TORCH_FREE = ("envs", "runners/settings")
"""Files of these folders may not import torch even inside a function."""


def sources(folder: str) -> list[Path]:
    """All modules of a folder."""
    return sorted((ROOT / folder).rglob("*.py"))


def imported(file: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_layers_below(layer: str) -> None:
    above = set(LAYERS[LAYERS.index(layer) + 1 :]) | {"tests"}
    assert sources(layer)
    for file in sources(layer):
        wrong = {name for name in imported(file) if name.split(".")[0] in above}
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("folder", TORCH_FREE)
def test_environments_and_settings_are_free_of_torch(folder: str) -> None:
    heavy = {"torch", "worldmodels", "agents", "tensorboard", "safetensors"}
    for file in sources(folder):
        wrong = {name for name in imported(file) if name.split(".")[0] in heavy}
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize(
    "module",
    [
        "envs.make",
        "envs.worker",
        "runners.cli",
        "runners.run_folder",
        "runners.settings.load",
        "runners.settings.show",
    ],
)
def test_importing_it_does_not_import_torch(module: str) -> None:
    code = (
        f"import sys, {module}; heavy = {{'torch', 'numba', 'gymnasium', 'crafter', 'ale_py'}};"
        "print(*heavy & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == ""


def test_no_file_is_longer_than_a_reader_can_bear() -> None:
    for layer in LAYERS:
        for file in sources(layer):
            lines = len(file.read_text(encoding="utf-8").splitlines())
            assert lines <= 300, f"{file.relative_to(ROOT)}: {lines} lines"
