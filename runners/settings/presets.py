"""Preset files: configs/<group>/<preset>.yaml of this package and of the working folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

import runners
from runners.settings.base import Key
from runners.settings.faults import Faults, nearest

GROUPS = ("env", "agent", "size", "run")
"""In the order in which they are chosen: a preset may name defaults for groups after its own."""

Tree = Mapping[str, object]


@dataclass(frozen=True)
class Block:
    """Settings of a preset that count when every condition names a chosen preset."""

    settings: dict[Key, object]
    when: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Preset:
    """One preset file. `line` is its name and the names of what it extends."""

    group: str
    name: str
    file: Path
    description: str
    defaults: dict[str, str]
    blocks: list[Block]
    line: tuple[str, ...]


class _Text(yaml.BaseLoader):
    """Leaves every value as text, which the type of its setting will parse."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        """A mapping; raises yaml's error where a key is given twice."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                mark = node.value[index][0].start_mark
                raise yaml.MarkedYAMLError(problem=f"{key!r} is given twice", problem_mark=mark)
        return super().construct_mapping(node, deep)


def folders() -> list[Path]:
    """Where presets are looked for: the working folder first, then what was installed."""
    installed = Path(runners.__file__).resolve().parent.parent / "configs"
    own = Path.cwd() / "configs"
    return [own, installed] if own.is_dir() and own.resolve() != installed else [installed]


def names(group: str) -> list[str]:
    """All presets of a group."""
    return sorted({file.stem for folder in folders() for file in (folder / group).glob("*.yaml")})


def read_tree(file: Path, faults: Faults) -> Tree:
    """The settings in a YAML file, all values as text. Empty if it cannot be read."""
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), _Text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        faults.add(f"cannot read {file}: {reason}")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark else str(file)
        faults.add(f"{place} is not YAML: {getattr(error, 'problem', None) or error}")
    else:
        if isinstance(tree, dict):
            return tree
        if tree not in (None, ""):
            faults.add(f"{file}: expected settings, found {type(tree).__name__}")
    return {}


def flatten(tree: Tree, at: Key = ()) -> Iterator[tuple[Key, object]]:
    """Each value with its key; keys may be nested, dotted, or both."""
    for name, value in tree.items():
        key = (*at, *str(name).split("."))
        if isinstance(value, Mapping):
            yield from flatten(value, key)
        else:
            yield key, value


def find(group: str, name: str, faults: Faults, seen: Sequence[str] = ()) -> Preset | None:
    """The preset of that name with all that it extends. None, and the reason in `faults`."""
    for folder in folders():
        file = folder / group / f"{name}.yaml"
        if name in names(group) and file.is_file():
            return _read(group, name, file, faults, seen)
    known = names(group)
    text = f"no preset {name!r} in configs/{group}/ (there are: {', '.join(known)})"
    faults.add(text, nearest(name, known))
    return None


def _read(group: str, name: str, file: Path, faults: Faults, seen: Sequence[str]) -> Preset:
    tree = dict(read_tree(file, faults))
    where = f"configs/{group}/{file.name}"
    description = str(tree.pop("description", ""))
    parent = _parent(group, name, tree.pop("extends", None), faults, (*seen, name), where)
    defaults = _defaults(group, tree.pop("defaults", {}), faults, where)
    blocks = [Block(_settings(tree.pop("set", {}), faults, where))]
    conditional = tree.pop("when", [])
    if not isinstance(conditional, list):
        faults.add(f"{where}: 'when' should be a list of conditions, each with its 'set'")
        conditional = []
    blocks += [_block(item, faults, where) for item in conditional]
    known = ("description", "extends", "defaults", "set", "when")
    for key in tree:
        faults.add(f"{where}: there is no entry {key!r}", nearest(key, known))
    return Preset(
        group=group,
        name=name,
        file=file,
        description=description or (parent.description if parent else ""),
        defaults={**(parent.defaults if parent else {}), **defaults},
        blocks=[*(parent.blocks if parent else []), *blocks],
        line=(name, *(parent.line if parent else ())),
    )


def _parent(
    group: str, name: str, extends: object, faults: Faults, seen: Sequence[str], where: str
) -> Preset | None:
    if extends is None:
        return None
    if str(extends) in seen:
        faults.add(f"{where}: it extends itself: {' -> '.join([*seen, str(extends)])}")
        return None
    return find(group, str(extends), faults, seen)


def _defaults(group: str, tree: object, faults: Faults, where: str) -> dict[str, str]:
    later = GROUPS[GROUPS.index(group) + 1 :]
    if not isinstance(tree, Mapping):
        faults.add(f"{where}: 'defaults' should name presets, such as {{run: tiny}}")
        return {}
    for key in tree:
        if key not in later:
            allowed = ", ".join(later) or "nothing"
            faults.add(f"{where}: 'defaults' may choose {allowed}, not {key!r}")
    return {str(key): str(value) for key, value in tree.items() if key in later}


def _settings(tree: object, faults: Faults, where: str) -> dict[Key, object]:
    if isinstance(tree, Mapping):
        return dict(flatten(tree))
    if tree not in (None, ""):
        faults.add(f"{where}: 'set' should hold settings")
    return {}


def _block(item: object, faults: Faults, where: str) -> Block:
    if not isinstance(item, Mapping) or "set" not in item:
        faults.add(f"{where}: each entry of 'when' needs conditions and a 'set'")
        return Block({}, {"env": []})
    when: dict[str, list[str]] = {}
    for group, wanted in item.items():
        if group == "set":
            continue
        if group not in GROUPS:
            faults.add(f"{where}: 'when' knows {', '.join(GROUPS)}, not {group!r}")
            continue
        when[group] = [str(name) for name in (wanted if isinstance(wanted, list) else [wanted])]
        for name in when[group]:
            if name not in names(group):
                hint = nearest(name, names(group))
                faults.add(f"{where}: 'when' names no {group} preset: {name!r}", hint)
    return Block(_settings(item["set"], faults, where), when)
