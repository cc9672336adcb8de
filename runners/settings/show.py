"""Settings as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from runners.settings.base import Key, Settings, group_of, variants_of
from runners.settings.build import dotted, fields
from runners.settings.config import Config
from runners.settings.environments import AtariGame
from runners.settings.faults import Faults
from runners.settings.load import Resolved
from runners.settings.presets import GROUPS, find, folders, names

HEADINGS = {"env": "environments", "agent": "agents", "size": "sizes", "run": "budgets"}


def resolved_text(resolved: Resolved) -> str:
    """Every setting with its value, meaning, and where the value came from."""
    rows = []
    for key, field, value in fields(resolved.config):
        if key[0] != "presets":
            rows.append((dotted(key), shown_value(value), about(field), resolved.origin(key)))
    chosen = resolved.config.presets
    head = " ".join(f"{group}={getattr(chosen, group)}" for group in GROUPS)
    body = table(("setting", "value", "meaning", "from"), rows)
    return f"presets: {head}\n\n{body}"


def presets_text(groups: Sequence[str] = GROUPS) -> str:
    """The presets of each group with their descriptions, and faults of files that are none."""
    lines: list[str] = []
    for group in groups:
        lines.append(f"{HEADINGS[group]} ({group}=NAME)")
        width = max(map(len, names(group)), default=0)
        for name in names(group):
            faults = Faults()
            preset = find(group, name, faults)
            text = preset.description if preset else ""
            if preset and preset.file.parent.parent != folders()[-1]:
                text += f"  [{preset.file}]"
            if faults.found:
                text = f"(broken: {faults.found[0].text})"
            lines.append(f"  {name:{width}}  {text}".rstrip())
        lines.append("")
    return "\n".join(lines).rstrip()


def game(config: Config) -> str | None:
    """Which one of a suite's games, tasks or environments; None where there is one alone."""
    env = config.env
    return next((getattr(env, key) for key in ("game", "task", "id") if hasattr(env, key)), None)


def place(config: Config) -> str:
    """The environment in a heading: its preset, and which game where there are several."""
    name = game(config)
    return config.presets.env + (f" ({name})" if name else "")


def games_text() -> str:
    """The games of the Atari suite, as `env.game` names them."""
    return "\n".join(get_args(AtariGame))


def tasks_text() -> str:
    """The tasks of DeepMind Control, as `env.task` names them, by the benchmarks they are of."""
    from envs.dmc_tasks import STATE_TASKS, TASKS, VISION_TASKS

    both = [task for task in VISION_TASKS if task in STATE_TASKS]
    pixels = [task for task in VISION_TASKS if task not in STATE_TASKS]
    others = [task for task in TASKS if task not in VISION_TASKS]
    heads = (
        f"{len(both)} tasks on which agents are compared, from pixels and from the state",
        f"{len(pixels)} more from pixels",
        f"{len(others)} others",
    )
    lists = zip(heads, (both, pixels, others), strict=True)
    return "\n\n".join("\n".join([head, *(f"  {task}" for task in tasks)]) for head, tasks in lists)


def settings_help(cls: type[Settings]) -> str:
    """Every setting of a class, of every kind in it, with type, default and meaning."""
    rows = [(dotted(key), shown_value(default), about(field)) for key, field, default in _all(cls)]
    return table(("setting", "default", "meaning"), _once(rows))


def _all(cls: type[Settings], at: Key = ()) -> Iterator[tuple[Key, FieldInfo, object]]:
    names = sorted(cls.model_fields, key=lambda name: name not in {"kind", "suite"})
    for name in names:
        field, here = cls.model_fields[name], (*at, name)
        variants = variants_of(field)
        if variants is not None:
            for kind in variants.table.values():
                yield from _all(kind, here)
        elif (group := group_of(field)) is not None:
            if not (cls is Config and name == "presets"):
                yield from _all(group, here)
        else:
            yield here, field, field.get_default(call_default_factory=True)


def _once(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(rows))


def about(field: FieldInfo) -> str:
    """A setting's meaning with its type and range."""
    return f"{field.description} ({type_text(field)})"


def type_text(field: FieldInfo) -> str:
    """A setting's type and range in words."""
    annotation = field.annotation
    options = [option for option in get_args(annotation) if option is not type(None)]
    if get_origin(annotation) is Literal:
        words = [str(option) for option in options]
        return " | ".join(words) if len(words) <= 6 else f"{len(words)} names, see `list games`"
    if get_origin(annotation) is tuple:
        item = options[0]
        if get_origin(item) is Literal:
            return f"list of {' | '.join(get_args(item))}"
        return "list of names" if item is str else "list of integers"
    plain = annotation if isinstance(annotation, type) else options[0]
    word = {int: "integer", float: "number", bool: "true or false", str: "text"}[plain]
    nothing = " or null" if type(None) in get_args(annotation) else ""
    return f"{word}{_range(field)}{nothing}"


def _range(field: FieldInfo) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {limit:g}" if limit < 1e6 else f"{sign} {limit}"
        for name, sign in signs.items()
        for limit in [next((getattr(m, name) for m in field.metadata if hasattr(m, name)), None)]
        if limit is not None
    ]
    return " " + ", ".join(bounds) if bounds else ""


def shown_value(value: object) -> str:
    """A value as one would write it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return str(value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two spaces apart, under a heading."""
    every = [head, *rows]
    widths = [max(len(row[column]) for row in every) for column in range(len(head))]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in every
    )
