"""`tokendream doctor`: try everything that a run needs, and name the line that mends it."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from textwrap import shorten
from typing import Literal

from envs.make import SUITE_PACKAGES
from runners.settings.environments import SUITES

Status = Literal["ok", "note", "BROKEN"]
PACKAGES = ("numpy", "pydantic", "safetensors", "tensorboard", "pillow", "rich")
GIB = 2**30
LOW_MEMORY, LOW_DISK = 4 * GIB, 5 * GIB
"""What `size=tiny` wants with room to spare; paper sizes want more, as `train` says."""


@dataclass(frozen=True)
class Finding:
    """One thing tried. `BROKEN` fails the checkup; a `note` is optional, with its remedy."""

    status: Status
    name: str
    text: str


def main() -> int:
    """Print a line for each check; 1 if something that is needed does not work."""
    findings = []
    for check in CHECKS:
        for finding in _carefully(check):
            print(f"{finding.status:<7} {finding.name:<12} {finding.text}", flush=True)
            findings.append(finding)
    broken = [finding.name for finding in findings if finding.status == "BROKEN"]
    print("\nbroken: " + ", ".join(broken) if broken else "\neverything needed works")
    return 1 if broken else 0


def _carefully(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check. Whatever it raises is itself a finding: this is the doctor."""
    try:
        yield from check()
    except Exception as error:
        name = check.__name__.removeprefix("_check_")
        yield Finding("BROKEN", name, f"{type(error).__name__}: {error}")


def _check_python() -> Iterator[Finding]:
    fits = (3, 11) <= sys.version_info < (3, 14)
    text = sys.version.split()[0] + ("" if fits else ": use Python 3.11, 3.12 or 3.13")
    yield Finding("ok" if fits else "BROKEN", "python", text)


def _check_packages() -> Iterator[Finding]:
    try:
        found = [f"{name} {version(name)}" for name in PACKAGES]
    except PackageNotFoundError as error:
        yield Finding("BROKEN", "packages", f"{error.name} is missing: pip install tokendream")
    else:
        yield Finding("ok", "packages", ", ".join(found))


def _check_torch() -> Iterator[Finding]:
    import torch

    yield Finding("ok", "torch", torch.__version__)
    has_gpu = torch.cuda.is_available()
    driver = Path("/proc/driver/nvidia/version").exists()
    if driver and not has_gpu:
        remedy = "install a CUDA build of torch" if not torch.version.cuda else "update the driver"
        yield Finding("note", "device", f"cpu, though there is an NVIDIA driver: {remedy}")
    elif has_gpu:
        memory = torch.cuda.get_device_properties(0).total_memory / GIB
        yield Finding("ok", "device", f"cuda: {torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    else:
        yield Finding("ok", "device", "cpu (no GPU): use size=tiny")
    yield from _precision("cuda" if has_gpu else "cpu")


def _precision(device: str) -> Iterator[Finding]:
    from runners.hardware import open_hardware

    hardware = open_hardware(device, "auto", 0)
    slow = "" if str(hardware.dtype) == "torch.bfloat16" else ": no bfloat16 in hardware"
    yield Finding("ok", "arithmetic", f"{hardware.describe()}{slow}")


def _check_memory() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    text = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    if memory.available < LOW_MEMORY:
        yield Finding("note", "memory", f"{text}: close other programs, or use size=tiny")
    else:
        yield Finding("ok", "memory", text)


def _check_disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / GIB:.1f} GiB free in {Path.cwd()}"
    if free < LOW_DISK:
        yield Finding("note", "disk", f"{text}: choose another folder with root=FOLDER")
    else:
        yield Finding("ok", "disk", text)
    try:
        with tempfile.TemporaryFile(dir=Path.cwd()):
            pass
    except OSError as error:
        reason = f"cannot write here ({error.strerror}): choose another folder with root=FOLDER"
        yield Finding("BROKEN", "disk", reason)


def _check_environments() -> Iterator[Finding]:
    found = [_try_suite(suite) for suite in SUITES]
    yield from found
    if all(finding.status != "ok" for finding in found):
        remedy = 'no environment works: pip install "tokendream[crafter,atari]"'
        yield Finding("BROKEN", "environments", remedy)


def _try_suite(suite: str) -> Finding:
    import numpy as np

    from envs.make import make_env
    from envs.spaces import describe, random_actions

    if importlib.util.find_spec(SUITE_PACKAGES[suite]) is None:
        return Finding("note", suite, f'not installed: pip install "tokendream[{suite}]"')
    settings = SUITES[suite].model_validate({}).model_dump()
    if suite == "dmc" and _hindrance_to_drawing():
        settings["observe"] = "state"
    try:
        env = make_env(settings, num_envs=1, workers=0, training=True)
        try:
            env.reset(0)
            rng = np.random.default_rng(0)
            for _ in range(5):
                env.step(random_actions(env.spec.act, rng, 1))
        finally:
            env.close()
    except Exception as error:
        # Whatever a broken installation of the package raises is what the user has to know.
        return Finding("BROKEN", suite, f"{type(error).__name__}: {error}")
    text = f"made and stepped: {describe(env.spec.obs)}; {describe(env.spec.act)}"
    return Finding("ok", suite, shorten(text, 90, placeholder=" ..."))


def _check_numba() -> Iterator[Finding]:
    if importlib.util.find_spec("numba") is None:
        remedy = 'pip install "tokendream[crafter]"'
        yield Finding("note", "numba", f"missing, so that Crafter's resets are slow: {remedy}")
    else:
        numba = importlib.import_module("numba")
        yield Finding("ok", "numba", f"{numba.__version__} (quick Crafter resets)")


def _check_drawing() -> Iterator[Finding]:
    from envs import gl

    if importlib.util.find_spec("dm_control") is None:
        return
    hindrance = _hindrance_to_drawing()
    text = hindrance or "; ".join(gl.diagnose())
    yield Finding("note" if hindrance else "ok", "drawing", text)


def _hindrance_to_drawing() -> str:
    """Why there can be no pictures of dm-control, and the remedy; empty where there can."""
    from envs import gl

    try:
        gl.choose_backend()
    except ValueError as error:
        return str(error)
    return ""


def _check_tensorboard() -> Iterator[Finding]:
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            writer.add_scalar("doctor/check", 1.0, 0)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    yield Finding("ok", "tensorboard", f"{size} bytes written")


def _check_mp4() -> Iterator[Finding]:
    import numpy as np

    from runners.media import encode_mp4

    if importlib.util.find_spec("av") is None:
        remedy = 'for format=mp4: pip install "tokendream[video]"'
        yield Finding("note", "mp4", f"not installed (APNG and GIF work); {remedy}")
    else:
        clip = encode_mp4(np.zeros((2, 64, 64, 3), np.uint8), fps=5)
        yield Finding("ok", "mp4", f"{len(clip)} bytes encoded")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _check_python,
    _check_packages,
    _check_torch,
    _check_memory,
    _check_disk,
    _check_environments,
    _check_numba,
    _check_drawing,
    _check_tensorboard,
    _check_mp4,
)
