"""Training can stop anywhere and goes on bit for bit; nothing that watches it changes it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from envs.base import Env
from envs.probes import CountingGame
from runners import train
from runners.checkpoint import Checkpoints, load, save
from runners.errors import UserError
from runners.opening import open_env
from runners.phases import Phase
from runners.replay_store import Store
from runners.run_folder import create_run, read_summary
from runners.settings.config import Config
from runners.settings.load import read as read_settings
from runners.settings.load import to_yaml
from runners.settings.presets import names
from runners.train import restore
from runners.trainer import Schedule, Stopped, Trainer
from tests.runs import differences, essence, games, small, trainer_of
from worldmodels.batch import Batch
from worldmodels.dynamics import DYNAMICS

COUNTING = functools.partial(CountingGame, 4, 5, size=64, num_actions=5, life_every=3)


def real(config: Config) -> Env:
    """Real games, where the settings say."""
    env = config.env
    return open_env(config, num_envs=env.num_envs, workers=env.workers, training=True)


def counting(_: Config) -> Env:
    """Counting games that lose lives."""
    return games(COUNTING)


def saved(trainer: Trainer, folder: Path) -> dict[str, Any]:
    """The state after a trip to disk."""
    save(folder, trainer.state_dict())
    return essence(load(folder))


def whole(
    config: Config, folder: Path, make: Callable[[Config], Env]
) -> tuple[dict[str, Any], int]:
    """The end of an uninterrupted run, and how many moments to stop it had."""
    moments: list[str] = []
    trainer = trainer_of(config, folder, make(config), on_progress=moments.append)
    trainer.run()
    return saved(trainer, folder / "end"), len(moments)


def interrupted(
    config: Config, folder: Path, make: Callable[[Config], Env], stops: list[int]
) -> dict[str, Any]:
    """The end of a run stopped after each number of moments in `stops`, resumed from disk."""
    for life, moments in enumerate([*stops, 10**9]):
        left = iter(range(moments))
        trainer = trainer_of(
            config, folder, make(config), should_stop=lambda left=left: next(left, None) is None
        )
        if life:
            restore(trainer, load(folder / "stopped"), folder / "stopped")
        with contextlib.suppress(Stopped):
            trainer.run()
        save(folder / "stopped", trainer.state_dict())
        trainer.collector.env.close()
        trainer.replay.close()
    assert not trainer.schedule.epochs_left(trainer.at), "the run ended"
    return essence(load(folder / "stopped"))


def test_a_run_stopped_at_every_moment_is_the_same_run(tmp_path: Path) -> None:
    config = small("run.steps=45")
    end, moments = whole(config, tmp_path / "whole", counting)
    assert moments > 30
    again = interrupted(config, tmp_path / "parts", counting, [1] * (moments - 1))
    assert differences(end, again) == []


# Stops lie in collection at random, in each phase, and in collection by the policy.
STOPS = [*product(["delta_iris"], ["crafter"], [2, 7, 13, 18])]
STOPS += [*product(names("agent"), ["crafter", "dmc_state"], [16])]
others = sorted({*names("env")} - {"crafter", "dmc_state"})
STOPS += [*product(["delta_iris", "state_tokens"], others, [16])]


@pytest.mark.parametrize(("agent", "env", "stop"), STOPS)
def test_a_real_run_stopped_once_is_the_same_run(
    tmp_path: Path, agent: str, env: str, stop: int
) -> None:
    config = small("run.steps=45", "run.tail_epochs=0", agent=agent, env=env)
    end, moments = whole(config, tmp_path / "whole", real)
    assert stop < moments
    again = interrupted(config, tmp_path / "parts", real, [stop])
    assert differences(end, again) == []


def test_what_a_policy_keeps_beside_its_weights_is_resumed(tmp_path: Path) -> None:
    config = small(
        "run.steps=45",
        "agent.actor_critic.value=hl_gauss",
        "agent.behaviour.critic_targets.kind=self_regularised",
        "agent.behaviour.return_scale.kind=percentiles",
    )
    end, moments = whole(config, tmp_path / "whole", counting)
    assert end["model"]["return_scale.spread"] > 0
    again = interrupted(config, tmp_path / "parts", counting, [moments - 3, 1, 1])
    assert differences(end, again) == []


@pytest.mark.parametrize("kind", sorted(DYNAMICS))
def test_a_run_with_any_dynamics_trains_and_goes_on_bit_for_bit(tmp_path: Path, kind: str) -> None:
    config = small("run.steps=45", "run.tail_epochs=0", f"agent.dynamics.kind={kind}")
    end, moments = whole(config, tmp_path / "whole", counting)
    assert all(count > 0 for count in end["position"]["updates"].values())
    again = interrupted(config, tmp_path / "parts", counting, [moments - 2])
    assert differences(end, again) == []


def test_seeds_decide_a_run(tmp_path: Path) -> None:
    ends = [
        whole(small(f"seed={seed}"), tmp_path / str(i), counting)[0]
        for i, seed in enumerate((1, 1, 2))
    ]
    assert differences(ends[0], ends[1]) == []
    assert differences(ends[0]["model"], ends[2]["model"])


def test_what_watches_a_run_does_not_change_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    often = ["run.eval_every=1", "run.checkpoint_minutes=1e-9", "run.dream_minutes=1e-9"]
    ends = []
    for name, words in (("often", often), ("never", [])):
        run = train.main(small(f"root={tmp_path}", f"name={name}", "run.steps=45", *words))
        last = Checkpoints(run / "checkpoints", keep=9).last()
        assert last is not None and read_summary(run)["status"] == "finished"
        ends.append(essence(load(last)))
        first, second = (Store.read(run / "replay").episode(i).obs for i in (0, 1))
        ends[-1]["first"], ends[-1]["second"] = first, second
    assert differences(ends[0], ends[1]) == []
    assert "evaluation return" in capsys.readouterr().out


def test_the_best_checkpoint_outlives_updates_at_the_same_step(tmp_path: Path) -> None:
    config = small(
        f"root={tmp_path}", "run.eval_every=1", "run.checkpoint_minutes=1e-9", "run.keep=9"
    )
    run = train.main(config)
    states = {
        int(checkpoint.name): json.loads((checkpoint / "state.json").read_text())
        for checkpoint in Checkpoints(run / "checkpoints", 9).all()
    }
    scored = [number for number, state in states.items() if state["score"] is not None]
    assert scored == [30, 45, 60, 61] and len(states) > 4, "one for each epoch, the tail's too"


def test_steps_beyond_an_epoch_are_deducted_from_the_next(tmp_path: Path) -> None:
    config = small("run.chunk_steps=100", "env.num_envs=4", "run.tail_epochs=0")
    trainer = trainer_of(config, tmp_path, games(COUNTING, 4))
    steps: list[int] = []
    trainer.on_epoch = lambda scalars, finished: steps.append(trainer.at.steps)
    trainer.run()
    assert steps == [32, 48, 60]
    assert trainer.replay.num_steps == 60


def test_updates_follow_the_phases_and_count_draws_after_the_first_epoch(tmp_path: Path) -> None:
    config = small("agent.phases.policy.after_epoch=2", "agent.phases.tokenizer.updates=2")
    trainer = trainer_of(config, tmp_path, counting(config))
    trainer.run()
    assert trainer.at.updates == {"tokenizer": 5 + 3 * 2, "world_model": 5 + 3 * 3, "policy": 2 * 3}
    counts = trainer.replay.state_dict()["counts"]
    assert counts["tokenizer"].sum() == 3 * 2 * 4 and counts["policy"].sum() == 2 * 3 * 4


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    config = small()
    trainer = trainer_of(config, tmp_path, counting(config))
    trainer.run()
    with torch.no_grad():
        next(iter(trainer.phases[1].learner.module.parameters())).fill_(math.nan)
    trainer.schedule = Schedule(60, 30, 15, 2, 7)
    with pytest.raises(UserError, match=r"world_model/\w+ is not finite after 60 steps.*lr"):
        trainer.run()


def test_a_diverged_run_keeps_its_last_good_checkpoint_and_says_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, calls = Phase.update, itertools.count()

    def diverge(self: Phase, batch: Batch) -> dict[str, torch.Tensor]:
        metrics = update(self, batch)
        if next(calls) > 15:
            with torch.no_grad():
                self.parameters[0].fill_(math.nan)
            metrics["grad_norm"] = torch.tensor(math.nan)
        return metrics

    monkeypatch.setattr(Phase, "update", diverge)
    config = small(f"root={tmp_path}", "name=bad", "run.checkpoint_minutes=1e-9", "run.keep=50")
    with pytest.raises(UserError, match="not finite"):
        train.main(config)
    run = tmp_path / "crafter" / "delta_iris" / "bad"
    summary = read_summary(run)
    assert summary["status"] == "failed" and "not finite" in summary["error"]
    assert "UserError" in (run / "error.txt").read_text()
    last = Checkpoints(run / "checkpoints", 1).last()
    assert last is not None
    assert all(torch.isfinite(weight).all() for weight in load(last)["model"].values())


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no GPU"):
        train.main(small(f"root={tmp_path / 'runs'}", "device=cuda"))
    assert not (tmp_path / "runs").exists()


def test_a_finished_run_is_resumed_only_for_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small(f"root={tmp_path}", "run.steps=30", "run.first_steps=30")
    run = train.main(config)
    with pytest.raises(UserError, match=r"has finished its 30 steps.*run.steps=60"):
        train.resume(run, config)
    more = config.model_copy(update={"run": config.run.model_copy(update={"steps": 45})})
    capsys.readouterr()
    train.resume(run, more)
    summary = read_summary(run)
    assert summary["status"] == "finished" and summary["steps"] == 45
    told = capsys.readouterr().out
    assert "epochs   4, of 15 steps" in told, "an epoch and a tail before, and again"
    updates = load(Checkpoints(run / "checkpoints", 9).all()[-1])["position"]["updates"]
    assert f"policy {updates['policy']:,} (" in told
    assert "resumed  at step 30, epoch 3" in told
    numbers = [int(point.name) for point in Checkpoints(run / "checkpoints", 9).all()]
    assert numbers[-1] == 45 + 2, "two epochs of the tail in its life"
    with pytest.raises(UserError, match="has finished its 45 steps"):
        train.resume(run, more)


def test_gradients_and_learning_rates_are_logged_by_component(tmp_path: Path) -> None:
    run = train.main(small(f"root={tmp_path}", "run.steps=30", "agent.phases.policy.lr=2e-4"))
    tags: dict[str, float] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        tags |= json.loads(line)
    components = {"tokenizer", "world_model", "policy"}
    for group in ("grad", "lr"):
        assert {tag.split("/")[1] for tag in tags if tag.startswith(f"{group}/")} == components
    assert tags["lr/policy"] == 2e-4 and tags["grad/policy"] > 0
    assert not any(tag.endswith("grad_norm") for tag in tags)


def test_a_run_that_never_came_to_a_checkpoint_begins_anew_as_it_is_told(tmp_path: Path) -> None:
    config = small("run.steps=30")
    run = create_run(
        tmp_path, env="crafter", agent="delta_iris", seed=0, config=to_yaml(config), command=["a"]
    )
    more = config.model_copy(update={"run": config.run.model_copy(update={"keep": 7})})
    train.resume(run, more)
    assert read_summary(run)["status"] == "finished"
    assert read_settings(run / "config.yaml").config.run.keep == 7
    assert len((run / "command.txt").read_text().splitlines()) == 2


def test_a_damaged_checkpoint_is_found_before_anything_is_changed(tmp_path: Path) -> None:
    config = small(f"root={tmp_path}", "run.steps=30")
    run = train.main(config)
    point = Checkpoints(run / "checkpoints", 1).last()
    assert point is not None
    (point / "tensors.safetensors").write_bytes(b"")
    more = config.model_copy(update={"run": config.run.model_copy(update={"steps": 45})})
    with (run / "replay" / "steps-00.bin").open("ab") as file:
        file.write(b"what a crash left")

    def contents() -> dict[str, bytes]:
        files = (path for path in run.rglob("*") if path.is_file() and path.name != "lock")
        return {str(path): path.read_bytes() for path in files}

    before = contents()
    with pytest.raises(UserError, match="damaged: tensors.safetensors is not what was written"):
        train.resume(run, more)
    assert contents() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_the_users_error() -> None:
    from runners.hardware import open_hardware

    with pytest.raises(UserError, match="device='cuda'"):
        open_hardware("cuda", "auto", 1)
