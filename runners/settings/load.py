"""The settings of a run: schema < presets < config=FILE < command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from runners.settings.base import Key, Settings, Variants, default_word, group_of, variants_of
from runners.settings.build import S, Value, Values, build, dotted, fields
from runners.settings.checks import check
from runners.settings.config import Config
from runners.settings.faults import Faults, nearest, shown
from runners.settings.presets import GROUPS, Preset, find, flatten, names, read_tree

LINE = "command line"
FALLBACK = {"env": "crafter", "agent": "delta_iris", "size": "paper", "run": "crafter10m"}
SINGLE = tuple(name for name in Config.model_fields if name not in {"env", "agent", "run"})

CHANGEABLE = (
    "agent.tokenizer.perceptual_weights",
    "console",
    "device",
    "env.workers",
    "run.checkpoint_minutes",
    "run.chunk_steps",
    "run.dream_minutes",
    "run.eval_envs",
    "run.eval_episodes",
    "run.eval_every",
    "run.keep",
    "run.steps",
    "run.tail_epochs",
    "threads",
)
"""What may differ when a run is resumed: how long, where, and what one sees of it."""


@dataclass(frozen=True)
class Resolved:
    """Checked settings, and for each key that a layer set, which layer had the last word."""

    config: Config
    origins: dict[str, str]

    def origin(self, key: Key) -> str:
        """Where the value of a setting came from."""
        return self.origins.get(dotted(key), "default")


@dataclass
class _Words:
    """A command line, taken apart."""

    presets: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    values: Values = field(default_factory=dict)


def load(words: Sequence[str]) -> Resolved:
    """Settings from the words of a command line. Raises UserError."""
    faults = Faults()
    return _resolve(_layered(words, (), faults), faults)


def load_unchecked(words: Sequence[str], above: Sequence[Values] = ()) -> Config:
    """The same with layers above; whether they fit each other is left to `check`."""
    faults = Faults()
    config = build(Config, _layered(words, above, faults), faults)
    faults.raise_any()
    assert config is not None
    return config


def read(file: Path, origin: str = "run") -> Resolved:
    """Settings that `to_yaml` wrote. Raises UserError with all faults."""
    faults = Faults()
    values = {key: Value(raw, origin) for key, raw in flatten(read_tree(file, faults))}
    return _resolve(values, faults)


def read_for_resume(file: Path, words: Sequence[str]) -> Resolved:
    """The settings of a run with changes. Raises UserError where they may not change."""
    faults = Faults()
    before = read(file)
    line = _take_apart(words, faults)
    for group, name in line.presets.items():
        faults.add(f"{group}={name}: a run keeps its presets when it is resumed")
    for path in line.files:
        faults.add(f"config={path}: a run keeps its own settings when it is resumed")
    saved = {key: Value(_text(value), "run") for key, _, value in fields(before.config)}
    after = build(Config, merge([saved, line.values]), faults)
    if after is not None:
        _compare(before.config, after, faults)
        for text in check(after):
            faults.add(text)
    faults.raise_any()
    assert after is not None
    return Resolved(after, {dotted(key): value.origin for key, value in line.values.items()})


def load_options(cls: type[S], words: Sequence[str]) -> S:
    """The few settings of a command such as evaluate. Raises UserError with all faults."""
    faults = Faults()
    values: Values = {}
    for word in words:
        if (pair := _pair(word, faults)) is not None:
            values[tuple(pair[0].split("."))] = Value(pair[1], LINE)
    options = build(cls, values, faults)
    faults.raise_any()
    assert options is not None
    return options


def to_yaml(config: Config) -> str:
    """All settings as text that `read` and `config=FILE` understand."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def merge(layers: Sequence[Values]) -> Values:
    """Later layers win.

    Where one chooses another kind, what was set for the old kind is gone, but for what the two
    share (`Variants.shared`).
    """
    merged: Values = {}
    for layer in layers:
        for key in sorted(layer, key=len):
            choice, new = _choice(key, merged), str(layer[key].raw)
            if choice is not None and choice[1] != new:
                inside, kept = key[:-1], choice[0].kept(choice[1], new)
                at = len(inside)
                gone = [k for k in merged if k[:at] == inside and not kept & {*k[at : at + 1]}]
                merged = {k: v for k, v in merged.items() if k not in gone}
                merged[key] = layer[key]
        merged.update(layer)
    return merged


def _layered(words: Sequence[str], above: Sequence[Values], faults: Faults) -> Values:
    line = _take_apart(words, faults)
    layers: list[Values] = []
    for file in line.files:
        choices, values = _file_layer(file, faults)
        line.presets = {**choices, **line.presets}
        layers.append(values)
    chosen = _choose(line.presets, faults)
    below = [_preset_layer(chosen[group], chosen) for group in GROUPS if group in chosen]
    values = merge([*below, *layers, line.values, *above])
    # Without its preset one cannot say which settings a group has.
    missing = [group for group in ("env", "agent") if group not in chosen]
    values = {key: value for key, value in values.items() if key[0] not in missing}
    for group, preset in chosen.items():
        values["presets", group] = Value(preset.name, "presets")
    return values


