"""What `COMMAND --help` says after its first line: the settings that a command takes.

Settings are imported when they are asked for, as every other command would wait for them too.
"""

from __future__ import annotations

CHECK_ENV = """\
ID is that of any Gymnasium environment: CartPole-v1, package.module:EnvId or package.module:Class,
where the module may lie in the working folder. It is short for env=gym env.id=ID. Without one,
the environment is that of the settings, such as env=dmc env.task=walker-walk env.observe=both."""
BENCH = "Seconds and peaks of memory are those of each part alone, in a process of its own."


def train() -> str:
    """Presets and settings of a new run."""
    from runners.settings.config import Config
    from runners.settings.show import presets_text, settings_help

    return (
        "Later wins: schema < presets (env, agent, size, run) < config=FILE < command line.\n\n"
        f"{presets_text()}\n\n{settings_help(Config)}"
    )


def resume() -> str:
    """Settings that may change."""
    from runners.settings.load import CHANGEABLE

    return f"Settings that may change: {', '.join(CHANGEABLE)}"


def evaluate() -> str:
    """Its options."""
    return _options("EvaluateOptions")


def imagine() -> str:
    """Its options."""
    return _options("ImagineOptions")


def check_env() -> str:
    """Ids, its options, and the settings of a new run."""
    return f"{CHECK_ENV}\n\n{_options('CheckEnvOptions')}\n\n{train()}"


def bench() -> str:
    """Its options, and the settings of a new run."""
    return f"{BENCH}\n\n{_options('BenchOptions')}\n\n{train()}"


def quantizers() -> str:
    """Its options, and the settings of a new run."""
    return f"{_options('QuantizerOptions')}\n\n{train()}"


def ablate() -> str:
    """Its options, and the settings of a new run."""
    return f"{_options('AblateOptions')}\n\n{train()}"


def report() -> str:
    """Its options."""
    return _options("ReportOptions")


def compare() -> str:
    """Its options."""
    return _options("CompareOptions")


def list_choices() -> str:
    """Its topics."""
    from runners.listing import TOPICS

    return f"There are: {', '.join(TOPICS)}"


def nothing() -> str:
    """For commands of one word."""
    return "It takes no settings."


def _options(name: str) -> str:
    from runners.settings import options
    from runners.settings.show import settings_help

    return settings_help(getattr(options, name))
