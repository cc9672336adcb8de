"""Weight initialisation."""

from __future__ import annotations

from torch import nn


def init_normal(module: nn.Module) -> None:
    """Linear and Embedding weights ~ N(0, 0.02), Linear biases 0; the rest keeps its defaults."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