def _choice(key: Key, values: Mapping[Key, Value]) -> tuple[Variants, str] | None:
    """The choice that `key` makes, with its word so far; None if `key` is no such word."""
    cls: type[Settings] = Config
    for depth, name in enumerate(key[:-1]):
        group = cls.model_fields.get(name)
        if group is None:
            return None
        variants, here = variants_of(group), key[: depth + 1]
        word = None
        if variants is not None:
            said = values.get((*here, variants.key))
            word = str(said.raw) if said else default_word(group)
            if (*here, variants.key) == key:
                return variants, word
        inner = group_of(group, word)
        if inner is None:
            return None
        cls = inner
    return None


def _resolve(values: Values, faults: Faults) -> Resolved:
    config = build(Config, values, faults)
    if config is not None:
        for text in check(config):
            faults.add(text)
    faults.raise_any()
    assert config is not None
    return Resolved(config, {dotted(key): value.origin for key, value in values.items()})


def _take_apart(words: Sequence[str], faults: Faults) -> _Words:
    line = _Words()
    for word in words:
        pair = _pair(word, faults)
        if pair is None:
            continue
        name, text = pair
        if name in GROUPS:
            line.presets[name] = text
        elif name == "config":
            line.files.append(Path(text))
        elif name.split(".")[0] == "presets":
            group = name.rsplit(".", 1)[-1]
            faults.add(f"{word}: presets are chosen by their group, such as {group}={text}")
        else:
            line.values[tuple(name.split("."))] = Value(text, LINE)
    return line


def _pair(word: str, faults: Faults) -> tuple[str, str] | None:
    name, equals, text = word.partition("=")
    if equals and name and not name.startswith("-"):
        return name, text
    plain = name.lstrip("-").replace("-", "_")
    if name.startswith("-") and plain:
        faults.add(f"{word!r}: settings have no dashes", f"did you mean: {plain}={text or 'VALUE'}")
        return None
    choices = [f"{group}={preset}" for group in GROUPS for preset in names(group)]
    fits = [choice for choice in choices if choice.endswith(f"={word}")]
    hint = f"did you mean: {', '.join(fits)}" if fits else nearest(word, SINGLE)
    faults.add(f"{word!r}: settings are written key=value", hint)
    return None


def _file_layer(file: Path, faults: Faults) -> tuple[dict[str, str], Values]:
    """A settings file: the presets it chooses (`env: crafter`), and its settings."""
    choices: dict[str, str] = {}
    values: Values = {}
    for key, raw in flatten(read_tree(file, faults)):
        if len(key) == 1 and key[0] in GROUPS:
            choices[key[0]] = str(raw)
        elif len(key) == 2 and key[0] == "presets" and key[1] in GROUPS:
            choices[key[1]] = str(raw)
        else:
            values[key] = Value(raw, str(file))
    return choices, values


def _choose(named: Mapping[str, str], faults: Faults) -> dict[str, Preset]:
    """The preset of each group: named, else a default of a chosen one, size before env, agent."""
    chosen: dict[str, Preset] = {}
    for group in GROUPS:
        speakers = [chosen[other] for other in ("size", "env", "agent") if other in chosen]
        offers = [preset.defaults[group] for preset in speakers if group in preset.defaults]
        name = named.get(group) or next(iter(offers), FALLBACK[group])
        preset = find(group, name, faults)
        if preset is not None:
            chosen[group] = preset
    return chosen


def _preset_layer(preset: Preset, chosen: Mapping[str, Preset]) -> Values:
    origin = f"{preset.group}={preset.name}"
    layers: list[Values] = []
    for block in preset.blocks:
        met = all(
            group in chosen and set(wanted) & set(chosen[group].line)
            for group, wanted in block.when.items()
        )
        if met:
            layers.append({key: Value(raw, origin) for key, raw in block.settings.items()})
    return merge(layers)


def _compare(before: Config, after: Config, faults: Faults) -> None:
    old = {dotted(key): value for key, _, value in fields(before)}
    new = {dotted(key): value for key, _, value in fields(after)}
    changed = [key for key in new if old.get(key) != new[key] and key not in CHANGEABLE]
    for key in changed:
        was = shown(_text(old[key])) if key in old else "not there"
        faults.add(f"{key}: {was} in the run, {shown(_text(new[key]))} asked for")
    if changed:
        faults.add(
            "a resumed run keeps all but: " + ", ".join(CHANGEABLE),
            "start a new run to change anything else",
        )


def _text(value: object) -> object:
    if value is None:
        return "null"
    return list(value) if isinstance(value, tuple) else str(value)
