"""Frames per second of dynamics alone as tables of tokens and batches, with what costs predict.

No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runners.bench_costs import Cost
from runners.bench_table import Row, number
from runners.settings.show import table

REFERENCE = "autoregressive"
"""The dynamics that all others are compared with."""
STEPS = (1, 2, 4, 8)
"""Calls of the denoiser with a column each, beside as many as a frame has tokens."""
WORDS = (
    "K: calls of the denoiser for a frame, N: as many as tokens. x: times autoregressive.",
    "~: timed with fewer rows and scaled, which slows many small calls most; seconds= adds rows.",
    "by calls, layers, FLOPs: x if nothing took time but calls, layers run one after another, or",
    "matrix multiplications. Calls and layers rule small batches, FLOPs large ones, though a layer",
    "that is run also reads all keys of its past, which FLOPs do not tell. All run eagerly,",
    "without torch.compile or CUDA graphs.",
)
CROSSOVER_WORDS = (
    "Largest measured batch at which the denoiser is faster than autoregressive; in brackets, the",
    "batch at which its extra multiplications should about outweigh the calls that it saves: how",
    "many times faster autoregressive gets by the largest batch, over how many times its FLOPs.",
)


@dataclass(frozen=True)
class Cell:
    """One dynamics timed at one number of tokens a frame and one batch, and what a frame costs.

    backbone and steps are of the denoiser, "" and 0 of others. The row is in frames of all rows
    together.
    """

    dynamics: str
    backbone: str
    steps: int
    tokens: int
    batch: int
    row: Row
    cost: Cost


@dataclass(frozen=True)
class Grid:
    """All cells; `about` says in words what they have in common, `backbone` is the run's."""

    about: str
    backbone: str
    cells: list[Cell]
    peak_gib: float | None = None

    def column(self, cell: Cell) -> str:
        """Where a cell stands."""
        if not cell.steps:
            return cell.dynamics
        return self.denoiser(cell.backbone, cell.steps)

    def denoiser(self, backbone: str, steps: int) -> str:
        """Where a denoiser stands; only as many calls as tokens can be none of STEPS."""
        calls = f"K={steps if steps in STEPS else 'N'}"
        return calls if backbone == self.backbone else f"{backbone} {calls}"

    def columns(self) -> list[str]:
        """The run's backbone before others, fewer calls before more."""
        cells = sorted(self.cells, key=lambda c: (c.backbone not in ("", self.backbone), c.steps))
        return list(dict.fromkeys(self.column(cell) for cell in cells))

    def places(self) -> dict[tuple[int, int], dict[str, Cell]]:
        """By tokens and batch, the cells by column."""
        found: dict[tuple[int, int], dict[str, Cell]] = {}
        for cell in self.cells:
            found.setdefault((cell.tokens, cell.batch), {})[self.column(cell)] = cell
        return found


@dataclass(frozen=True)
class Crossover:
    """Up to which batch a denoiser is faster than autoregressive dynamics.

    measured: the largest such batch of those measured; None at none. predicted: by the cost
    model; None at all.
    """

    tokens: int
    backbone: str
    steps: int
    measured: int | None
    predicted: float | None


def crossovers(grid: Grid) -> list[Crossover]:
    """One for each denoiser and number of tokens."""
    places, found = grid.places(), []
    for tokens in dict.fromkeys(cell.tokens for cell in grid.cells):
        rows = {batch: row for (n, batch), row in places.items() if n == tokens}
        base = {batch: row[REFERENCE] for batch, row in rows.items()}
        for name, cell in rows[min(rows)].items():
            if cell.steps:
                faster = [b for b in rows if rows[b][name].row.value > base[b].row.value]
                measured = max(faster, default=None)
                predicted = crossing(base[min(base)], base[max(base)], cell.cost)
                found.append(Crossover(tokens, cell.backbone, cell.steps, measured, predicted))
    return found


def crossing(small: Cell, large: Cell, cost: Cost) -> float | None:
    """The batch from which a frame of `cost` takes longer than an autoregressive one.

    `small` and `large` are the latter at two batches: at the first, layers alone are taken to
    count; at the second, FLOPs alone, which a denoiser's layers, being of more slots, reach at a
    smaller batch. None where the costlier frame has no more FLOPs.
    """
    if cost.flops <= small.cost.flops:
        return None
    if cost.layers >= small.cost.layers:
        return 0.0
    gain = large.row.value / small.row.value
    return small.batch * gain * small.cost.flops / cost.flops


def grid_text(grid: Grid) -> str:
    """The tables as they are printed."""
    columns = grid.columns()
    lines: list[list[str]] = []
    places = grid.places()
    for (tokens, batch), cells in places.items():
        base = cells[REFERENCE]
        lines.append([str(tokens), str(batch), *(_cell(cells.get(c), base) for c in columns)])
        if batch == max(b for n, b in places if n == tokens):
            for what in ("calls", "layers", "flops"):
                ratios = (_ratio(cells.get(c), base, what) for c in columns)
                lines.append([str(tokens), f"by {what.replace('flops', 'FLOPs')}", *ratios])
    peak = "" if grid.peak_gib is None else f"; peak {grid.peak_gib:.2f} GiB"
    return "\n".join(
        (
            "dynamics alone: imagined frames per second of all rows together",
            f"{grid.about}{peak}",
            "",
            table(("tokens", "batch", *columns), lines),
            "",
            *WORDS,
            "",
            _crossover_text(grid, crossovers(grid)),
            "",
            *CROSSOVER_WORDS,
        )
    )


def grid_json(grid: Grid) -> dict[str, Any]:
    """All that was found, for the JSON file."""
    return {**asdict(grid), "crossovers": [asdict(found) for found in crossovers(grid)]}


def _cell(cell: Cell | None, base: Cell) -> str:
    if cell is None:
        return ""
    rate = f"{'~' if cell.row.note else ''}{number(cell.row.value)}"
    return rate if cell is base else f"{rate} ({times(cell.row.value / base.row.value)})"


def _ratio(cell: Cell | None, base: Cell, what: str) -> str:
    if cell is None:
        return ""
    return times(getattr(base.cost, what) / getattr(cell.cost, what))


def times(ratio: float) -> str:
    """How many times faster, in two digits."""
    digits = 0 if ratio >= 9.95 else 1 if ratio >= 0.995 else 2
    return f"{ratio:.{digits}f}x"


def _crossover_text(grid: Grid, found: Sequence[Crossover]) -> str:
    columns = [name for name in grid.columns() if "K=" in name]
    cells: dict[int, dict[str, str]] = {}
    for one in found:
        name = grid.denoiser(one.backbone, one.steps)
        cells.setdefault(one.tokens, {})[name] = f"{_up_to(one.measured)} ({_limit(one.predicted)})"
    rows = [[str(n), *(row.get(name, "") for name in columns)] for n, row in cells.items()]
    return table(("tokens", *columns), rows)


def _up_to(batch: int | None) -> str:
    return "none" if batch is None else str(batch)


def _limit(batch: float | None) -> str:
    if batch is None:
        return "all"
    return "none" if batch < 1 else f"{batch:.0f}"
