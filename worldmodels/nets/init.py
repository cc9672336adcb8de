"""Weight initialisation."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


class OwnStart(nn.Linear):
    """A linear layer that keeps the weights torch draws for it, whatever the network's start is.

    For what enters a network: a start for layers within would shrink numbers that are small.
    """


def init_normal(module: nn.Module) -> None:
    """Linear and Embedding weights ~ N(0, 0.02), Linear biases 0; the rest keeps its defaults.

    As published for GPT-2, which is 768 wide and more. In a narrow net what a layer adds begins so
    small that it takes long to learn what depends on several tokens.
    """
    if isinstance(module, OwnStart):
        return
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def init_fan_in(module: nn.Module) -> None:
    """The same, but Linear weights ~ N(0, 1 / inputs): outputs as large as inputs, at any width.

    LeCun et al. 1998, "Efficient BackProp", section 4.6.
    """
    init_normal(module)
    if isinstance(module, nn.Linear) and not isinstance(module, OwnStart):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)


INITS: dict[str, Callable[[nn.Module], None]] = {"fan_in": init_fan_in, "normal": init_normal}
"""By the name that `agent.dynamics.init` selects."""
