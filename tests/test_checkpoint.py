"""Checkpoints: equal bits come back, crashes and damage are survived and told."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from runners import checkpoint
from runners.checkpoint import Checkpoints, load, load_weights, save
from runners.durable import sync_file
from runners.errors import UserError


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert (
            one.contiguous()
            .view(-1)
            .view(torch.uint8)
            .equal(other.contiguous().view(-1).view(torch.uint8))
        )
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert one.tobytes() == other.tobytes()
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for mine, its in zip(one, other, strict=True):
            assert_same(mine, its)
    else:
        assert one == other or (one != one and other != other)


def everything() -> dict[str, Any]:
    rng = np.random.default_rng(7)
    rng.integers(0, 5, 3, np.uint16)
    torch.manual_seed(1)
    shared = torch.randn(4, 6)
    dtypes = (np.uint8, np.bool_, np.int64, np.float32, np.uint16, np.int16, np.float64, np.int32)
    return {
        "model": dict(network().state_dict()),
        "arrays": {np.dtype(d).name: rng.integers(0, 2, (3, 2)).astype(d) for d in dtypes},
        "empty": [np.zeros((0, 4)), torch.zeros(2, 0), np.array(3.5), torch.tensor(2), [], {}, ()],
        "bf16": torch.randn(5).bfloat16(),
        "half": torch.randn(5).half(),
        "strided": shared.t(),
        "views": [shared[:2], shared[1:], shared],
        "rng": {"torch": torch.get_rng_state(), "numpy": rng.bit_generator.state},
        "keys": {0: "a", -5: {1: 2.5}, "x": None, "$odd": True},
        "a": {"b.c": torch.ones(1)},
        "a.b": {"c": torch.zeros(1)},
        "numbers": [1, 2**200, -0.0, float("inf"), float("nan"), 0.1, True, None, "é\n"],
        "pair": ((1, 2), [3]),
        "big endian": np.arange(3, dtype=">i4").astype("<i4"),
    }


def test_everything_comes_back(tmp_path: Path) -> None:
    state = everything()
    save(tmp_path / "c", state)
    assert_same(load(tmp_path / "c"), state)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"model.safetensors", "tensors.safetensors", "state.json"}
    read_only = np.arange(3)
    read_only.flags.writeable = False
    save(tmp_path / "c", {"x": np.float32(0.5), "y": np.arange(3, dtype=">i4"), "z": read_only})
    again = load(tmp_path / "c")
    assert again["x"] == 0.5 and again["y"].tolist() == [0, 1, 2] == again["z"].tolist()
    again["z"][0] = 4


def test_model_file_is_a_plain_state_dict(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    net, other = network(), network()
    save(tmp_path / "c", {"model": net.state_dict(), "step": 3})
    other.load_state_dict(load_file(tmp_path / "c" / "model.safetensors"))
    assert_same(dict(other.state_dict()), dict(net.state_dict()))


def test_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def update(net: nn.Module, opt: torch.optim.Optimizer, rng: np.random.Generator) -> None:
        x = torch.randn(8, 3) + torch.from_numpy(rng.standard_normal((8, 3), np.float32))
        opt.zero_grad()
        nn.functional.dropout(net(x), 0.5).square().mean().backward()
        opt.step()

    def start() -> tuple[nn.Module, torch.optim.Optimizer, np.random.Generator]:
        torch.manual_seed(0)
        net = network()
        return net, torch.optim.AdamW(net.parameters(), lr=1e-2), np.random.default_rng(0)

    straight = start()
    for _ in range(10):
        update(*straight)
    net, opt, rng = start()
    for _ in range(4):
        update(net, opt, rng)
    state = {"model": net.state_dict(), "opt": opt.state_dict()}
    save(tmp_path / "c", state | {"np": rng.bit_generator.state, "torch": torch.get_rng_state()})
    torch.manual_seed(9)
    loaded, (net, opt, rng) = load(tmp_path / "c"), start()
    net.load_state_dict(loaded["model"])
    opt.load_state_dict(loaded["opt"])
    rng.bit_generator.state = loaded["np"]
    torch.set_rng_state(loaded["torch"])
    for _ in range(6):
        update(net, opt, rng)
    assert_same(dict(net.state_dict()), dict(straight[0].state_dict()))
    assert_same(opt.state_dict(), straight[1].state_dict())


@pytest.mark.parametrize("bad", [{1, 2}, object(), np.array(["a"]), {1.5: 2}, b"raw", {(1, 2): 3}])
def test_what_cannot_be_held_is_refused_before_writing(tmp_path: Path, bad: Any) -> None:
    with pytest.raises(TypeError, match=r"cannot hold .* \('deep', '0'"):
        save(tmp_path / "c", {"deep": [bad]})
    assert not any(tmp_path.iterdir())


def test_newest_and_best_stay(tmp_path: Path) -> None:
    points = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert points.last() is None and points.best() is None and points.all() == []
    for step, score in enumerate([None, 1.0, 5.0, 2.0, float("nan"), 5.0, 0.0, None]):
        path = points.save(step * 1000, {"step": step}, score)
        assert points.last() == path and load(path) == {"step": step}
    assert [path.name for path in points.all()] == ["0005000", "0006000", "0007000"]
    assert points.best() == tmp_path / "checkpoints" / "0005000"
    points.save(12_345_678, {})
    points.save(12_345_678, {"again": 1})
    assert [path.name for path in points.all()] == ["0005000", "0007000", "12345678"]
    assert sorted(os.listdir(points.folder)) == ["0005000", "0007000", "12345678"]


@pytest.mark.parametrize("crash_at", range(14))
def test_a_crash_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    """Dies at the n-th touch of the disk, saving a step again and another one, then goes on."""
    points, touches = Checkpoints(tmp_path, keep=1), 0

    def dying(call: Any) -> Any:
        def touch(*args: Any, **kwargs: Any) -> Any:
            nonlocal touches
            touches += 1
            if touches == crash_at + 1:
                raise KeyboardInterrupt
            return call(*args, **kwargs)

        return touch

    points.save(3, {"x": torch.zeros(2), "which": "old"}, 1.0)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(checkpoint, "sync_file", dying(sync_file))
        patched.setattr(os, "rename", dying(os.rename))
        points.save(3, {"x": torch.ones(2), "which": "new"}, 1.0)
        points.save(4, {"x": torch.ones(2), "which": "next"}, 2.0)
    last = points.last()
    assert last is not None and points.best() == last
    state = load(last)
    assert state["x"].tolist() == ([0, 0] if state["which"] == "old" else [1, 1])
    points.save(3, {"which": "after"}, 3.0)
    points.save(5, {"which": "later"}, 4.0)
    assert sorted(os.listdir(tmp_path)) == ["0000005"]


def test_damage_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        load(tmp_path / "c")
    (tmp_path / "c").mkdir()
    with pytest.raises(UserError, match="not a checkpoint: state.json is missing"):
        load(tmp_path / "c")
    save(tmp_path / "c", everything())
    for name in ("model.safetensors", "tensors.safetensors", "state.json"):
        file = tmp_path / "c" / name
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[-3] ^= 1
        for damaged in (b"", content[: len(content) // 2], bytes(flipped), None):
            if damaged is None:
                file.unlink()
            elif name != "state.json" or damaged != bytes(flipped):
                file.write_bytes(damaged)
            else:
                continue
            with pytest.raises(UserError, match=name.replace(".", r"\.")):
                load(tmp_path / "c")
        file.write_bytes(content)
    assert_same(load(tmp_path / "c"), everything())


def test_foreign_ones_are_told(tmp_path: Path) -> None:
    save(tmp_path / "c", {"x": 1})
    path = tmp_path / "c" / "state.json"
    content = json.loads(path.read_text())
    for text, message in (
        (json.dumps(content | {"format": 99}), "has format 99, this version reads 1"),
        ('{"epoch": 3}', "not a checkpoint of tokendream"),
        ("[]", "not a checkpoint of tokendream"),
        (json.dumps(content | {"state": {"$tensor": ["a", "b"]}}), "damaged: state.json"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load(tmp_path / "c")


def test_weights_of_another_size_are_told(tmp_path: Path) -> None:
    net, weights = network(), network().state_dict()
    load_weights(net, weights, tmp_path)
    assert_same(dict(net.state_dict()), dict(weights))
    odd = {"0.weight": torch.zeros(4, 9), "new": torch.zeros(1)}
    with pytest.raises(UserError) as caught:
        load_weights(net, {k: v for k, v in weights.items() if k != "2.bias"} | odd, tmp_path)
    assert (
        "3 of 6 tensors differ (0.weight (4, 9) instead of (4, 3); 2.bias is missing; new is un"
        in str(caught.value)
    )


def test_full_disk_is_told_and_the_old_one_stays(tmp_path: Path) -> None:
    points = Checkpoints(tmp_path, keep=1)
    points.save(1, {"x": torch.zeros(10)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(UserError, match=f"{os.strerror(errno.EFBIG)}.*MiB free"):
            points.save(2, {"x": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["0000001"]


def test_listing_needs_no_torch(tmp_path: Path) -> None:
    Checkpoints(tmp_path, keep=1).save(1, {}, 2.0)
    code = (
        "import sys; from pathlib import Path; from runners.checkpoint import Checkpoints;"
        "points = Checkpoints(Path(sys.argv[1]), 1); assert points.best() == points.last();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
