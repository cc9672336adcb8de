"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under a heading; short rows end in empty cells."""
    every = [head, ["---"] * len(head), *([*row] + [""] * (len(head) - len(row)) for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in every)
