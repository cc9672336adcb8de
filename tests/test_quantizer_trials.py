"""Quantizers compared on real games, and the numbers of the comparison on made-up frames."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from runners import commands
from runners.errors import UserError
from runners.quantizer_trials import CHAIN, measure
from runners.quantizers import settings_of
from runners.recorded import record
from runners.settings.load import load
from runners.settings.options import QuantizerOptions
from worldmodels.batch import Batch
from worldmodels.protocols import Prev

SMALL = ["size=tiny", "threads=1", "device=cpu", "agent.phases.tokenizer.batch=4"]


def test_quantizers_are_compared_on_the_same_games(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["quantizers=[fsq,vq_ema]", "seeds=2", "updates=10", "games=2", f"out={tmp_path / 'q'}"]
    assert commands.quantizers([*SMALL, *own]) == 0
    found = json.loads((tmp_path / "q" / "quantizers.json").read_text())
    trials = found["trials"]
    assert [(t["quantizer"], t["seed"]) for t in trials] == [
        *(("fsq", 0), ("vq_ema", 0)),
        *(("fsq", 1), ("vq_ema", 1)),
    ]
    for trial in trials:
        assert 0 < trial["mse"] < 1 and 0 < trial["worst"] <= 1 and trial["seconds"] > 0
        assert 1 <= trial["slot_perplexity"] <= trial["perplexity"] <= trial["codes"]
        assert 0 <= trial["churn"] <= 1
        assert 0 < trial["in_use"] <= trial["codes"]
        assert trial["token_bits"] == pytest.approx(4 * math.log2(trial["codes"]))
    assert [t["codes"] for t in trials[:2]] == [1000, 1024]
    # Another seed is another training.
    assert trials[0]["mse"] != trials[2]["mse"]
    printed = capsys.readouterr().out
    assert "| fsq |" in printed and "| vq_ema |" in printed
    assert "4 of 4 trainings" in printed


def test_the_settings_of_a_comparison_have_equal_vocabularies() -> None:
    options = QuantizerOptions(codes=512, seeds=1)
    found = {
        c.agent.tokenizer.quantizer.kind: c.agent.tokenizer.quantizer  # type: ignore[attr-defined]
        for c in settings_of(["agent=iris", "size=tiny"], options)
    }
    assert found["fsq"].levels == (8, 8, 8) and found["lfq"].bits == found["bsq"].bits == 9
    assert {found[k].size for k in ("simvq", "vq_ema", "vq_euclid", "vq_grad")} == {512}
    # The vectors of the preset, whatever the kind.
    assert {found[k].dim for k in ("simvq", "vq_ema", "vq_euclid", "vq_grad")} == {32}
    with pytest.raises(UserError, match="patch_nn has no quantizer"):
        settings_of(["agent=iris", "agent.tokenizer.kind=patch_nn"], options)
    with pytest.raises(UserError, match="kind='fsqq'"):
        settings_of(["size=tiny"], QuantizerOptions(quantizers=("fsqq",)))
    with pytest.raises(UserError, match="names one of them twice"):
        settings_of(["size=tiny"], QuantizerOptions(quantizers=("fsq", "fsq")))
    with pytest.raises(UserError, match="not seed="):
        settings_of(["size=tiny", "seed=7"], options)


@pytest.mark.parametrize(("codes", "levels"), [(64, 64), (128, 128), (500, 512), (2048, 1920)])
def test_fsq_has_the_levels_that_come_nearest(codes: int, levels: int) -> None:
    options = QuantizerOptions(quantizers=("fsq",), codes=codes, seeds=1)
    (config,) = settings_of(["size=tiny"], options)
    assert math.prod(config.agent.tokenizer.quantizer.levels) == levels  # type: ignore[attr-defined]


def test_recorded_games_are_the_same_each_time() -> None:
    config = load([*SMALL, "env.length=20"]).config
    one, two = record(config, 18, CHAIN), record(config, 18, CHAIN)
    assert len(one.train) == 18 and one.frames == sum(len(game.act) + 1 for game in one.train)
    # All of them different, whichever were played at the same time.
    assert len({game.obs.tobytes() for game in one.train}) == 18
    assert one.held_out.obs.shape[1] == CHAIN + 1
    assert torch.equal(one.held_out.obs, two.held_out.obs)
    assert all((a.obs == b.obs).all() for a, b in zip(one.train, two.train, strict=True))


class Adding:
    """A delta tokenizer of grey frames: token 0 says how much is added, token 1 nothing."""

    vocab, tokens, dim = 8, 2, 1

    def encode(self, prev: Prev, obs: Tensor) -> Tensor:
        added = (obs - prev.obs)[..., 0, 0, 0].long()
        return torch.stack((added, torch.full_like(added, 7)), -1)

    def decode(self, prev: Prev, tokens: Tensor) -> Tensor:
        # One too much each time, in all pixels but the first one, where it is right.
        frames = prev.obs + (tokens[..., 0, None, None, None] + 1).to(torch.uint8)
        frames[..., 0, 0, :] -= 1
        return frames


def test_errors_and_perplexities_of_known_tokens() -> None:
    added = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]])
    level = torch.cat((torch.full((2, 1), 10), 10 + added.cumsum(1)), 1)
    obs = level[:, :, None, None, None].expand(2, 5, 2, 2, 3).to(torch.uint8)
    no = torch.zeros(2, 4, dtype=torch.bool)
    batch = Batch(obs, torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4), no, no, ~no)
    found = measure(Adding(), batch)  # type: ignore[arg-type]
    one = 0.75 / 255**2
    assert found["mse"] == pytest.approx(one)
    # Fed its own frames, it is off by one more with every step.
    assert found["chain_mse"] == pytest.approx(16 * one)
    assert found["worst"] == pytest.approx(1 / 255)
    # Position 0 has four tokens alike, position 1 one: 4 and 1; together 1/8 four times and 1/2.
    assert found["slot_perplexity"] == pytest.approx(2.5)
    assert found["perplexity"] == pytest.approx(2 ** (4 * 3 / 8 + 1 / 2))
