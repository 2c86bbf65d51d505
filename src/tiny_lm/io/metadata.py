"""Metadata of artifacts: JSON to a frozen dataclass, with exactly its keys and types.

Metadata comes from shared storage, so it is validated as a whole before anything else uses it.
"""

import re
import typing
from functools import cache
from typing import Any

PLAIN = {int: "an integer, 0 or more", float: "a number, 0 or more", str: "a string"}
LIMIT = 1 << 62  # of numbers, so that sums of them fit in 64 bits


def build(hint: Any, value: Any, key: str = "") -> Any:
    """`value`, as read from JSON, as the dataclass, `tuple[X, ...]` or plain type `hint`. ValueError names the key."""
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{key} must be a list")
        return tuple(build(typing.get_args(hint)[0], item, f"{key}[{i}]") for i, item in enumerate(value))
    if hint in PLAIN:
        types = (int, float) if hint is float else (hint,)
        if type(value) not in types or (hint is not str and not 0 <= value < LIMIT):
            raise ValueError(f"{key} = {str(value)[:80]!r}: must be {PLAIN[hint]}")
        return hint(value)
    hints = _hints(hint)
    if not isinstance(value, dict) or value.keys() != hints.keys():
        raise ValueError(f"{key or 'metadata'} must have exactly the keys {', '.join(hints)}")
    return hint(**{name: build(hints[name], value[name], f"{key}.{name}".lstrip(".")) for name in hints})


_hints = cache(typing.get_type_hints)  # an exam has thousands of objects of one type


def check_sha256(key: str, text: str) -> None:
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError(f"{key} = {text[:80]!r}: must be a SHA-256")
