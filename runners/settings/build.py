"""From values, each with its place and origin, to checked settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from runners.settings.base import (
    Key,
    Settings,
    Variants,
    default_word,
    group_of,
    is_group,
    variants_of,
)
from runners.settings.faults import Faults, nearest, nearest_key, shown

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Value:
    """What a layer says about one setting, not yet parsed, and which layer it is."""

    raw: object
    origin: str


Values = dict[Key, Value]

_ROUND = re.compile(r"[+-]?\d+(\.\d*)?[eE][+]?\d{1,2}")


def build(cls: type[S], values: Mapping[Key, Value], faults: Faults, at: Key = ()) -> S | None:
    """Settings of class `cls` at `at`. None, and the reasons in `faults`, if they are wrong."""
    before = len(faults.found)
    own = {key: value for key, value in values.items() if key[: len(at)] == at and key != at}
    _refuse_unknown(cls, own, faults, at)
    leaves: dict[str, object] = {}
    groups: dict[str, object] = {}
    for name, field in cls.model_fields.items():
        here = (*at, name)
        if not is_group(field):
            if here in own:
                leaves[name] = parse(own[here].raw, field)
        elif (child := _class_at(here, field, own, faults)) is not None:
            groups[name] = build(child, own, faults, here)
    try:
        cls.model_validate(leaves)
    except ValidationError as error:
        details = error.errors(include_url=False)
        items = {detail["loc"][0] for detail in details if len(detail["loc"]) > 1}
        for detail in details:
            # A list is also called too short where an item of it is wrong.
            if detail["type"] != "too_short" or detail["loc"][0] not in items:
                _refuse_value(cls, detail, own, faults, at)
    if len(faults.found) > before:
        return None
    return cls.model_validate({**leaves, **groups})


def parse(raw: object, field: FieldInfo) -> object:
    """Text as the field's type writes it: 1e6 is an integer, null is none, [1,2] a list.

    Everything else is left to the field's own check.
    """
    options = get_args(field.annotation)
    if isinstance(raw, str):
        raw = raw.strip()
        if type(None) in options and raw.lower() in {"null", "none", "~", ""}:
            return None
        if tuple in {field.annotation, getattr(field.annotation, "__origin__", None)}:
            return _parse_list(raw)
        if (field.annotation is int or int in options) and _ROUND.fullmatch(raw):
            number = Decimal(raw)
            return int(number) if number == int(number) else raw
    if isinstance(raw, list):
        return [_parse_item(item) for item in raw]
    return raw


def _parse_list(raw: str) -> object:
    if not (raw.startswith("[") and raw.endswith("]")):
        return raw
    inner = raw[1:-1].strip()
    return [_parse_item(item.strip()) for item in inner.split(",")] if inner else []


def _parse_item(item: object) -> object:
    return int(Decimal(item)) if isinstance(item, str) and _ROUND.fullmatch(item) else item


def leaves(cls: type[Settings], at: Key = ()) -> Iterator[tuple[Key, FieldInfo]]:
    """Every setting of a class that needs no word to be chosen otherwise."""
    for name, field in cls.model_fields.items():
        if (child := group_of(field)) is not None:
            yield from leaves(child, (*at, name))
        else:
            yield (*at, name), field


def fields(settings: Settings, at: Key = ()) -> Iterator[tuple[Key, FieldInfo, object]]:
    """Every setting of an object with its field and value; the choosing word comes first."""
    names = sorted(type(settings).model_fields, key=lambda name: name not in {"kind", "suite"})
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from fields(value, (*at, name))
        else:
            yield (*at, name), type(settings).model_fields[name], value


def dotted(key: Key) -> str:
    """How a key is written."""
    return ".".join(key)


def _class_at(
    here: Key, field: FieldInfo, own: Mapping[Key, Value], faults: Faults
) -> type[Settings] | None:
    variants = variants_of(field)
    if variants is None:
        return group_of(field)
    value = own.get((*here, variants.key))
    word = default_word(field) if value is None else str(value.raw)
    if word in variants.table:
        return variants.table[word]
    assert value is not None
    choices = " or ".join(repr(choice) for choice in variants.table)
    name = dotted((*here, variants.key))
    text = f"{name}={shown(word)} ({value.origin}): input should be {choices}"
    faults.add(f"{text} — {field.description}", nearest(word, variants.table))
    return None


def _refuse_unknown(cls: type[Settings], own: Mapping[Key, Value], faults: Faults, at: Key) -> None:
    for key, value in own.items():
        name, depth = key[len(at)], len(at) + 1
        field = cls.model_fields.get(name)
        if field is not None and is_group(field):
            if len(key) == depth:
                text = f"{dotted(key)}={shown(value.raw)} ({value.origin}): is a group of settings"
                faults.add(text, _inside(key, group_of(field)))
        elif field is None or len(key) > depth:
            known = [dotted(leaf) for leaf, _ in leaves(cls, at)]
            text = f"there is no setting {dotted(key)!r} ({value.origin})"
            hint = _elsewhere(cls, name, at) or nearest_key(dotted(key), known)
            faults.add(text, hint or _inside(at, cls))


def _inside(key: Key, group: type[Settings] | None) -> str:
    """What could be set in a group."""
    if group is None:
        return ""
    choices = sorted(group.model_fields)
    return (
        f"{dotted(key)} holds: {', '.join(choices)}" if key else f"there are: {', '.join(choices)}"
    )


def _elsewhere(cls: type[Settings], name: str, at: Key) -> str:
    """Which kinds other than `cls`, chosen at `at`, have the setting; env.game without Atari."""
    from runners.settings.config import Config

    for variants in _choices(Config):
        words = [word for word, kind in variants.table.items() if name in kind.model_fields]
        if words and cls in variants.table.values():
            return f"it belongs to {dotted((*at, variants.key))}={' or '.join(words)}"
    return ""


def _choices(cls: type[Settings]) -> Iterator[Variants]:
    """All choices of classes in a class, those within chosen classes too."""
    for field in cls.model_fields.values():
        variants, group = variants_of(field), group_of(field)
        if variants is not None:
            yield variants
        kinds = variants.table.values() if variants else [group] if group else []
        for kind in kinds:
            yield from _choices(kind)


def _refuse_value(
    cls: type[Settings], detail: ErrorDetails, own: Mapping[Key, Value], faults: Faults, at: Key
) -> None:
    name = str(detail["loc"][0])
    field, value = cls.model_fields[name], own[(*at, name)]
    what = dotted((*at, name))
    text = f"{what}={shown(value.raw)} ({value.origin}): {_expected(detail)} — {field.description}"
    words = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    # A short list is read at a glance.
    faults.add(text, nearest(str(value.raw), words) if len(words) > 6 else "")


def _expected(detail: ErrorDetails) -> str:
    special = {
        "int_parsing": "input should be a valid integer",
        "float_parsing": "input should be a valid number",
        "int_from_float": "input should be a valid integer",
        "bool_parsing": "input should be true or false",
        "bool_type": "input should be true or false",
        "tuple_type": "input should be a list such as [1,2]",
        "string_pattern_mismatch": "input should be letters, digits, '.', '_' and '-'",
    }
    text = special.get(detail["type"]) or detail["msg"][:1].lower() + detail["msg"][1:]
    loc = detail["loc"]
    place = f"item {loc[1] + 1}: " if len(loc) > 1 and isinstance(loc[1], int) else ""
    return place + text
