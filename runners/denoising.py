"""How the frames of a dream came about: the states between the calls of a denoiser.

Axes: B windows, R imagined frames, C states of a frame, N tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from envs.trees import named
from worldmodels.batch import at
from worldmodels.diffusion import SAMPLERS
from worldmodels.diffusion.draws import uniforms
from worldmodels.dynamics.diffusion import Diffusion
from worldmodels.dynamics.scores import among

if TYPE_CHECKING:
    from torch import Tensor

    from envs.spaces import Obs
    from worldmodels.batch import Batch
    from worldmodels.diffusion.sampling import Step
    from worldmodels.protocols import State
    from worldmodels.world_model import WorldModel

FRAMES, STATES = 4, 10
"""How many frames are shown, one after the other, and the most states of each."""


@dataclass(frozen=True)
class Film:
    """Frames of one window as they were drawn, from nothing but noise to the end; on the host.

    pictures (R,C,H,W,3) uint8: the tokens so far, decoded with the likeliest in place of masks.
    tokens (R,C,N): `vocab` is a mask. prob (R,C,N): how likely a token was thought when it was
    drawn; NaN of noise and masks. calls (C,): those made before each state, of `calls[-1]` in all.
    real (R,H,W,3): what really came of the same actions. square: see Tokenizer. sampler: its name.
    """

    pictures: np.ndarray
    tokens: np.ndarray
    prob: np.ndarray
    calls: np.ndarray
    real: np.ndarray
    vocab: int
    square: tuple[int, int] | None
    sampler: str


def films_of(world_model: WorldModel, batch: Batch, context: int, num: int) -> list[Film]:
    """Films of the first `num` windows, from frame `context` on; none where nothing denoises.

    They show the first picture of an observation; without any there is no film. The dreams are
    told the windows' own actions. Call it within `undisturbed`.
    """
    net = world_model.dynamics
    pictures = [name for name, x in named(batch.obs).items() if x.dtype == torch.uint8]
    if not (isinstance(net, Diffusion) and pictures):
        return []
    (shown, *_) = pictures
    batch = batch.rows(slice(0, num))
    past = batch.first(context)
    state, obs = world_model.start(past), at(past.obs, -1)
    frames: list[tuple[Tensor, Tensor, Tensor]] = []
    places: list[int] = []
    for act in batch.act[:, context : context + FRAMES].unbind(1):
        steps, places = _drawn(world_model, net, state, act)
        drawn = [_frame(world_model, net, state, obs, act, step.z) for step in steps]
        prob = [
            # What noise says was thought by nobody.
            step.prob.float().masked_fill((step.z == net.vocab) | (call == 0), torch.nan)
            for step, call in zip(steps, places, strict=True)
        ]
        tokens = [step.z for step in steps]
        look = [named(frame)[shown] for frame in drawn]
        frames.append((torch.stack(look, 1), torch.stack(tokens, 1), torch.stack(prob, 1)))
        obs = drawn[-1]
        state, _ = world_model.imagine(state, act, tokens[-1])
    columns = zip(*frames, strict=True)
    drawn_so, ids, probs = (torch.stack(parts, 1).cpu().numpy() for parts in columns)
    real = named(batch.obs)[shown][:, context + 1 :][:, :FRAMES].cpu().numpy()
    name = next(kind for kind, made in SAMPLERS.items() if made is type(net.sampler))
    square, calls = world_model.tokenizer.square, np.array(places)
    return [
        Film(drawn_so[b], ids[b], probs[b], calls, real[b], net.vocab, square, name)
        for b in range(len(real))
    ]


def _drawn(
    world_model: WorldModel, net: Diffusion, state: State, act: Tensor
) -> tuple[list[Step], list[int]]:
    """Some states (B,N) on the way to the next frame, first and last ones too, and their calls."""
    memory, known = net.with_room(state.memory), world_model.tokenizer.known()
    rand = uniforms(act.device)
    noise = net.process.prior((len(act), net.layout.tokens), rand)
    made = net.sampler(lambda z: among(known, net.denoise(memory, act, z)), noise, rand)
    steps = [net.sampler.begin(noise), *made.trace]
    chosen = np.unique(np.linspace(0, len(made.trace), STATES).round().astype(int)).tolist()
    each = net.sampler.calls // len(made.trace)
    return [steps[i] for i in chosen], [i * each for i in chosen]


def _frame(
    world_model: WorldModel, net: Diffusion, state: State, obs: Obs, act: Tensor, z: Tensor
) -> Obs:
    """(B,*O) of tokens z (B,N), each mask read as what is likeliest there given the others."""
    logits = net.denoise(net.with_room(state.memory), act, z)
    likeliest = among(world_model.tokenizer.known(), logits).argmax(-1)
    return world_model.draw(obs, act, torch.where(z == net.vocab, likeliest, z))
