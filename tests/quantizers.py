"""Small quantizers of every kind for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from agents.build import make
from runners.settings.quantizers import QUANTIZERS as SETTINGS
from worldmodels.quantizers import QUANTIZERS

TOKENS, SIZE, DIM = 4, 32, 6

_CODEBOOK: dict[str, Any] = {"size": SIZE, "dim": DIM}
# A kind that is not here has the defaults of its settings.
SMALL: dict[str, dict[str, Any]] = {
    "bsq": {"bits": 5},
    "fsq": {"levels": (4, 3, 3)},
    "lfq": {"bits": 5},
    "simvq": _CODEBOOK,
    "vq_ema": _CODEBOOK | {"revive_updates": 20, "usage_decay": 0.9},
    "vq_euclid": _CODEBOOK | {"revive_updates": 20},
    "vq_grad": _CODEBOOK,
}
CODEBOOKS = ["simvq", "vq_ema", "vq_euclid", "vq_grad"]
EUCLIDEAN = ["simvq", "vq_euclid", "vq_grad"]
SPHERE = ["bsq", "vq_ema"]
AVERAGED = ["vq_ema", "vq_euclid"]
BINARY = ["bsq", "lfq"]


def small_quantizer(kind: str, tokens: int = TOKENS, **changed: Any) -> Any:
    """A quantizer with the defaults of its settings but for a few codes and `changed`."""
    words = SMALL.get(kind, {}) | changed
    settings = SETTINGS[kind].model_validate(words).model_dump()
    quantizer = make(QUANTIZERS, settings, tokens=tokens)
    if kind == "vq_grad" and "size" not in changed:
        # Codes of size one, as the vectors of tests have; they start very near the origin.
        nn.init.normal_(quantizer.codebook)
    return quantizer


def vectors(quantizer: Any, frames: int = 50, seed: int = 0) -> Tensor:
    """(frames,TOKENS,dim): normal, no two positions alike."""
    rng = torch.Generator().manual_seed(seed)
    tokens = quantizer.usage.tokens
    z = torch.randn(frames, tokens, quantizer.dim, generator=rng)
    return z + 0.5 * torch.randn(tokens, quantizer.dim, generator=rng)


def codebook(quantizer: Any) -> Tensor:
    """(size,dim): what every code stands for."""
    table: Tensor = quantizer.embed(torch.arange(quantizer.size))
    return table.detach()


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all that a module keeps."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two copies of `state` agree in every bit."""
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def reviving(kind: str, updates: int) -> Any:
    """A quantizer that replaces dead codes in its first updates, if it is one that does."""
    return small_quantizer(kind, **({"revive_updates": updates} if kind in AVERAGED else {}))


def ones(codes: Tensor) -> Tensor:
    """A weight of no padding."""
    return torch.ones(codes.shape)


def train(q: Any, optimizer: Any, steps: range) -> float:
    """Updates on batches that drift, so that codes die; returns how many were revived."""
    revived = 0.0
    for step in steps:
        z = (vectors(q, seed=step) + step / 5).requires_grad_()
        out = q(z)
        if optimizer is not None:
            optimizer.zero_grad()
            out.loss.mean().backward()
            optimizer.step()
        metrics = q.update(z.detach(), out.codes, ones(out.codes))
        revived += float(metrics.get("codes_revived", 0))
    return revived
