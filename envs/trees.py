"""Values that come alone, or several together by name: observations, their spaces, their tensors.

What an environment shows alone is an array, several things are a dict of arrays, as Gymnasium has
it. What works for both is written once, through these functions. No NumPy, no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Tree = Any
"""A value alone, or a dict of values by name."""


def each(make: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """The same tree of what `make` gives for each value and those of the same name in `others`."""
    if isinstance(tree, dict):
        return {name: make(v, *(other[name] for other in others)) for name, v in tree.items()}
    return make(tree, *others)


def named(tree: Tree, alone: str = "") -> dict[str, Any]:
    """The values by name; one without a name is called `alone`."""
    return tree if isinstance(tree, dict) else {alone: tree}


def leaves(tree: Tree) -> list[Any]:
    """The values, in order."""
    return list(named(tree).values())


def rows(tree: Tree, which: Any) -> Tree:
    """Of every array one row by its number, or several by a slice or their numbers."""
    return each(lambda x: x[which], tree)
