"""Gradient estimators: how the step from a vector to its code lets gradients through.

Each is a function of vectors z (...,d) and their codes q (...,d) that returns the value of q, and
gradients to z alone. Nothing in them depends on the other vectors of a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

# Beyond this |q|/|z| tells that one of the two is at the origin, not how gradients should scale.
RATIO = (0.1, 10.0)
# A vector this many times shorter than the other has no direction to speak of.
SHORT = 1e-4


def straight_through(z: Tensor, q: Tensor) -> Tensor:
    """The gradient as it is (arXiv 1308.3432). The value differs from q by an ulp or two."""
    return z + (q - z).detach()


def rotation(z: Tensor, q: Tensor) -> Tensor:
    """The gradient turned and scaled as z was to become q, that map held constant.

    arXiv 2410.06424, section 4.2. Differences: the value is exactly q; the scale |q|/|z| is kept
    within `RATIO`; where z or q is next to nothing beside the other, straight through. Raises
    ValueError for vectors of one number, whose only rotation is a change of sign.
    """
    if z.shape[-1] < 2:
        raise ValueError("the rotation estimator needs vectors of at least 2 numbers")
    with torch.no_grad():
        z_size, q_size = z.norm(dim=-1, keepdim=True), q.norm(dim=-1, keepdim=True)
        longer = torch.maximum(z_size, q_size)
        turns = (torch.minimum(z_size, q_size) > SHORT * longer) & longer.isfinite()
        ratio = torch.where(turns, q_size / z_size, 1.0).clamp(*RATIO)
        # Zeros where nothing turns: then the map below is the identity, and its gradient finite.
        z_unit, q_unit = F.normalize(z, dim=-1) * turns, F.normalize(q, dim=-1) * turns
        # Opposite vectors have no half way; without it the map is a projection, and finite.
        half = F.normalize(z_unit + q_unit, dim=-1)
    mapped = z - 2 * (z * half).sum(-1, keepdim=True) * half
    mapped = ratio * (mapped + 2 * (z * z_unit).sum(-1, keepdim=True) * q_unit)
    return q.detach() + (mapped - mapped.detach())


Gradient = Callable[[Tensor, Tensor], Tensor]

GRADIENTS: dict[str, Gradient] = {"straight_through": straight_through, "rotation": rotation}
