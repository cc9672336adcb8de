"""LPIPS: how different two pictures look, by what a network trained to name things sees in them.

Zhang et al. 2018 (arXiv 1801.03924), version 0.1 over VGG16; it is the perceptual loss of VQGAN
and IRIS. Both networks are frozen, and there is no dropout.
Axes: N frames, H W image, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodels.nets.lpips_files import LINEAR, VGG

# torchvision's numbers of VGG16's convolutions, by block, and the channels of each block. LPIPS
# reads the last map of a block; the next begins by halving it.
BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
WIDTHS = (64, 128, 256, 512, 512)
# Mean and standard deviation of ImageNet's colours, for pixels in [-1,1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPSILON = 1e-10


class Lpips(nn.Module):
    """The distance of pictures (N,3,H,W) in [0,1] pixel units, float32 (N,): 0 for equal ones.

    The weights are read from `folder` at the first call, so that what never calls it needs no
    files. They are neither parameters nor part of the state.
    """

    widest = WIDTHS[0] * 64 * 64
    """Numbers that the widest map of one 64x64 frame holds."""

    shift: Tensor
    scale: Tensor

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.loaded = folder, False

    def load(self, device: torch.device) -> None:
        """Read the files, unless it was done; ValueError names the one that does not fit."""
        if self.loaded:
            return
        vgg, linear = _read(self.folder / VGG, _vgg()), _read(self.folder / LINEAR, _linear())
        colours = {"shift": torch.tensor(SHIFT), "scale": torch.tensor(SCALE)}
        weights = vgg | linear | {name: x.view(3, 1, 1) for name, x in colours.items()}
        for name, x in weights.items():
            # Channel last, as the pictures are.
            form = torch.channels_last if name in vgg and x.ndim == 4 else torch.contiguous_format
            x = x.to(device=device, dtype=torch.float32, memory_format=form)
            self.register_buffer(_plain(name), x, persistent=False)
        self.loaded = True

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        self.load(one.device)
        total = one.new_zeros(len(one))
        for block, (a, b) in enumerate(zip(self._maps(one), self._maps(other), strict=True)):
            total = total + _apart(a, b, self._weight(f"lin{block}.model.1.weight").flatten())
        return total

    def _maps(self, x: Tensor) -> Iterator[Tensor]:
        """The last map (N,C,h,w) of each block."""
        x = (2 * x - 1 - self.shift) / self.scale
        for block, numbers in enumerate(BLOCKS):
            if block:
                x = F.max_pool2d(x, 2)
            for i in numbers:
                weight, bias = (self._weight(f"features.{i}.{k}") for k in ("weight", "bias"))
                x = F.relu(F.conv2d(x, weight, bias, padding=1), inplace=True)
            yield x

    def _weight(self, name: str) -> Tensor:
        return self.get_buffer(_plain(name))


def _apart(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """(N,): weighted squared distance of two maps' unit vectors (N,C,h,w), mean over places."""
    with torch.autocast(a.device.type, enabled=False):
        squared = (_unit(a.float()) - _unit(b.float())).square()
        # Means first: weighing (N,C) is cheaper than weighing maps, and the same.
        return (squared.mean((2, 3)) * weight).sum(1)


def _unit(x: Tensor) -> Tensor:
    """Each place's vector, of length 1; zero where nothing answers, and so is its gradient."""
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + EPSILON)


def _plain(name: str) -> str:
    """The name without the dots that a buffer's may not have."""
    return name.replace(".", "_")


def _vgg() -> dict[str, tuple[int, ...]]:
    """Shapes of VGG16's convolutions, by torchvision's names."""
    shapes: dict[str, tuple[int, ...]] = {}
    inner = 3
    for numbers, outer in zip(BLOCKS, WIDTHS, strict=True):
        for i in numbers:
            shapes[f"features.{i}.weight"] = (outer, inner, 3, 3)
            shapes[f"features.{i}.bias"] = (outer,)
            inner = outer
    return shapes


def _linear() -> dict[str, tuple[int, ...]]:
    """Shapes of LPIPS's linear layers, by its own names."""
    return {f"lin{i}.model.1.weight": (1, width, 1, 1) for i, width in enumerate(WIDTHS)}


def _read(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a saved state that `shapes` names; others in it are left out."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged file can make torch raise almost anything.
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"cannot read {file}: {type(error).__name__}: {reason}") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{file} does not hold weights by name")
    for name, shape in shapes.items():
        x = found.get(name)
        if not isinstance(x, Tensor):
            raise ValueError(f"{file} does not hold the weights {name}")
        if tuple(x.shape) != shape:
            raise ValueError(f"{file}: {name} is {tuple(x.shape)} instead of {shape}")
        if not x.isfinite().all():
            raise ValueError(f"{file}: {name} is not finite")
    return {name: found[name].detach() for name in shapes}
