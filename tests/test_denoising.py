"""How frames came about: of real denoisers, small ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agents.agent import Agent
from agents.build import build_agent
from envs.experience import EnvSpec, Segment
from envs.spaces import Categories, Continuous, Image, ObsSpace, Space, Vector
from envs.trees import each
from runners.clips import clip_of, grid_of
from runners.denoising import Film, films_of
from runners.dream import dream
from runners.filmstrip import GAP, HEAD, LABEL, MARGIN, RED, TITLE, confidence, filmstrip
from runners.horizon import reports_of
from runners.rollout import free_dreams, rollout, undisturbed
from tests.nets import settings, small_agent, windows
from worldmodels.batch import Batch

DENOISES = ("agent.dynamics.kind=diffusion",)
PATCHES = (*DENOISES, "agent.dynamics.layout.kind=token")
BATCH = windows([(0, 6, 0)] * 3)
HATCHED = (201, 206, 214)
PLACE = HEAD + TITLE, MARGIN + LABEL
"""Where the first picture stands."""


def films(agent: Agent, num: int = 1, seed: int = 0) -> list[Film]:
    with undisturbed(agent, seed):
        return films_of(agent.world_model, BATCH, 1, num)


def film(*words: str) -> Film:
    return films(small_agent(*(words or PATCHES)))[0]


@pytest.mark.parametrize("words", [DENOISES, PATCHES])
def test_a_film_goes_from_masks_to_the_frames_that_are_dreamed_on(words: tuple[str, ...]) -> None:
    agent = small_agent(*words, "agent.dynamics.sampler.steps=4")
    first, second = films(agent, 2)
    assert first.pictures.shape == (4, 5, 64, 64, 3) and first.calls.tolist() == [0, 1, 2, 3, 4]
    assert first.sampler == "random" and (first.tokens[:, 0] == first.vocab).all()
    hidden = (first.tokens == first.vocab).sum(-1)
    np.testing.assert_array_equal(hidden, np.tile([4, 3, 2, 1, 0], (4, 1)))
    np.testing.assert_array_equal(np.isnan(first.prob), first.tokens == first.vocab)
    assert np.nanmin(first.prob) > 0 and np.nanmax(first.prob) <= 1
    np.testing.assert_array_equal(first.real, BATCH.obs[0, 2:6])
    # The finished tokens, followed by the world model itself, lead to the finished pictures.
    with undisturbed(agent, 1):
        state = agent.world_model.start(BATCH.first(1))
        obs = BATCH.obs[:, 1]
        for t in range(4):
            told = [torch.from_numpy(f.tokens[t, -1]) for f in (first, second)]
            tokens = torch.stack([*told, told[0]])
            obs = agent.world_model.draw(obs, BATCH.act[:, 1 + t], tokens)
            np.testing.assert_array_equal(obs[0], first.pictures[t, -1])
            np.testing.assert_array_equal(obs[1], second.pictures[t, -1])
            state, _ = agent.world_model.imagine(state, BATCH.act[:, 1 + t], tokens)


def test_of_many_calls_a_few_are_shown_and_noise_is_nobodys_thought() -> None:
    at = "agent.dynamics."
    words = (f"{at}process.kind=uniform", f"{at}sampler.kind=reverse", f"{at}sampler.steps=23")
    seen = film(*PATCHES, *words)
    assert len(seen.calls) == 10 and seen.calls[0] == 0 and seen.calls[-1] == 23
    assert (seen.tokens < seen.vocab).all()
    assert np.isnan(seen.prob[:, 0]).all() and not np.isnan(seen.prob[:, 1:]).any()
    filmstrip(seen)


def test_calls_are_counted_where_a_step_takes_two() -> None:
    kinds = ("process.kind=copilot4d", "sampler.kind=planned", "sampler.steps=2")
    seen = film(*PATCHES, *(f"agent.dynamics.{word}" for word in kinds))
    assert seen.calls.tolist() == [0, 2, 4]


def test_a_model_that_does_not_denoise_has_no_film() -> None:
    assert films(small_agent()) == []


def played(space: Space) -> tuple[Agent, Batch]:
    """A denoiser of what an environment shows, that is steered by two numbers; some windows."""
    words = (*PATCHES, "agent.view=latent", "agent.dynamics.sampler.steps=3")
    agent = build_agent(settings(*words), EnvSpec(space, Continuous(2)))
    rng = torch.Generator().manual_seed(0)
    show = {
        Image: BATCH.obs,
        Vector: torch.randn(3, 7, 3, generator=rng),
        Categories: torch.randint(0, 4, (3, 7, 3), generator=rng),
    }
    obs = each(lambda one: show[type(one)], space)
    return agent, replace(BATCH, obs=obs, act=torch.rand(3, 6, 2, generator=rng) * 2 - 1)


def test_of_several_things_a_film_shows_the_picture() -> None:
    space: dict[str, ObsSpace] = {
        "state": Vector(3),
        "pixels": Image((64, 64, 3)),
        "kinds": Categories((4, 4, 4)),
    }
    agent, batch = played(space)
    with undisturbed(agent, 0):
        (seen,) = films_of(agent.world_model, batch, 1, 1)
        compared, free = rollout(agent, batch, 2), free_dreams(agent, batch, 2, 5)
    assert seen.pictures.shape == (4, 4, 64, 64, 3) and seen.square is None
    np.testing.assert_array_equal(seen.real, BATCH.obs[0, 2:6])
    assert filmstrip(seen).shape[2] == 3
    assert set(reports_of(compared, np.arange(3), "")) == set(space)
    assert clip_of(compared, 0).shape[0] == grid_of(free).shape[0] == 6
    for name, frames in compared.dream.items():
        assert frames.dtype == compared.real[name].dtype


@pytest.mark.parametrize("space", [Vector(3), Categories((4, 4, 4))])
def test_without_a_picture_there_is_no_film(space: Vector | Categories) -> None:
    agent, batch = played(space)
    with undisturbed(agent, 0):
        assert films_of(agent.world_model, batch, 1, 1) == []
        compared, free = rollout(agent, batch, 2), free_dreams(agent, batch, 2, 5)
    assert compared.dream.shape == batch.obs[:, 1:].shape
    assert clip_of(compared, 0).shape[0] == 6 and grid_of(free).shape[0] == 1


def test_masked_places_are_grey_and_the_others_what_was_decoded() -> None:
    seen = film()
    strip = filmstrip(seen)
    top, left = PLACE
    for c in range(seen.tokens.shape[1]):
        x = left + c * (128 + GAP)
        picture = strip[top : top + 128, x : x + 128]
        for k in range(4):
            part = (slice(k // 2 * 64, k // 2 * 64 + 64), slice(k % 2 * 64, k % 2 * 64 + 64))
            decoded = seen.pictures[0, c].repeat(2, 0).repeat(2, 1)[part]
            if seen.tokens[0, c, k] == seen.vocab:
                assert (picture[part] == HATCHED).all(-1).mean() > 0.5
            else:
                np.testing.assert_array_equal(picture[part], decoded)


def test_cells_tell_confidence_and_what_is_new() -> None:
    seen = film(*DENOISES)
    assert seen.square is None
    below = PLACE[0] + 128 + 4
    before = None
    strip = filmstrip(seen)
    for c in range(seen.tokens.shape[1]):
        for k in range(4):
            x = PLACE[1] + c * (128 + GAP) + 32 * k
            cell = strip[below : below + 32, x : x + 32]
            if seen.tokens[0, c, k] == seen.vocab:
                assert (cell == HATCHED).all(-1).any()
                continue
            assert (cell[5, 5] == confidence(seen.prob[0, c, k])).all()
            new = before is None or seen.tokens[0, c, k] != before[k]
            assert (cell[0, 10] == RED).all() == new
        before = seen.tokens[0, c]


@pytest.mark.parametrize(("tokens", "square"), [(1, (64, 64)), (16, None), (64, (8, 8))])
def test_any_number_of_tokens_is_drawn(tokens: int, square: tuple[int, int] | None) -> None:
    seen = film()
    one = np.arange(tokens) % 2 * seen.vocab
    many = replace(
        seen,
        tokens=np.tile(one, (4, seen.tokens.shape[1], 1)),
        prob=np.full((4, seen.tokens.shape[1], tokens), 0.5),
        square=square,
    )
    # The page does not depend on what is masked.
    assert filmstrip(many).shape == filmstrip(replace(many, tokens=many.tokens * 0)).shape


def test_confidence_is_lighter_the_surer() -> None:
    light = confidence(np.linspace(0, 1, 11)) @ [0.3, 0.59, 0.11]
    assert (np.diff(light) > 0).all()


def test_films_and_nats_leave_no_trace() -> None:
    agent = small_agent(*PATCHES).train()
    names = ("obs", "act", "rew", "end", "trunc")
    row: dict[str, Any] = {name: getattr(BATCH, name)[0].numpy() for name in names}
    episode = Segment(**row, first=True)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = dream(agent, [episode], context=1, horizon=4, num=2, seed=7, source="", dreams=2)
    assert torch.equal(torch.rand(3), expected) and agent.training
    assert found is not None and len(found.films) == 1
    assert found.likelihood.scalars()["imagination/nll"] > 0
