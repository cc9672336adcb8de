"""Random weights of the perceptual loss in the published formats, and settings that use them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from worldmodels.nets.lpips_files import LINEAR, VGG

# How torchvision builds VGG16's features: channels of convolutions, each with its ReLU, and "M"
# where a picture is halved.
VGG16 = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]


def save_weights(path: Path) -> Path:
    """Write both files, one with last layers that LPIPS does not use; returns the folder."""
    rng = torch.Generator().manual_seed(0)
    vgg: dict[str, Tensor] = {"classifier.0.bias": torch.zeros(3)}
    inner, number = 3, 0
    for width in VGG16:
        if isinstance(width, int):
            weight = torch.randn(width, inner, 3, 3, generator=rng) * (2 / (9 * inner)) ** 0.5
            vgg[f"features.{number}.weight"] = weight
            vgg[f"features.{number}.bias"] = torch.randn(width, generator=rng) * 0.1
            inner, number = width, number + 1
        number += 1
    # The published files have torch's old format.
    torch.save(vgg, path / VGG, _use_new_zipfile_serialization=False)
    widths = enumerate((64, 128, 256, 512, 512))
    linear = {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1, generator=rng) for i, w in widths}
    torch.save(linear, path / LINEAR)
    return path


def on(folder: Path, kind: str = "frame_vq") -> list[str]:
    """A tokenizer with the perceptual loss."""
    at = "agent.tokenizer."
    return [f"{at}kind={kind}", f"{at}perceptual=0.5", f"{at}perceptual_weights={folder}"]
