"""All tokens of a frame denoised together, given the frames before it.

Axes: B batch, T steps, K tokens a frame, V vocabulary, D width; C slots of a block's content,
S = C + 1 with the readout, M branches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from envs.spaces import Obs
from worldmodels.batch import Batch, at
from worldmodels.diffusion.draws import Rand, uniforms
from worldmodels.diffusion.guidance import guide
from worldmodels.diffusion.objective import denoising_loss
from worldmodels.diffusion.processes import Process
from worldmodels.diffusion.sampling import Sampler
from worldmodels.dynamics.blocks import BlockMemory, blocks, opening
from worldmodels.dynamics.objectives import Objectives, bound_of
from worldmodels.dynamics.scores import Weights, among, head, predict, weigh
from worldmodels.nets.branches import Backbone, Past
from worldmodels.nets.conv import largest_map
from worldmodels.nets.heads import REWARD_TARGETS
from worldmodels.nets.init import INITS
from worldmodels.protocols import Layout, Loss, Prediction


class Diffusion(nn.Module):
    """Denoises the tokens of the next frame together, and reads reward and end of the result.

    Training is one pass over two streams. The clean one has a block for each frame, [look at the
    frame before | action | tokens | readout]; a block sees itself and those before it, whole. The
    noised one has a second copy of every block but the first, with tokens hidden or replaced, that
    sees itself and the clean blocks before its frame. Tokens are learned from the noised copies;
    reward, end and the features of moments are read at the readouts of the clean stream, whose
    frames are finished. (BD3-LM: Arriola et al. 2025, arXiv 2503.09573, has the two streams;
    Copilot4D: Zhang et al. 2024, arXiv 2311.01017, the denoiser over clean frames.)

    Imagination calls the denoiser several times a frame on branches, which write nothing, then
    reads the finished block once: no key ever comes from a block with a mask in it.

    A moment's features and reward know the tokens of its frame, and of what the layout looks at
    the frame before; the other dynamics read features at the look itself, rewards at the action.
    Time is counted by turned queries and keys, so windows of any start compute alike.

    `backbone` is `width` wide and has `heads` heads. `blocks` is the most frames remembered; where
    it is used up, imagination goes on from the present frame alone. `dropout` is for `loss` only.
    `reward` names one of REWARD_TARGETS. `guidance` w makes logits c + w (c - a) of those with the
    past and the action, c, and without, a.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        vocab: int,
        width: int,
        heads: int,
        blocks: int,
        dropout: float,
        reward: str,
        token_weight: float,
        reward_weight: float,
        end_weight: float,
        init: str,
        backbone: Backbone,
        process: Process,
        sampler: Sampler,
        objectives: Mapping[str, float],
        label_smoothing: float,
        guidance: float,
    ) -> None:
        super().__init__()
        self.layout, self.reward, self.width = layout, REWARD_TARGETS[reward], width
        self.weights = Weights(token_weight, reward_weight, end_weight)
        self.vocab, self.blocks, self.dropout = vocab, blocks, dropout
        self.process, self.sampler = process, sampler
        self.objectives = Objectives(vocab=vocab, **objectives)
        self.label_smoothing, self.guidance = label_smoothing, guidance
        slots = layout.stride + 1
        self.net = backbone
        # What stands in a slot: alone, that nothing does; in the last one, the readout.
        self.slot, self.mask = nn.Embedding(slots, width), nn.Embedding(1, width)
        # Embeddings start small beside what layers add to them, and a denoiser that looks at the
        # past first may never learn to look at what is shown of its own frame.
        self.enter = nn.LayerNorm(width)
        self.token_head = head(width, vocab)
        self.reward_head = head(width, self.reward.size)
        self.end_head = head(width, 2)
        self.apply(INITS[init])
        # A frame's pixels, or the slots of its blocks in a perceptron or in attention.
        sequence = (slots + layout.stride) * max(4 * width, heads * slots * (blocks + 1))
        self.frame_values = max(largest_map(self), sequence)

    def loss(self, batch: Batch, tokens: Tensor) -> Loss:
        """Losses over valid steps; tokens (B,T+1,K) describe obs.

        What is hidden or replaced, and what each row is to learn, is drawn from torch's global
        generator. `obs_accuracy` is of the tokens that the loss scores. `nll`, of noise that only
        masks, estimates the bound of frames with a clean past; see `bound_of`.
        """
        drop = self.dropout if self.training else 0.0
        goal = self.objectives.draw(tokens)
        x, seen, frames = blocks(self.layout, batch, goal.history), batch.seen, tokens[:, 1:]
        past = self.net.empty(len(x), x.shape[1])
        past, feats = self.net.read(past, self._clean(x), seen, drop)
        noised = self.process.corrupt(frames)
        which = noised.scored
        told = seen & ~goal.alone[:, None]
        # A frame is denoised as if only the blocks before its own had been read.
        earlier = torch.ones_like(told[0, 1:, None] & told[0]).tril()
        logits = self._denoise(
            past,
            x[:, 1:, : -self.layout.tokens] * ~goal.alone[:, None, None, None],
            noised.z,
            place=torch.arange(1, x.shape[1], device=x.device),
            sight=earlier & told[:, None],
            before=feats[:, :-1] * told[:, :-1, None, None],
            drop=drop,
        )
        scored = which.float()
        hits = (logits.argmax(-1) == frames) * scored
        ask = feats[:, 1:, -1]
        token = denoising_loss(logits, frames, which, self.label_smoothing)
        sharp = denoising_loss(logits.detach(), frames, which) if self.label_smoothing else token
        return weigh(
            batch,
            token=token,
            nll=bound_of(sharp, noised, goal),
            hits=hits.sum(-1) / scored.sum(-1).clamp_min(1),
            entries={
                name: denoising_loss(
                    logits[..., span, :].detach(), frames[..., span], which[..., span]
                )
                for name, span in self.layout.spans.items()
            },
            rew_logits=self.reward_head(ask),
            end_logits=self.end_head(ask),
            reward=self.reward,
            weights=self.weights,
        )

    def start(self, batch: Batch, tokens: Tensor) -> BlockMemory:
        """Read a real past in one pass; the memory stands at obs[:, -1]."""
        x = blocks(self.layout, batch, tokens)
        past, feats = self.net.read(self.net.empty(len(x), self.blocks), self._clean(x), batch.seen)
        here = at(batch.obs, -1)
        return BlockMemory(past, feats[:, -1], self.layout.look(here), here, tokens[:, -1])

    def step(
        self, memory: BlockMemory, act: Tensor, tokens: Tensor | None, known: Tensor | None = None
    ) -> tuple[BlockMemory, Prediction]:
        """As many passes over the block as the sampler takes, and one over what came of it.

        Nothing waits for the host. The logits of a token are those of the last call that found it
        masked, other tokens being shown by then; a sampler that draws shown tokens anew may have
        chosen another since. Given tokens are scored from nothing but noise, in one pass.
        """
        memory = self.with_room(memory)
        rand = uniforms(act.device)
        noise = self.process.prior((len(act), self.layout.tokens), rand)

        def denoise(z: Tensor) -> Tensor:
            return among(known, self.denoise(memory, act, z))

        if tokens is None:
            tokens, scores = self._draw(denoise, noise, rand)
        else:
            scores = denoise(noise)
        given = self._given(memory, act)
        block = torch.cat((given, self.layout.answer(tokens).to(given.dtype)), 1)
        past, feats = self._settle(memory.past, block[:, None])
        prediction = predict(
            tokens,
            logits=scores,
            rew_logits=self.reward_head(feats[:, -1]),
            end_logits=self.end_head(feats[:, -1]),
            reward=self.reward,
        )
        return replace(memory, past=past, block=feats, tokens=tokens), prediction

    def see(self, memory: BlockMemory, obs: Obs | None, tokens: Tensor) -> BlockMemory:
        """Keep what the layout shows of the frame for the block after it."""
        look = memory.look
        if self.layout.look_size:
            assert obs is not None
            look = self.layout.look(obs)
        return replace(memory, look=look, obs=obs, tokens=tokens)

    def denoise(self, memory: BlockMemory, act: Tensor, z: Tensor) -> Tensor:
        """Logits (B,K,V) of the frame that acting (B,) leads to, where it looks like z (B,K).

        One pass, with guidance twice as wide: the second branch knows neither past nor action
        (Copilot4D's extra slot). The memory stays as it is; it needs room: see `with_room`.
        """
        given = self._given(memory, act)
        past = memory.past
        branches = 2 if self.guidance else 1
        first = torch.arange(branches, device=z.device) == 0
        aware = first[:, None, None]
        logits = self._denoise(
            past,
            given[:, None] * aware,
            z[:, None].expand(-1, branches, -1),
            place=torch.full((branches,), past.filled, device=z.device),
            sight=past.seen[:, None, : past.filled] & first[:, None],
            before=memory.block[:, None] * aware,
        )
        if not self.guidance:
            return logits[:, 0]
        return guide(logits[:, 0], logits[:, 1], self.guidance)

    def with_room(self, memory: BlockMemory) -> BlockMemory:
        """The memory; where it is full, one that knows the present frame alone."""
        past = memory.past
        if past.filled < past.capacity:
            return memory
        root = opening(self.layout, memory.obs, memory.tokens)
        past, feats = self._settle(self.net.empty(len(root), past.capacity), root[:, None])
        return replace(memory, past=past, block=feats)

    def moments(self, batch: Batch, tokens: Tensor) -> Tensor:
        """Features (B,T+1,D) float32 of a window's moments, in one pass over the clean stream."""
        x = blocks(self.layout, batch, tokens)
        _, feats = self.net.read(self.net.empty(*x.shape[:2]), self._clean(x), batch.seen)
        return feats[:, :, -1].float()

    def moment(self, memory: BlockMemory) -> Tensor:
        """The same (B,D) of an imagined moment, which is known already."""
        return memory.block[:, -1].float()

    def _given(self, memory: BlockMemory, act: Tensor) -> Tensor:
        """(B,C-K,D): what stands before the tokens of the next block."""
        acted = self.layout.act(act)
        return torch.cat((memory.look.to(acted.dtype), acted), 1)

    def _settle(self, past: Past, x: Tensor) -> tuple[Past, Tensor]:
        """Read one block x (B,1,C,D) for good: its features (B,S,D)."""
        seen = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        past, feats = self.net.read(past, self._clean(x), seen)
        return past, feats[:, 0]

    def _clean(self, x: Tensor) -> Tensor:
        """Blocks (B,n,S,D) with a readout, ready for the net."""
        normed: Tensor = self.enter(F.pad(x, (0, 0, 0, 1)) + self.slot.weight)
        return normed

    def _draw(
        self, denoise: Callable[[Tensor], Tensor], noise: Tensor, rand: Rand
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B,K) that the sampler makes of noise, and the logits (B,K,V) behind each."""
        scores: Tensor | None = None

        def noted(z: Tensor) -> Tensor:
            nonlocal scores
            logits = denoise(z)
            # A token that began as a mask is drawn by the last call that found it so.
            settled = ((noise == self.vocab) & (z != self.vocab))[..., None]
            scores = logits if scores is None else torch.where(settled, scores, logits)
            return logits

        tokens = self.sampler(noted, noise, rand).z
        assert scores is not None
        return tokens, scores

    def _denoise(
        self,
        past: Past,
        given: Tensor,
        z: Tensor,
        *,
        place: Tensor,
        sight: Tensor,
        before: Tensor,
        drop: float = 0.0,
    ) -> Tensor:
        """Logits (B,M,K,V) float32 of frames z (B,M,K), after what is given (B,M,C-K,D) of each."""
        shown = self.layout.answer(z.clamp_max(self.vocab - 1))
        hidden = (z == self.vocab)[..., None]
        shown = torch.where(hidden, self.mask.weight[0].to(shown.dtype), shown)
        x = torch.cat((given, shown.to(given.dtype)), 2)
        x = self.enter(x + self.slot.weight[: x.shape[2]])
        feats = self.net.branch(
            past, x, place=place, sight=sight, before=before[:, :, : x.shape[2]], drop=drop
        )
        logits: Tensor = self.token_head(feats[:, :, -self.layout.tokens :])
        return logits.float()
