"""Writes that survive a crash: whole or not at all. Standard library only."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runners.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sync_file(path: Path) -> None:
    """Wait until the content of a file, or the entries of a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, text: str) -> None:
    """Replace a file by `text`; a crash leaves the old content or the new, never a mixture."""
    temporary = path.with_name(path.name + ".tmp")
    with disk_full_explained(path.parent):
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_file(path.parent)


@contextmanager
def disk_full_explained(folder: Path) -> Iterator[None]:
    """Turn a full disk, quota or file size limit met inside into a UserError naming `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free = shutil.disk_usage(folder).free
        raise UserError(
            f"cannot write to {folder}: {os.strerror(error.errno)} ({free / 2**20:,.0f} MiB free); "
            "what was committed before is safe, make room and resume the run"
        ) from error


def folder_for_output(out: str) -> Path:
    """The folder that a command was told to write to, made if need be; raises UserError."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out}: cannot make this folder: {error.strerror}") from error
    return folder


def json_text(value: Any) -> str:
    """JSON with null for each NaN, which JSON does not know."""
    return json.dumps(_without_nan(value), indent=1) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
