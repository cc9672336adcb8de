"""The command line: a command word, then settings as key=value.

What is imported here decides how fast `--help` and a wrong command answer.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NoReturn

from runners import command_help, commands, listing
from runners.errors import UserError

NAME = "tokendream"
HELP = ("-h", "--help")


@dataclass(frozen=True)
class Command:
    """A command word: what follows it, one line about it, its function, its long help."""

    usage: str
    about: str
    run: Callable[[list[str]], int]
    details: Callable[[], str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 2, and one message, where the user erred."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Read by torch at its first allocation: huge pages for large CPU tensors. Together with
    # `hardware.keep_freed_memory`, elementwise layers run up to three times faster.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        if os.name != "posix":
            raise UserError("tokendream runs on Linux and macOS")
        return _dispatch(words)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; the interpreter flushes once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(words: list[str]) -> int:
    name = _parser().parse_args(words[:1]).command
    if name is None:
        print(_overview())
        return 2
    command, rest = _command(name), words[1:]
    if any(word in HELP for word in rest):
        print(f"usage: {NAME} {name} {command.usage}\n\n{command.about}\n\n{command.details()}")
        return 0
    return command.run(rest)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}\n  see: {NAME} --help")

    def format_help(self) -> str:
        return _overview() + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=NAME)
    parser.add_argument("--version", action=_Version, nargs=0)
    parser.add_argument("command", nargs="?")
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"{NAME} {version(NAME)}")
        except PackageNotFoundError:
            print(f"{NAME}, not installed")
        parser.exit()


def _command(word: str) -> Command:
    if word in COMMANDS:
        return COMMANDS[word]
    close = get_close_matches(word, COMMANDS, n=1, cutoff=0.5)
    hint = f"\n  did you mean: {close[0]}" if close else ""
    raise UserError(f"no command {word!r} (there are: {', '.join(COMMANDS)}){hint}")


def _overview() -> str:
    width = max(len(f"{name} {command.usage}") for name, command in COMMANDS.items())
    lines = [f"usage: {NAME} COMMAND [key=value ...]", ""]
    lines += [
        f"  {f'{name} {command.usage}':{width}}  {command.about}"
        for name, command in COMMANDS.items()
    ]
    lines += [
        "",
        f"example: {NAME} train env=crafter agent=delta_iris size=tiny seed=0",
        "RUN is a run folder, a unique prefix of its name, or last.",
        f"{NAME} COMMAND --help lists the settings of a command.",
    ]
    return "\n".join(lines)


COMMANDS: dict[str, Command] = {
    "train": Command("[key=value ...]", "train an agent", commands.train, command_help.train),
    "resume": Command(
        "RUN [key=value ...]", "go on with a run", commands.resume, command_help.resume
    ),
    "evaluate": Command(
        "RUN [key=value ...]", "play episodes", commands.evaluate, command_help.evaluate
    ),
    "imagine": Command(
        "RUN [key=value ...]", "draw what it dreams", commands.imagine, command_help.imagine
    ),
    "list": Command(
        "[presets|agents|games|tasks|tables|runs]",
        "what there is to choose from",
        listing.list_choices,
        command_help.list_choices,
    ),
    "config": Command(
        "[key=value ...]", "settings and their origin", commands.config, command_help.train
    ),
    "check-env": Command(
        "[ID] [key=value ...]",
        "what an agent sees of an environment",
        commands.check_env,
        command_help.check_env,
    ),
    "bench": Command(
        "[key=value ...]", "how fast each part is here", commands.bench, command_help.bench
    ),
    "quantizers": Command(
        "[key=value ...]",
        "compare quantizers on the same games",
        commands.quantizers,
        command_help.quantizers,
    ),
    "ablate": Command(
        "[key=value ...]",
        "compare world models on the same tokens",
        commands.ablate,
        command_help.ablate,
    ),
    "report": Command(
        "RUN [RUN ...] [key=value ...]",
        "results of several runs together",
        commands.report,
        command_help.report,
    ),
    "compare": Command(
        "RUN [RUN ...] [key=value ...]",
        "several agents at the same budget",
        commands.compare,
        command_help.compare,
    ),
    "doctor": Command("", "whether everything works here", commands.doctor, command_help.nothing),
}
