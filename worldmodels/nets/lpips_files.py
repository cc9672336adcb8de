"""Where LPIPS finds the two files of weights that it is made of. Nothing here needs torch."""

from __future__ import annotations

import os
from pathlib import Path

VGG, LINEAR = "vgg16-397923af.pth", "vgg.pth"
ORIGINS = {
    VGG: "the weights IMAGENET1K_V1 of VGG16, under the name that torchvision saves them by",
    LINEAR: "the linear layers of LPIPS 0.1 over VGG16; the lpips package has them in weights/v0.1",
}
"""Of each file: what it is and where it comes from."""


def folder_of(setting: str | None) -> Path:
    """The folder that the setting names; of None, the one that torch.hub keeps checkpoints in."""
    if setting is not None:
        return Path(setting).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
    return Path(home).expanduser() / "hub" / "checkpoints"


def missing(folder: Path) -> list[str]:
    """The files that are not there."""
    return [name for name in ORIGINS if not (folder / name).is_file()]
