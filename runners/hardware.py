"""The machine: device, precision, threads, and how a CPU hands out memory."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from dataclasses import dataclass
from typing import Literal

import psutil
import torch

from envs.cores import available_cores
from envs.spaces import Obs
from envs.trees import each
from runners.errors import UserError

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Hardware:
    """Where tensors live and in what type networks compute."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """A context in which networks compute in `dtype`; weights stay float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def receive(self, obs: Obs) -> Obs:
        """Arrays of the host as tensors here; the copy does not wait."""
        return each(lambda x: torch.from_numpy(x).to(self.device, non_blocking=True), obs)

    def describe(self) -> str:
        """One line for the run's header."""
        threads = torch.get_num_threads()
        name = f"{threads} CPU thread{'s' * (threads > 1)}"
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        return f"{self.device.type} ({name}), {str(self.dtype).removeprefix('torch.')}"


def open_hardware(device: str, precision: Precision, threads: int) -> Hardware:
    """Choose and set up the hardware; `threads` 0 means one per core.

    Raises UserError where a GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device='cuda', but torch sees no GPU; expected device=cpu or device=auto")
    chosen = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(threads or available_cores())
    torch.set_float32_matmul_precision("high")
    if chosen == "cpu":
        keep_freed_memory()
    return Hardware(torch.device(chosen), _dtype(chosen, precision))


def has_fast_bfloat16(device: str) -> bool:
    """Whether the hardware multiplies bfloat16 faster than float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bfloat16_unit() is not None


def bfloat16_unit() -> Literal["AMX", "AVX-512"] | None:
    """What the CPU multiplies bfloat16 with; None without, or where torch cannot tell."""

    def has(question: str) -> bool:
        # torch asks the CPU by private names alone.
        return bool(getattr(torch.cpu, question, lambda: False)())

    if has("_is_amx_tile_supported"):
        return "AMX"
    return "AVX-512" if has("_is_avx512_bf16_supported") else None


def keep_freed_memory() -> None:
    """Let glibc keep what tensors free instead of giving it back to the kernel.

    Otherwise every large activation is mapped and zeroed page by page again, which takes longer
    than the arithmetic of elementwise layers (measured: norms 3x slower). No effect elsewhere.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def peak_memory_gib(device: torch.device) -> float:
    """The most memory this process has held so far: on the GPU, or resident in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return peak_ram_gib()


def peak_ram_gib() -> float:
    """The most that was resident in RAM of this process alone."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def workers_gib() -> float:
    """What the processes that this one started hold in RAM now; memory they share counts twice."""
    total = 0
    for worker in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            total += worker.memory_info().rss
    return total / 2**30


def _dtype(device: str, precision: Precision) -> torch.dtype:
    if precision == "auto":
        precision = "bfloat16" if has_fast_bfloat16(device) else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
