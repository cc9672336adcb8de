"""The files of a checkpoint: where they lie, what state.json says of them, whether all are whole.

Nothing here needs torch.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runners.errors import UserError

FORMAT = 1
FILES = ("model.safetensors", "tensors.safetensors")


class Damaged(UserError):
    """A checkpoint of ours, of which a file is missing or not what was written."""


def verify(folder: Path) -> None:
    """Raises Damaged, as `load` would, or UserError where it is not one of ours."""
    folder = present(folder)
    checksums = read_json(folder)["files"]
    for name in FILES:
        verify_file(folder, name, checksums)


def is_sound(folder: Path) -> bool:
    """Whether `verify` finds nothing."""
    try:
        verify(folder)
    except UserError:
        return False
    return True


def verify_file(folder: Path, name: str, checksums: Mapping[str, int]) -> None:
    """Raises Damaged where one of FILES is missing or not what was written."""
    try:
        if checksum(folder / name) != checksums[name]:
            raise Damaged(f"checkpoint {folder} is damaged: {name} is not what was written")
    except FileNotFoundError as error:
        raise Damaged(f"checkpoint {folder} is damaged: {name} is missing") from error
    except (KeyError, TypeError) as error:
        raise Damaged(f"checkpoint {folder} is damaged: state.json: {error!r}") from error


def read_json(folder: Path) -> dict[str, Any]:
    """The content of state.json; UserError where it is missing or not one of ours, Damaged."""
    path = folder / "state.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a checkpoint: state.json is missing")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Damaged(f"checkpoint {folder} is damaged: state.json is not JSON") from error
    if not isinstance(content, dict) or not {"format", "files", "state"} <= content.keys():
        raise UserError(f"{folder} is not a checkpoint of tokendream")
    if content["format"] != FORMAT:
        raise UserError(
            f"checkpoint {folder} has format {content['format']!r}, this version reads {FORMAT}"
        )
    return content


def checksum(path: Path) -> int:
    """The CRC-32 of a file."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


def aside(folder: Path) -> Path:
    """Where a checkpoint lies while it is being replaced."""
    return folder.with_name(f".old-{folder.name}")


def present(folder: Path) -> Path:
    """The checkpoint, also if a crash struck while it was being replaced; UserError without one."""
    if not folder.exists() and aside(folder).exists():
        return aside(folder)
    if not folder.is_dir():
        raise UserError(f"no checkpoint at {folder}")
    return folder
