"""Fields of the contract's classes that got another name: the old name still works in contract 1, and warns."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from omnivit.errors import ContractWarning

T = TypeVar("T", bound=type)


def with_old_fields(**current: str) -> Callable[[T], T]:
    """A decorator of a dataclass that keeps old names of its fields, as attributes and as keyword arguments.

    Every use of an old name is a ContractWarning with the new name and the line that uses it.

    Args:
        current: old name -> the field's name now.
    """

    def decorate(cls: T) -> T:
        for old, new in current.items():
            setattr(cls, old, _alias(cls.__name__, old, new))
        construct = cls.__init__  # type: ignore[misc]  # the __init__ of this very class is what has to be wrapped

        @functools.wraps(construct)
        def with_old_keywords(self: Any, *values: Any, **fields: Any) -> None:
            for old in current.keys() & fields.keys():
                _warn(cls.__name__, old, current[old])
                fields[current[old]] = fields.pop(old)
            construct(self, *values, **fields)

        cls.__init__ = with_old_keywords  # type: ignore[misc]
        return cls

    return decorate


def _alias(owner: str, old: str, new: str) -> property:
    def read(self: Any) -> Any:
        _warn(owner, old, new)
        return getattr(self, new)

    return property(read, doc=f"The old name of `{new}`.")


def _warn(owner: str, old: str, new: str) -> None:
    warnings.warn(
        f"{owner}.{old} has a new name; the old name works for contract 1 only. Write: {new} "
        "(docs/plugins/migrating.md)",
        ContractWarning,
        stacklevel=3,
    )
