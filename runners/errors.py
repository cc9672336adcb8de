"""The one exception that a wrong command ends in."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user, told in full by its message: exit code 2 and no traceback."""
