"""What every group of settings is made of. Nothing in this package imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

Key = tuple[str, ...]
"""A setting's place in the tree: ("env", "num_envs") is written env.num_envs."""


class Settings(BaseModel):
    """A group of settings. Each field has a default, a type with its range, and a sentence."""

    # Most commands validate few of all classes: what checks them is built when it is needed.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


@dataclass(frozen=True)
class Variants:
    """Marks a group whose class is chosen by a word in it: `kind`, or `suite` of environments.

    To add a kind, write its class and add one line to the table. What was set for one kind does
    not count for another, but for the settings of `shared`, among kinds derived from it.
    """

    key: str
    table: Mapping[str, type[Settings]]
    shared: type[Settings] | None = None

    def kept(self, old: str, new: str) -> frozenset[str]:
        """The settings that stay when the word changes."""
        kinds = [self.table.get(word) for word in (old, new)]
        if self.shared is None or not all(kind and issubclass(kind, self.shared) for kind in kinds):
            return frozenset()
        return frozenset(self.shared.model_fields) - {self.key}


def variants_of(field: FieldInfo) -> Variants | None:
    """The choice of classes for this field, if it has one."""
    return next((m for m in field.metadata if isinstance(m, Variants)), None)


def group_of(field: FieldInfo, word: str | None = None) -> type[Settings] | None:
    """The class of a field that is a group; None for a single setting and for an unknown word.

    Without `word` a choice of classes gives the class of its default.
    """
    variants = variants_of(field)
    if variants is None:
        kind = field.annotation
        return kind if isinstance(kind, type) and issubclass(kind, Settings) else None
    return variants.table.get(default_word(field) if word is None else word)


def default_word(field: FieldInfo) -> str:
    """The word that a choice of classes has when nobody sets it."""
    variants = variants_of(field)
    assert variants is not None
    return str(getattr(field.get_default(call_default_factory=True), variants.key))


def is_group(field: FieldInfo) -> bool:
    """Whether the field holds further settings."""
    return variants_of(field) is not None or group_of(field) is not None
