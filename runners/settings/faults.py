"""Faults of settings, gathered so that one message tells them all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches

from runners.errors import UserError


@dataclass(frozen=True)
class Fault:
    """One mistake: a line, and lines that help."""

    text: str
    hints: tuple[str, ...] = ()


@dataclass
class Faults:
    """The mistakes found so far."""

    found: list[Fault] = field(default_factory=list)

    def add(self, text: str, *hints: str) -> None:
        """Keep a mistake; empty hints are dropped."""
        fault = Fault(text, tuple(h for h in hints if h))
        if fault not in self.found:
            self.found.append(fault)

    def raise_any(self) -> None:
        """Raises UserError with all mistakes, if there are any."""
        if self.found:
            raise UserError(message(self.found))


def message(faults: Sequence[Fault]) -> str:
    """A single fault stands by itself; several are counted and indented."""
    if len(faults) == 1:
        return "\n".join([faults[0].text, *(f"  {hint}" for hint in faults[0].hints)])
    lines = [f"{len(faults)} wrong setting(s)"]
    for fault in faults:
        lines.append(f"  {fault.text}")
        lines.extend(f"    {hint}" for hint in fault.hints)
    return "\n".join(lines)


def nearest(word: str, choices: Iterable[str], limit: int = 1) -> str:
    """The hint with the choices most like `word`; empty when none is."""
    close = get_close_matches(word, list(choices), n=limit, cutoff=0.55)
    return did_you_mean(close)


def nearest_key(word: str, keys: Iterable[str], limit: int = 3) -> str:
    """The same for dotted keys: the last part counts as much as the whole."""
    last = word.rsplit(".", 1)[-1]

    def likeness(key: str) -> float:
        tail = key.rsplit(".", 1)[-1]
        ends = 1.0 if tail == last else SequenceMatcher(None, last, tail).ratio()
        return 0.5 * ends + 0.5 * SequenceMatcher(None, word, key).ratio()

    ranked = sorted(((likeness(key), key) for key in keys), reverse=True)
    return did_you_mean([key for score, key in ranked[:limit] if score > 0.6])


def did_you_mean(choices: Sequence[str]) -> str:
    """The hint itself."""
    return f"did you mean: {', '.join(choices)}" if choices else ""


def shown(value: object) -> str:
    """A value as the user wrote it: words in quotes, numbers and lists bare."""
    if not isinstance(value, str):
        return str(value)
    try:
        float(value)
    except ValueError:
        return value if value.startswith("[") else repr(value)
    return value
