"""Small agents and batches for tests of networks and losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from agents.agent import Agent
from agents.build import build_agent
from envs.experience import EnvSpec
from envs.spaces import Discrete, Image, Obs
from envs.trees import each
from runners.settings.load import load
from runners.settings.policies import ACTOR_CRITICS
from runners.settings.tokenizers import TOKENIZERS
from tests.spaces import random_of
from worldmodels.actions import ActionCodecs
from worldmodels.batch import Batch, at
from worldmodels.dynamics.autoregressive import Autoregressive
from worldmodels.dynamics.blocks import BlockMemory
from worldmodels.dynamics.diffusion import Diffusion
from worldmodels.dynamics.factorised import Factorised
from worldmodels.dynamics.parallel import Parallel
from worldmodels.dynamics.sequence import Memory
from worldmodels.protocols import State
from worldmodels.tokenizers.delta_vq import DeltaVQ

NUM_ACTIONS = 5
SPEC = EnvSpec(Image((64, 64, 3)), Discrete(NUM_ACTIONS))

Net = Autoregressive | Diffusion | Factorised | Parallel

# One stage on 8x8 patches: a 4x4 grid, so 2x2 positions a token.
_CONV = "patch=8 groups=4 mult=[1] down=[1]"
_CODEBOOK = "size=16 dim=8"
# What makes each kind small, by where it is chosen; the first kind is that of the preset. A kind
# that is not here has the sizes of its settings.
_KINDS = {
    "tokenizer": {
        "delta_vq": f"{_CONV} encoder.base=8 encoder.latent=4 context.base=8 context.latent=2 "
        "decoder.base=8 context_noise=0",
        "frame_vq": "tokens=4 patch=8 groups=4 mult=[1,2] down=[1,0] attend=[1,0] blocks=1 "
        "encoder.base=8 encoder.latent=4 decoder.base=8",
        "patch_nn": "patch=32 size=16 candidates=8",
    },
    "tokenizer.quantizer": {
        "vq_ema": _CODEBOOK,
        # 16 codes of each.
        "bsq": "bits=4",
        "fsq": "levels=[4,4]",
        "lfq": "bits=4",
        **dict.fromkeys(("simvq", "vq_euclid", "vq_grad"), _CODEBOOK),
    },
    "dynamics.layout": {
        "delta": f"{_CONV} base=8 latent=2",
        "blind": f"{_CONV} base=8 latent=2",
        "token": "",
    },
    "actor_critic": {
        "cnn_lstm": f"{_CONV} base=8 latent=2 hidden=16",
        "mlp": "hidden=16 layers=2",
        "pool_lstm": "patch=8 widths=[8,4] hidden=16",
        "token_transformer": "width=16 layers=2 heads=2 mlp=24",
    },
}
_SIZES = {"dynamics": "width=32 heads=2 layers=2", "behaviour": "horizon=4 context=3"}
# Words that another word makes no sense without.
_WHOLE = "agent.tokenizer.kind=frame_vq"
_SHOWN = {
    "frames": (),
    "tokens": (_WHOLE, "agent.view=tokens"),
    "features": ("agent.view=latent",),
}
_NEEDED = {
    "agent.dynamics.layout.kind=packed": (_WHOLE, "agent.dynamics.kind=factorised"),
    "agent.dynamics.layout.kind=token": (_WHOLE,),
    "agent.view=reconstruction": (_WHOLE,),
    "agent.view=tokens": (_WHOLE, "agent.actor_critic.kind=token_transformer"),
    "agent.view=latent": ("agent.actor_critic.kind=mlp",),
    **{f"agent.actor_critic.kind={kind}": _SHOWN[c.reads[0]] for kind, c in ACTOR_CRITICS.items()},
}
SMALL = [f"agent.{at}.{word}" for at, words in _SIZES.items() for word in words.split()]


def codecs(num_actions: int) -> ActionCodecs:
    """What tells nets of one of so many actions."""
    return ActionCodecs(Discrete(num_actions), form="floats", bins=2)


def settings(*words: str) -> dict[str, Any]:
    """The `agent` group of the tiny preset, shrunk further, as a dict."""
    small = list(SMALL)
    words = (*(w for word, needed in _NEEDED.items() if word in words for w in needed), *words)
    chosen = {at: next(iter(table)) for at, table in _KINDS.items()}
    for word in words:
        at, _, kind = word.removeprefix("agent.").partition(".kind=")
        chosen[at] = kind
    if "quantizer" not in TOKENIZERS[chosen["tokenizer"]].model_fields:
        del chosen["tokenizer.quantizer"]
    for at, table in _KINDS.items():
        small += [f"agent.{at}.{word}" for word in table.get(chosen.get(at, ""), "").split()]
    return load(["env=crafter", "size=tiny", *small, *words]).config.agent.model_dump()


def small_agent(*words: str, spec: EnvSpec = SPEC) -> Agent:
    """An agent of `settings` whose weights are large enough for every input to matter."""
    agent = build_agent(settings(*words), spec)
    shake(agent.world_model)
    shake(agent.actor_critic)
    shake(agent.target)
    return agent


def parts(agent: Agent) -> tuple[DeltaVQ, Autoregressive]:
    """The delta tokenizer and the dynamics of `small_agent`."""
    tokenizer = agent.world_model.tokenizer
    assert isinstance(tokenizer, DeltaVQ)
    return tokenizer, dynamics_of(agent)


def dynamics_of(agent: Agent) -> Autoregressive:
    """The dynamics of `small_agent`."""
    dynamics = agent.world_model.dynamics
    assert isinstance(dynamics, Autoregressive)
    return dynamics


@torch.no_grad()
def shake(module: Any) -> None:
    """Move all parameters away from their small or zero starts."""
    for weight in module.parameters():
        weight.add_(torch.randn_like(weight) * 0.2)


def windows(rows: Sequence[tuple[int, int, int]], seed: int = 0, spec: EnvSpec = SPEC) -> Batch:
    """A batch with a row per (steps of padding left, valid steps, steps of padding right)."""
    rng = torch.Generator().manual_seed(seed)
    batch, steps = len(rows), sum(rows[0])
    valid = torch.zeros(batch, steps, dtype=torch.bool)
    for row, (left, inner, _) in zip(valid, rows, strict=True):
        row[left : left + inner] = True
    empty = torch.zeros_like(valid)
    obs = each(lambda space: random_of(space, (batch, steps + 1), rng), spec.obs)
    act = random_of(spec.act, (batch, steps), rng)
    act = act * wide(valid, act)
    rew = torch.randn(batch, steps, generator=rng) * valid
    window = Batch(obs, act, rew, empty, empty, valid)
    return replace(window, obs=each(lambda x: x * wide(window.seen, x), obs))


def wide(which: Tensor, like: Tensor) -> Tensor:
    """Rows and steps (B,T) with as many axes of 1 as `like` has more."""
    return which[(..., *[None] * (like.ndim - 2))]


def scribble(batch: Batch, seed: int = 1, spec: EnvSpec = SPEC) -> Batch:
    """The same batch with other things in its padding."""
    other = windows([(0, batch.act.shape[1], 0)] * len(batch.act), seed, spec)
    seen, valid = batch.seen, batch.valid
    return replace(
        batch,
        obs=each(lambda x, y: torch.where(wide(seen, x), x, y), batch.obs, other.obs),
        act=torch.where(wide(valid, batch.act), batch.act, other.act),
        rew=torch.where(valid, batch.rew, other.rew),
    )


def tokens_of(batch: Batch, seed: int = 3) -> Tensor:
    """Random tokens, as they do not matter here; zeros at the first frame as tokenizers give."""
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 16, (*batch.act.shape, 4), generator=rng)
    return F.pad(tokens, (0, 0, 1, 0))


def shown(moment: State | Memory | BlockMemory) -> Obs:
    """The frame of an imagined moment that has one."""
    assert moment.obs is not None
    return moment.obs


def cut(batch: Batch, rows: slice, steps: slice) -> Batch:
    """Some rows and some steps of a batch, with the frames around those steps."""
    start, stop, _ = steps.indices(batch.act.shape[1])
    flat = {k: getattr(batch, k)[rows, start:stop] for k in ("act", "rew", "end", "trunc", "valid")}
    return Batch(obs=at(each(lambda x: x[rows], batch.obs), slice(start, stop + 1)), **flat)


def gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Gradients by name; those that got none are left out."""
    module.zero_grad(set_to_none=True)
    loss.backward()
    named = module.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], atol: float = 1e-6) -> None:
    """Compare tensors name by name."""
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=atol, rtol=1e-4, msg=name)


