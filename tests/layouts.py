"""The shapes that a layout can have, and the parallel dynamics over them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.nets import small_agent
from worldmodels.batch import Batch
from worldmodels.dynamics import DYNAMICS
from worldmodels.dynamics.layouts import LAYOUTS
from worldmodels.dynamics.parallel import Parallel

SHAPES = tuple(name for name in LAYOUTS if name != "packed")
"""One frame or all, and what changes in them; and tokens that are the frame."""
PAIRS = [(kind, shape) for kind in DYNAMICS for shape in SHAPES] + [("factorised", "packed")]
"""All that go together."""


def parallel(shape: str, *words: str) -> Parallel:
    """A small net over the layout of that name, changed by settings."""
    kinds = ("agent.dynamics.kind=parallel", f"agent.dynamics.layout.kind={shape}")
    net = small_agent(*kinds, *words).world_model.dynamics
    assert isinstance(net, Parallel)
    return net


def truth(batch: Batch) -> Tensor:
    """Random tokens of every frame, the first one too."""
    rng = torch.Generator().manual_seed(3)
    return torch.randint(0, 16, (*batch.obs.shape[:2], 4), generator=rng)


def described(shape: str, batch: Batch) -> Tensor:
    """(B,T+1) bool: which frames have tokens that mean something."""
    return batch.seen if shape in ("packed", "token") else F.pad(batch.valid, (1, 0))
