"""What a command word does: check all that can be checked, then import what does the work.

torch takes seconds to import; therefore it is imported, through the modules that need it, only
when nothing wrong with the command is left to find.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from runners.errors import UserError

if TYPE_CHECKING:
    from runners.settings.base import Settings
    from runners.settings.config import Config

S = TypeVar("S", bound="Settings")


def train(words: list[str]) -> int:
    """Train an agent in a new run folder."""
    config = _new_config(words)
    from runners import train as training

    training.main(config)
    return 0


def resume(words: list[str]) -> int:
    """Go on with a run that was stopped."""
    from runners.needs import need_sound_checkpoint
    from runners.run_folder import find_run
    from runners.settings.load import read_for_resume

    text, rest, root = _split("resume", words)
    run_dir = find_run(text, root)
    config = read_for_resume(run_dir / "config.yaml", rest).config
    _together(lambda: _can_train(config), lambda: need_sound_checkpoint(run_dir))
    from runners import train as training

    training.resume(run_dir, config)
    return 0


def evaluate(words: list[str]) -> int:
    """Play whole episodes with a run's checkpoint."""
    from runners.needs import need_checkpoint, need_device
    from runners.settings.options import EvaluateOptions

    run_dir, options = _run_and_options("evaluate", words, EvaluateOptions)
    _together(
        lambda: need_device(options.device),
        lambda: need_checkpoint(run_dir, options.checkpoint),
    )
    from runners import evaluate as evaluation

    evaluation.main(run_dir, options)
    return 0


def imagine(words: list[str]) -> int:
    """Write pictures of what a run's checkpoint dreams."""
    from runners.needs import need_checkpoint, need_device, need_format
    from runners.settings.options import ImagineOptions

    run_dir, options = _run_and_options("imagine", words, ImagineOptions)
    _together(
        lambda: need_device(options.device),
        lambda: need_format(options.format),
        lambda: need_checkpoint(run_dir, options.checkpoint),
    )
    from runners import dream

    dream.main(run_dir, options)
    return 0


def bench(words: list[str]) -> int:
    """Measure the speed of each part with the settings of a run."""
    from runners.settings.options import BenchOptions

    options, rest = _own_options(BenchOptions, words)
    config = _new_config(rest)
    from runners import bench as benchmark

    benchmark.main(config, options)
    return 0


def check_env(words: list[str]) -> int:
    """Step an environment with random actions, and say what an agent will see of it."""
    from runners.needs import need_environment
    from runners.settings.load import load
    from runners.settings.options import CheckEnvOptions

    options, rest = _own_options(CheckEnvOptions, _id_as_settings(words))
    config = load(rest).config
    need_environment(config)
    from runners import check_env as checking

    checking.main(config, options, rest)
    return 0


def quantizers(words: list[str]) -> int:
    """Train the tokenizer alone with each quantizer, on the same games."""
    from runners.settings.options import QuantizerOptions

    options, rest = _own_options(QuantizerOptions, words)
    from runners import quantizers as comparing

    configs = comparing.settings_of(rest, options)
    _can_train(configs[0])
    comparing.main(configs, options, command=["tokendream", "quantizers", *words])
    return 0


def ablate(words: list[str]) -> int:
    """Train the dynamics alone in each of several ways, on the same tokens."""
    from runners.settings.options import AblateOptions

    options, rest = _own_options(AblateOptions, words)
    from runners import ablate as comparing

    table, plan = comparing.settings_of(rest, options)
    _can_train(plan.rows[0].config)
    comparing.main(table, plan, options, command=["tokendream", "ablate", *words])
    return 0


def report(words: list[str]) -> int:
    """Put runs of the same settings together: curves, a table, what it was run on."""
    from runners.settings.options import ReportOptions

    runs, options = _runs_and_options("report", words, ReportOptions)
    from runners import report as reporting

    reporting.main(runs, options, command=["tokendream", "report", *words])
    return 0


def compare(words: list[str]) -> int:
    """Put runs of several agents side by side, at the same budget."""
    from runners.settings.options import CompareOptions

    runs, options = _runs_and_options("compare", words, CompareOptions)
    from runners import compare as comparing

    comparing.main(runs, options, command=["tokendream", "compare", *words])
    return 0