class _NoWait(TorchDispatchMode):
    """Fails on what would make the host wait for a GPU."""

    FORBIDDEN = frozenset(
        ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select")
        + ("_unique2", "unique_dim", "unique_consecutive")
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.FORBIDDEN, f"the host waits in {name}"
        # torch.tensor(...), but also a number assigned to a slice, which is only filled in.
        assert name != "lift_fresh" or not args[0].ndim, "a copy from the host"
        if name in ("index", "index_put", "index_put_", "_unsafe_index"):
            dtypes = [i.dtype for i in args[1] if i is not None]
            assert torch.bool not in dtypes, "a boolean index waits for the number of its elements"
        if name == "repeat_interleave":
            assert not isinstance(args[0], Tensor) or "output_size" in (kwargs or {})
        if name == "_to_copy":
            asked = (kwargs or {}).get("device")
            assert asked is None or asked == args[0].device, "a copy between devices"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting() -> Iterator[None]:
    """Code inside must not make the host wait for the device."""
    with _NoWait():
        yield


@contextmanager
def heard(net: Net) -> Iterator[dict[str, list[Tensor]]]:
    """What the heads say while inside."""
    said: dict[str, list[Tensor]] = {"token_head": [], "reward_head": [], "end_head": []}
    hooks = [
        getattr(net, name).register_forward_hook(lambda _m, _x, y, out=out: out.append(y))
        for name, out in said.items()
    ]
    yield said
    for hook in hooks:
        hook.remove()


def scored(
    net: Autoregressive | Diffusion | Factorised | Parallel, batch: Batch, tokens: Tensor
) -> dict[str, Tensor]:
    """The logits that loss() trains: tokens (B,T,K,V), rewards and ends (B,T,size)."""
    with heard(net) as said:
        net.loss(batch, tokens)
    return {name: out[0] for name, out in said.items()}
