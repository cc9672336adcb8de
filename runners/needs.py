"""What a command needs beyond the core, looked for before the slow imports."""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path

from envs.make import check_settings
from runners.errors import UserError
from runners.settings.config import Config
from runners.settings.tokenizers import AutoencoderSettings
from worldmodels.nets.lpips_files import ORIGINS, folder_of, missing


def need_environment(config: Config) -> None:
    """Raises UserError where the games of the settings are not known, or lack a package."""
    try:
        check_settings(config.env.model_dump())
    except ValueError as error:
        raise UserError(str(error)) from error


def need_package(module: str, extra: str, setting: str) -> None:
    """Raises UserError, with the line that installs it, where an optional package is missing."""
    if find_spec(module) is None:
        raise UserError(
            f"{setting} needs the package {module!r}, which is not installed\n"
            f'  install it: pip install "tokendream[{extra}]"'
        )


def need_perceptual(config: Config) -> None:
    """Raises UserError where training with a perceptual loss lacks a file; nothing is fetched."""
    tokenizer = config.agent.tokenizer
    if not isinstance(tokenizer, AutoencoderSettings) or not tokenizer.perceptual:
        return
    folder = folder_of(tokenizer.perceptual_weights)
    if lacking := missing(folder):
        told = "".join(f"\n  {name}: {ORIGINS[name]}" for name in lacking)
        raise UserError(
            f"agent.tokenizer.perceptual={tokenizer.perceptual:g} needs published weights, and "
            f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not in {folder}{told}"
            "\n  put what is missing there, or name another folder that has "
            f"{' and '.join(ORIGINS)}: agent.tokenizer.perceptual_weights=FOLDER"
        )


def need_format(name: str) -> None:
    """Raises UserError where clips of this format cannot be written."""
    if name == "mp4":
        need_package("av", "video", "format=mp4")


def need_device(device: str) -> None:
    """Raises UserError for device=cuda on a Linux machine without an NVIDIA driver."""
    if device != "cuda" or not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise UserError(
            "device='cuda': there is no NVIDIA driver on this machine (libcuda.so.1)\n"
            "  did you mean: device=auto"
        ) from error


def need_checkpoint(run_dir: Path, which: str) -> None:
    """Raises UserError where a run has no checkpoint, none with a score for `best`, or damaged."""
    from runners.checkpoint import Checkpoints
    from runners.checkpoint_files import verify

    checkpoints = Checkpoints(run_dir / "checkpoints", keep=1)
    last = checkpoints.last()
    if last is None:
        raise UserError(f"run {run_dir} has no checkpoint: it stopped before its first one")
    chosen = checkpoints.best() if which == "best" else last
    if chosen is None:
        raise UserError(
            f"checkpoint='best': run {run_dir} has not been evaluated yet\n"
            "  did you mean: checkpoint=last"
        )
    verify(chosen)


def need_sound_checkpoint(run_dir: Path) -> None:
    """Raises UserError where the checkpoint that a run would go on from is damaged.

    It names the newest sound one before. A run that another process trains is left to the lock,
    as its checkpoints come and go.
    """
    from runners.checkpoint import Checkpoints
    from runners.checkpoint_files import Damaged, is_sound, verify
    from runners.run_folder import is_locked

    points = Checkpoints(run_dir / "checkpoints", keep=1).all()
    if not points or is_locked(run_dir):
        return
    try:
        verify(points[-1])
    except Damaged as error:
        sound = next((point for point in reversed(points[:-1]) if is_sound(point)), None)
        way_out = f"\n  to go on from checkpoint {sound.name}, move that one away" if sound else ""
        raise UserError(f"{error}{way_out}") from error
