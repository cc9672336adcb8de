"""Checkpoints: a nested state as safetensors plus JSON, of which nothing is ever unpickled.

A checkpoint is a folder: `model.safetensors` (what lies under the key `model`, for sharing),
`tensors.safetensors` (all other tensors and arrays) and `state.json` (the rest, and where each
tensor belongs). It is written under another name, synced, then renamed. torch is imported only
when a state is read or written, so that listing checkpoints is quick.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runners.checkpoint_files import (
    FILES,
    FORMAT,
    aside,
    checksum,
    present,
    read_json,
    verify_file,
)
from runners.durable import disk_full_explained, sync_file
from runners.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn


def save(folder: Path, state: Mapping[str, Any], *, score: float | None = None) -> None:
    """Write `state` to `folder`; one that is there is replaced at once or not at all.

    Holds dicts (keys str or int), lists, tuples, tensors of any device, NumPy arrays and
    scalars, numbers, strings, bools and None. Raises TypeError at anything else, before it
    writes, and UserError where the disk is full.
    """
    pack = _Pack()
    tree = pack.encode(dict(state), ())
    _recover(folder)
    new = folder.with_name(".new")
    with disk_full_explained(folder.parent):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        try:
            files = {name: pack.write(new / name, name) for name in FILES}
            content = {"format": FORMAT, "score": score, "files": files, "state": tree}
            (new / "state.json").write_text(json.dumps(content), encoding="utf-8")
            for path in (*new.iterdir(), new):
                sync_file(path)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            raise
    _swap(new, folder)


def load(folder: Path) -> dict[str, Any]:
    """The state that was saved: equal types, shapes and bits, tensors on the CPU.

    Raises UserError where it is missing, damaged, or not one of ours.
    """
    folder = present(folder)
    content = read_json(folder)
    tensors = {name: _read_tensors(folder, name, content["files"]) for name in FILES}
    try:
        state = _decode(content["state"], tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint {folder} is damaged: state.json: {error!r}") from error
    assert isinstance(state, dict)
    return state


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Put weights into a module; UserError names what differs where they are not its own."""
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    new = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    faults = [
        f"{name} {new[name]} instead of {own[name]}"
        for name in own.keys() & new.keys()
        if own[name] != new[name]
    ]
    faults += [f"{name} is missing" for name in own.keys() - new.keys()]
    faults += [f"{name} is unknown" for name in new.keys() - own.keys()]
    if faults:
        shown = "; ".join(sorted(faults)[:3])
        raise UserError(
            f"checkpoint {source} does not fit these settings: {len(faults)} of {len(own)} tensors "
            f"differ ({shown}); was it made with another agent or size?"
        )
    module.load_state_dict(dict(weights))


class Checkpoints:
    """The checkpoints of a run, named by `Numbering`: the newest `keep` and the best stay."""

    def __init__(self, folder: Path, keep: int) -> None:
        assert keep >= 1
        self.folder, self.keep = folder, keep

    def all(self) -> list[Path]:
        """All checkpoints, oldest first."""
        names = os.listdir(self.folder) if self.folder.exists() else []
        found = {
            match[1] for name in names if (match := re.fullmatch(r"(?:\.old-)?(\d{7,})", name))
        }
        return [self.folder / name for name in sorted(found, key=int)]

    def last(self) -> Path | None:
        """The newest one."""
        return next(reversed(self.all()), None)

    def best(self) -> Path | None:
        """The one with the highest score, the newer of equals; None where none has a score."""
        best, best_score = None, -float("inf")
        for folder in self.all():
            score = _score(folder)
            if score is not None and score >= best_score:
                best, best_score = folder, score
        return best

    def save(self, step: int, state: Mapping[str, Any], score: float | None = None) -> Path:
        """Write the checkpoint of `step`, then delete those that need not stay."""
        folder = self.folder / f"{step:07d}"
        save(folder, state, score=score)
        stay = {*self.all()[-self.keep :], folder, self.best()}
        for other in self.all():
            if other not in stay:
                _delete(other)
        return folder


class _Pack:
    """Collects the tensors of a state by file, and leaves references in their places."""

    def __init__(self) -> None:
        self.tensors: dict[str, dict[str, Tensor]] = {name: {} for name in FILES}
        self._storages: set[int] = set()

    def encode(self, value: Any, path: tuple[str, ...]) -> Any:
        import torch

        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, torch.Tensor):
            return {"$tensor": self._keep(value, path)}
        if isinstance(value, np.ndarray):
            try:
                tensor = torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))
            except TypeError as error:
                raise TypeError(f"a checkpoint cannot hold {value.dtype} at {path}") from error
            return {"$array": self._keep(tensor, path)}
        if isinstance(value, list | tuple):
            items = [self.encode(item, (*path, str(i))) for i, item in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        if isinstance(value, Mapping) and all(type(key) in (str, int) for key in value):
            pairs = [(key, self.encode(item, (*path, str(key)))) for key, item in value.items()]
            plain = all(isinstance(key, str) and not key.startswith("$") for key in value)
            return dict(pairs) if plain else {"$items": pairs}
        raise TypeError(f"a checkpoint cannot hold {type(value).__name__} at {path}")

    def _keep(self, tensor: Tensor, path: tuple[str, ...]) -> list[str]:
        file = FILES[0 if path[0] == "model" else 1]
        name = ".".join(path[1:] if path[0] == "model" and len(path) > 1 else path)
        while name in self.tensors[file]:
            name += "'"
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        if storage in self._storages:
            tensor = tensor.clone()
        self._storages.add(storage)
        self.tensors[file][name] = tensor
        return [file, name]

    def write(self, path: Path, file: str) -> int:
        """Write one file; returns its checksum."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        try:
            save_file(self.tensors[file], path)
        except SafetensorError as error:
            if number := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(number[1]), str(error)) from error
            raise
        return checksum(path)


def _decode(value: Any, tensors: Mapping[str, Mapping[str, Tensor]]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$tensor": [file, name]}:
            # Own memory, not the mapped file: aligned as it was, so that results repeat exactly.
            return tensors[file][name].clone()
        case {"$array": [file, name]}:
            return tensors[file][name].clone().numpy()
        case {"$tuple": items}:
            return tuple(_decode(item, tensors) for item in items)
        case {"$items": items}:
            return {key: _decode(item, tensors) for key, item in items}
    return {key: _decode(item, tensors) for key, item in value.items()}


def _read_tensors(folder: Path, name: str, checksums: Mapping[str, int]) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    verify_file(folder, name, checksums)
    try:
        return load_file(folder / name)
    except SafetensorError as error:
        raise UserError(f"checkpoint {folder} is damaged: {name}: {error}") from error


def _score(folder: Path) -> float | None:
    try:
        score = read_json(present(folder)).get("score")
    except UserError:
        return None
    return float(score) if score is not None and score == score else None


def _recover(folder: Path) -> None:
    if not folder.exists() and aside(folder).exists():
        os.rename(aside(folder), folder)


def _swap(new: Path, folder: Path) -> None:
    old = aside(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    sync_file(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _delete(folder: Path) -> None:
    """Out of sight first, so that a crash never leaves half a checkpoint."""
    _recover(folder)
    gone = folder.with_name(".gone")
    shutil.rmtree(gone, ignore_errors=True)
    shutil.rmtree(aside(folder), ignore_errors=True)
    os.rename(folder, gone)
    shutil.rmtree(gone)
