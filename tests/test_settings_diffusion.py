"""Settings of diffusion dynamics: what is refused and why, and that the rest builds and dreams."""

from __future__ import annotations

import pytest

from agents.build import denoiser_parts
from runners.errors import UserError
from runners.settings.diffusion import BACKBONES as BACKBONE_SETTINGS
from runners.settings.load import load
from runners.settings.noise import PROCESSES as PROCESS_SETTINGS
from runners.settings.noise import SAMPLERS as SAMPLER_SETTINGS
from tests.nets import small_agent, windows
from worldmodels.diffusion import SAMPLERS
from worldmodels.diffusion.processes import PROCESSES
from worldmodels.diffusion.schedules import SCHEDULES
from worldmodels.nets.backbones import BACKBONES

KIND = "agent.dynamics.kind=diffusion"
NEEDED = {
    "reverse": "uniform",
    "copilot4d": "copilot4d",
    "planned": "copilot4d",
}
"""The noise that some samplers want."""


def refused(*words: str) -> str:
    """The one line that says why such settings cannot be."""
    with pytest.raises(UserError) as caught:
        load([KIND, *(f"agent.dynamics.{word}" for word in words)])
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_part_has_settings_and_the_other_way_round() -> None:
    assert PROCESS_SETTINGS.keys() == PROCESSES.keys()
    assert SAMPLER_SETTINGS.keys() == SAMPLERS.keys()
    assert BACKBONE_SETTINGS.keys() == BACKBONES.keys()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["sampler.steps=5"],
            "agent.dynamics.sampler.steps=5 is more than agent.tokenizer.tokens=4: every step "
            "reveals at least one token, so 4 are enough",
        ),
        (["guidance=1"], "agent.dynamics.guidance=1 with agent.dynamics.objectives.alone=0: "),
        (["guidance=-1"], "agent.dynamics.guidance=-1 with agent.dynamics.objectives.alone=0: "),
        (["objectives.clean=0", "objectives.corrupted=0"], "nothing would be learned"),
        (["process.kind=uniform"], "has no masks to reveal; agent.dynamics.sampler.kind=reverse"),
        (["process.kind=copilot4d", "sampler.kind=reverse"], "no path in time"),
        (["sampler.kind=copilot4d"], "draws shown tokens anew, which a denoiser of masks alone"),
        (["sampler.kind=planned"], "agent.dynamics.process.kind=copilot4d teaches it"),
        (
            ["width=64", "heads=64", "layout.latent=1"],
            "a head of 1 numbers, which are turned in pairs, must be even",
        ),
        (["sampler.temperature=0"], "greater than 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(words: list[str], text: str) -> None:
    assert text in refused(*words)


def test_patches_are_counted_too() -> None:
    words = ["agent.tokenizer.kind=patch_nn", "agent.tokenizer.patch=30", KIND]
    with pytest.raises(UserError, match="more than the 4 tokens of agent.tokenizer.patch=30"):
        load([*words, "agent.dynamics.sampler.steps=5"])


@pytest.mark.parametrize(
    "words",
    [
        ["sampler.kind=ancestral", "sampler.steps=9"],
        ["sampler.kind=reverse", "sampler.steps=9", "process.kind=hybrid"],
        ["sampler.kind=copilot4d", "sampler.visible=keep"],
        ["guidance=1", "objectives.alone=0.1"],
    ],
)
def test_settings_at_the_edge_are_fine(words: list[str]) -> None:
    load([KIND, *(f"agent.dynamics.{word}" for word in words)])


def test_what_is_said_of_every_sampler_stays_when_another_is_chosen() -> None:
    words = ["sampler.steps=3", "sampler.top_k=2", "sampler.kind=event_first"]
    dynamics = load([KIND, *(f"agent.dynamics.{word}" for word in words)]).config.agent.dynamics
    sampler = dynamics.model_dump()["sampler"]
    assert (sampler["kind"], sampler["steps"], sampler["top_k"]) == ("event_first", 3, 2)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_dreams(sampler: str) -> None:
    noise = NEEDED.get(sampler, "absorbing")
    words = [f"sampler.kind={sampler}", "sampler.steps=3", f"process.kind={noise}"]
    agent = small_agent(KIND, *(f"agent.dynamics.{word}" for word in words))
    model, batch = agent.world_model, windows([(0, 2, 0)] * 5)
    state = model.start(batch)
    for _ in range(2):
        state, prediction = model.imagine(state, batch.act[:, 0])
        assert (prediction.tokens >= 0).all() and (prediction.tokens < 16).all()
        assert prediction.logits.shape == (5, 4, 16) and prediction.logits.isfinite().all()


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_noise_is_learned(process: str, schedule: str) -> None:
    words = [f"process.kind={process}"]
    words += [f"process.schedule={schedule}"] * (process in {"absorbing", "uniform"})
    words += ["sampler.kind=reverse"] * (process == "uniform")
    agent = small_agent(KIND, *(f"agent.dynamics.{word}" for word in words))
    model, batch = agent.world_model, windows([(0, 3, 0), (1, 2, 0)])
    loss = model.loss(batch)
    loss.total.backward()
    assert all(part.isfinite() for part in loss.parts.values())


def test_the_parts_know_their_sizes() -> None:
    agent = small_agent(KIND, "agent.dynamics.process.kind=copilot4d")
    settings = load([KIND]).config.agent.dynamics.model_dump()
    layout = agent.get_submodule("world_model.dynamics.layout")
    built = denoiser_parts(settings, layout, 16)  # type: ignore[arg-type]
    assert built["process"].vocab == built["sampler"].vocab == 16
    assert built["sampler"].tokens == 4 and built["backbone"].trunk.slots == 7
