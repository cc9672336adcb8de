"""Imagined frames per second of dynamics alone: the part `dynamics` of `tokendream bench`.

Autoregressive, parallel and diffusion dynamics of the same width, layers and heads continue the
same past by one frame, in the layout `token`, without tokenizer, pictures or policy. The past is
half of what the settings let a dynamics remember, as much as a dream knows on average; its values
do not matter, so all rows have the same. The denoiser reveals tokens in random order, a call a
step, without guidance.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from torch import Tensor

from agents.build import build_dynamics, make
from envs.spaces import Discrete, Image
from runners import bench_costs
from runners.bench_costs import Call, Cost, Sizes
from runners.bench_grid import STEPS, Cell, Grid
from runners.bench_table import RATE
from runners.bench_timing import Timing, time_batch
from runners.errors import UserError
from runners.hardware import Hardware
from runners.settings.diffusion import (
    BackboneSettings,
    BlockSettings,
    DiffusionSettings,
    SpaceTimeSettings,
    TrunkHeadSettings,
)
from runners.settings.dynamics import AutoregressiveSettings, ParallelSettings
from runners.settings.noise import RandomSettings
from runners.settings.transformers import DynamicsSettings, TransformerSettings
from runners.settings.vectors import ActionsSettings
from worldmodels.actions import ActionCodecs
from worldmodels.batch import played
from worldmodels.dynamics.layouts import LAYOUTS
from worldmodels.nets.transformer import Cache
from worldmodels.protocols import Dynamics

FRAMES = "frames/s"
TOKENS = (4, 16, 64)
BATCHES = (1, 64, 512)
"""A game, what a policy commonly dreams at once, and what fills a GPU. 2048 would need four times
the memory of 512 and tell a CPU nothing new, which computes at full speed long before."""
OTHER_STEPS = 4
"""Calls at which the run's backbone is compared with others."""
SHARE = 20
"""A cell may take this part of the seconds: there are some 70."""
NUM_ACTIONS, VOCAB = 17, 512
"""As in Crafter, and as in IRIS."""
PICTURE = Image((1, 1, 3))
"""What frames are, at which nobody looks."""


@dataclass(frozen=True)
class Kind:
    """One column: settings of a dynamics, and how its frame is counted."""

    settings: TransformerSettings

    @property
    def backbone(self) -> str:
        """Of a denoiser; "" of others."""
        settings = self.settings
        return settings.backbone.kind if isinstance(settings, DiffusionSettings) else ""

    @property
    def steps(self) -> int:
        """Of a denoiser's sampler; 0 of others."""
        settings = self.settings
        return settings.sampler.steps if isinstance(settings, DiffusionSettings) else 0

    def cost(self, sizes: Sizes) -> Cost:
        """Of one frame of one row."""
        return sizes.total(self._calls(sizes))

    def _calls(self, sizes: Sizes) -> tuple[Call, ...]:
        settings = self.settings
        if not isinstance(settings, DiffusionSettings):
            count = {"autoregressive": bench_costs.autoregressive, "parallel": bench_costs.parallel}
            return count[settings.kind](sizes)
        if isinstance(settings.backbone, TrunkHeadSettings):
            return bench_costs.trunk_head(sizes, self.steps, settings.backbone.head)
        count_steps = {"block": bench_costs.block, "st": bench_costs.space_time}
        return count_steps[self.backbone](sizes, self.steps)