def doctor(words: list[str]) -> int:
    """Try everything that a run needs on this machine."""
    if words:
        raise UserError(f"doctor takes no settings, got: {' '.join(words)}")
    from runners import doctor as checkup

    return checkup.main()


def config(words: list[str]) -> int:
    """Print the resolved settings."""
    from runners.settings.load import load
    from runners.settings.show import resolved_text

    print(resolved_text(load(words)))
    return 0


def _id_as_settings(words: list[str]) -> list[str]:
    """Words of which the first may be the id of a Gymnasium environment, all as settings.

    Raises UserError for what other suites have.
    """
    from envs.dmc_tasks import TASKS
    from envs.scores import list_games
    from runners.settings.presets import names

    word = words[0] if words else "="
    if "=" in word or word.startswith("-") or word in names("env"):
        return words
    for setting, known in (
        ("env=atari env.game", list_games()),
        ("env=dmc_vision env.task", TASKS),
    ):
        if word in known:
            raise UserError(f"{word!r} is no id of Gymnasium\n  did you mean: {setting}={word}")
    return ["env=gym", f"env.id={word}", *words[1:]]


def _own_options(cls: type[S], words: list[str]) -> tuple[S, list[str]]:
    """A command's own options, and the words that are settings of a run."""
    from runners.settings.load import load_options

    own = [word for word in words if word.partition("=")[0] in cls.model_fields]
    return load_options(cls, own), [word for word in words if word not in own]


def _new_config(words: list[str]) -> Config:
    from runners.settings.load import load

    config = load(words).config
    _can_train(config)
    return config


def _can_train(config: Config) -> None:
    from runners.needs import need_device, need_environment, need_perceptual

    _together(
        lambda: need_environment(config),
        lambda: need_device(config.device),
        lambda: need_perceptual(config),
    )


def _split(command: str, words: list[str]) -> tuple[str, list[str], Path]:
    """The run that a command names first, its other words, and where to look (`root=`)."""
    roots = [word.partition("=")[2] for word in words if word.startswith("root=")]
    rest = [word for word in words if not word.startswith("root=")]
    if not rest or "=" in rest[0]:
        raise UserError(
            f"{command} needs a RUN: a run folder, a unique prefix of its name, or last\n"
            f"  see: tokendream list runs"
        )
    return rest[0], rest[1:], _root(roots)


def _root(words: list[str]) -> Path:
    """Where to look for runs: what `root=` said last, or the usual folder."""
    from runners.run_folder import ROOT

    return Path(words[-1]) if words else ROOT


def _run_and_options(command: str, words: list[str], cls: type[S]) -> tuple[Path, S]:
    """Find the run, read the options, and refuse what is wrong with either."""
    from runners.needs import need_environment
    from runners.settings.load import read

    text, rest, root = _split(command, words)
    runs, options = _found([text], rest, root, cls)
    need_environment(read(runs[0] / "config.yaml").config)
    return runs[0], options


def _runs_and_options(command: str, words: list[str], cls: type[S]) -> tuple[list[Path], S]:
    """The same for all runs that are named."""
    names = [word for word in words if "=" not in word]
    _, rest, root = _split(command, [*names[:1], *(word for word in words if "=" in word)])
    return _found(names, rest, root, cls)


def _found(names: list[str], rest: list[str], root: Path, cls: type[S]) -> tuple[list[Path], S]:
    from runners.run_folder import find_run
    from runners.settings.load import load_options

    options: list[S] = []
    runs: list[Path] = []
    _together(
        *[lambda text=text: runs.append(find_run(text, root)) for text in names],
        lambda: options.append(load_options(cls, rest)),
    )
    return runs, options[0]


def _together(*checks: Callable[[], None]) -> None:
    """Make all checks. Raises one UserError with what any of them raised."""
    messages = []
    for check in checks:
        try:
            check()
        except UserError as error:
            messages.append(str(error))
    if messages:
        raise UserError("\n".join(messages))
