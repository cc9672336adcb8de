"""Which way of drawing MuJoCo scenes works without a display, found before MuJoCo is loaded.

MuJoCo decides when it is first imported, from the variable MUJOCO_GL, and fails much later with
messages that do not name the missing library. Hence the libraries are tried here first.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable

logger = logging.getLogger(__name__)

NEEDS: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    "egl": (
        (("libEGL.so.1",), "libegl1"),
        (("libOpenGL.so.0", "libGL.so.1"), "libopengl0"),
    ),
    "osmesa": ((("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"), "libosmesa6"),),
}
"""Of each backend, the first being tried first: libraries of which one must load, and the Debian
package that brings one."""


def loads(library: str) -> bool:
    """Whether the system finds and loads a shared library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def missing_packages(backend: str, can_load: Callable[[str], bool] | None = None) -> list[str]:
    """Debian packages without which `backend` cannot work."""
    can_load = can_load or loads
    needs = NEEDS[backend]
    return [package for libraries, package in needs if not any(map(can_load, libraries))]


def choose_backend(can_load: Callable[[str], bool] | None = None) -> str:
    """The value of MUJOCO_GL to draw with: what the user has set, else egl, else osmesa.

    Raises ValueError, naming the Debian packages, where nothing can draw.
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    if chosen in ("disable", "disabled", "off", "false", "0"):
        raise ValueError(
            f"MUJOCO_GL={chosen} forbids drawing: unset it, or learn without pixels by "
            "env.observe=state"
        )
    if chosen:
        logger.info("MuJoCo draws with MUJOCO_GL=%s, as set in the environment", chosen)
        return chosen
    for backend in NEEDS:
        if not missing_packages(backend, can_load):
            logger.info("MuJoCo draws with MUJOCO_GL=%s", backend)
            return backend
    raise ValueError(f"nothing to draw MuJoCo scenes with: {remedy(can_load)}")


def remedy(can_load: Callable[[str], bool] | None = None) -> str:
    """The line that installs what EGL lacks, its driver included, and the way without."""
    packages = " ".join([*missing_packages("egl", can_load), "libegl-mesa0"])
    return (
        f"apt-get install --no-install-recommends {packages} (or libosmesa6), "
        "or learn without pixels by env.observe=state"
    )


def diagnose(can_load: Callable[[str], bool] | None = None) -> list[str]:
    """A line for each backend: that its libraries load, or the packages to install."""
    lines = []
    for backend in NEEDS:
        packages = missing_packages(backend, can_load)
        cure = f"missing: apt-get install --no-install-recommends {' '.join(packages)}"
        lines.append(f"{backend}: {cure if packages else 'its libraries load'}")
    return lines