@dataclass(frozen=True)
class Plan:
    """What all dynamics have in common: the settings of a run, with the layers of the whole net."""

    settings: TransformerSettings
    backbone: BackboneSettings

    @staticmethod
    def of(settings: DynamicsSettings) -> Plan:
        """From the settings of a run's dynamics.

        A trunk and its head have as many layers together as the other dynamics, at least two.
        Raises UserError for heads of an odd width, which a denoiser cannot turn.
        """
        assert isinstance(settings, TransformerSettings)
        shared = {name: getattr(settings, name) for name in ("width", "heads", "blocks", "reward")}
        layers, backbone = settings.layers, DiffusionSettings().backbone
        if settings.width % (2 * settings.heads):
            raise UserError(
                f"agent.dynamics.width={settings.width} with agent.dynamics.heads={settings.heads}:"
                " diffusion needs heads of an even width"
            )
        if isinstance(settings, DiffusionSettings):
            backbone = settings.backbone
            if isinstance(backbone, TrunkHeadSettings):
                layers += backbone.head
        elif isinstance(backbone, TrunkHeadSettings):
            layers = max(2, layers)
            backbone = TrunkHeadSettings(head=min(backbone.head, layers - 1))
        return Plan(TransformerSettings(kind="shared", layers=layers, **shared), backbone)

    @property
    def past(self) -> int:
        """Frames that a frame is imagined from."""
        return max(2, self.settings.blocks // 2)

    def sizes(self, tokens: int) -> Sizes:
        """What costs depend on."""
        settings = self.settings
        return Sizes(tokens, self.past, settings.width, settings.layers, VOCAB)

    def about(self, hardware: Hardware) -> str:
        """What all have in common, in words."""
        settings, backbone = self.settings, self.backbone
        words = f"denoiser {backbone.kind}"
        if isinstance(backbone, TrunkHeadSettings):
            words += f" of {settings.layers - backbone.head} + {backbone.head} layers"
        return (
            f"width {settings.width}, {settings.layers} layers, {settings.heads} heads, {VOCAB} "
            f"codes, {self.past} frames in memory; {words}; {hardware.describe()}"
        )

    def kinds(self, tokens: int) -> Iterator[Kind]:
        """The columns of frames of so many tokens."""
        # Room for the past and what is written after it.
        same = self.settings.model_dump(include={"width", "heads", "reward"})
        same |= {"blocks": self.past + 3}
        layers = {"layers": self.settings.layers}
        yield Kind(AutoregressiveSettings(**same, **layers))
        yield Kind(ParallelSettings(**same, **layers))
        asked = [(self.backbone, steps) for steps in sorted({*STEPS, tokens}) if steps <= tokens]
        if tokens >= OTHER_STEPS:
            others = (BlockSettings(), SpaceTimeSettings())
            asked += [(b, OTHER_STEPS) for b in others if b.kind != self.backbone.kind]
        for backbone, steps in asked:
            head = backbone.head if isinstance(backbone, TrunkHeadSettings) else 0
            settings = DiffusionSettings(
                **same,
                layers=self.settings.layers - head,
                backbone=backbone,
                sampler=RandomSettings(steps=steps),
            )
            yield Kind(settings)


def measure_dynamics(
    settings: DynamicsSettings,
    hardware: Hardware,
    seconds: float,
    tokens: tuple[int, ...] = TOKENS,
    batches: tuple[int, ...] = BATCHES,
) -> Grid:
    """Time all cells; tells on stderr which are being timed.

    A cell takes about a twentieth of the seconds, or two frames of few rows if that is longer.
    """
    plan = Plan.of(settings)
    cells: list[Cell] = []
    # Asked once, as what a cell frees is kept for the next one.
    room = free_bytes(hardware.device) // 2
    for count in tokens:
        print(f"\n  {count} tokens:", end="", file=sys.stderr)
        for batch in batches:
            print(f" batch {batch}", end="", file=sys.stderr, flush=True)
            sizes = plan.sizes(count)
            for kind in plan.kinds(count):
                fits = max(1, room // row_bytes(kind.settings, sizes))
                timing = _time(kind, sizes, min(batch, fits), hardware, seconds / SHARE)
                cells.append(_cell(kind, sizes, replace(timing, batch=batch)))
                print(".", end="", file=sys.stderr, flush=True)
    print(end=" ", file=sys.stderr)
    return Grid(plan.about(hardware), plan.backbone.kind, cells)


@torch.no_grad()
def _time(kind: Kind, sizes: Sizes, batch: int, hardware: Hardware, seconds: float) -> Timing:
    net = build(kind.settings, sizes.tokens).to(hardware.device).eval()
    with hardware.autocast():
        memory = begin(net, sizes, hardware.device)

        def prepare(rows: int) -> tuple[Any, Tensor]:
            return repeated(memory, rows), _zeros(rows, device=hardware.device)

        def frame(start: tuple[Any, Tensor]) -> None:
            net.step(*start, None)

        return time_batch(batch, prepare, frame, hardware, seconds)


def _cell(kind: Kind, sizes: Sizes, timing: Timing) -> Cell:
    batch, tokens = timing.batch, sizes.tokens
    name = kind.settings.kind
    row = replace(timing.row(name, RATE, str(batch), work=batch), unit=FRAMES)
    return Cell(name, kind.backbone, kind.steps, tokens, batch, row, kind.cost(sizes))


def build(settings: TransformerSettings, tokens: int) -> Any:
    """A dynamics of these settings in the layout `token`, its weights drawn."""
    chosen = settings.model_dump()
    del chosen["layout"]
    layout = make(
        LAYOUTS,
        {"kind": "token"},
        width=settings.width,
        space=PICTURE,
        actions=ActionCodecs(Discrete(NUM_ACTIONS), **ActionsSettings().model_dump()),
        # All that this layout asks of one.
        tokenizer=SimpleNamespace(vocab=VOCAB, tokens=tokens, spans={}),
    )
    return build_dynamics(chosen, layout, VOCAB)


def begin(net: Dynamics, sizes: Sizes, device: torch.device) -> Any:
    """The memory of one row that a first imagined frame has filled up to `sizes.past`."""
    frames = _zeros(1, sizes.past - 1, *PICTURE.shape, device=device).byte()
    act = _zeros(1, sizes.past - 2, device=device)
    batch = played(frames, act, torch.ones_like(act, dtype=torch.bool))
    memory = net.start(batch, _zeros(1, sizes.past - 1, sizes.tokens, device=device))
    memory, prediction = net.step(memory, act.new_zeros(1), None)
    return net.see(memory, frames[:, -1], prediction.tokens)


def repeated(part: Any, rows: int, axis: int = 0) -> Any:
    """A memory of one row as one of many; all tensors in it are copied."""
    if isinstance(part, Tensor):
        return part.repeat_interleave(rows, axis)
    if isinstance(part, tuple):
        return tuple(repeated(each, rows, axis) for each in part)
    if isinstance(part, Cache):
        visible = repeated(part.visible, rows)
        keys, values = (repeated(buffer, rows, 1) for buffer in (part.keys, part.values))
        return Cache(keys, values, visible, part.filled)
    if is_dataclass(part) and not isinstance(part, type):
        inner = {f.name: repeated(getattr(part, f.name), rows) for f in fields(part)}
        return replace(part, **inner)
    return part


def free_bytes(device: torch.device) -> int:
    """Memory that nothing uses, where tensors are."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def row_bytes(settings: TransformerSettings, sizes: Sizes) -> int:
    """About the most that a row needs: keys and values of all layers, and a layer's scores."""
    slots = 2 * sizes.tokens + 2
    keys = settings.blocks * (sizes.tokens + 2)
    scores = slots * keys * settings.heads
    return 4 * (2 * sizes.layers * keys * sizes.width + 4 * scores + 16 * slots * sizes.width)


def _zeros(*shape: int, device: torch.device) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64, device=device)
