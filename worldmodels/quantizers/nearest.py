"""What quantizers that choose the nearest code have in common."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """Codes (...) of the rows of codebook (V,d) nearest to z (...,d); the lowest of equals.

    float64 because GPUs round float32 matrix products to TF32. Rows that are the same vector are
    equal but for that rounding, which may differ from column to column: now and then the later one
    is chosen, which stands for the same.
    """
    book = codebook.double()
    return (book.square().sum(-1) - 2 * (z.double() @ book.T)).argmin(-1)


def pulls(z: Tensor, q: Tensor, codebook_weight: float, commitment: float) -> dict[str, Tensor]:
    """Two losses (...), means over d: codes q go to vectors z, and vectors to codes.

    Published systems disagree on which of them their one `beta` weighs; here each has its own.
    """
    return {
        "codebook": codebook_weight * (z.detach() - q).square().mean(-1),
        "commit": commitment * (z - q.detach()).square().mean(-1),
    }
