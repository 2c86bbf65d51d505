"""From a section of params.yaml to one frozen, validated object.

A params class is a frozen dataclass that stands beside the component it configures and checks its own
values in `__post_init__` with a ValueError that starts with the key: "n_heads = 3: must divide …".
`load_params` fills it from YAML, refuses unknown, missing and mistyped keys, and puts the section in
front, so that a message names the key as the user typed it: `model.n_heads = 3: must divide …`.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from ruamel.yaml import YAML, YAMLError

T = TypeVar("T")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ValueError with the file and line where it is none."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected sections of keys, found {type(values).__name__}")
    return values


def parse_yaml(text: str) -> Any:
    """With DVC's own parser, of YAML 1.2: it writes `1e-06`, which PyYAML, of YAML 1.1, takes for a text."""
    return YAML(typ="safe", pure=True).load(text)


def load_params(section: str, values: object, choices: type[T] | Mapping[str, type[T]]) -> T:
    """One params object of `section` from the mapping `values`. `choices` is its class, or a mapping of name to class
    where the section's first field says which: `{"gpt2": GPT2Params, "llama3": Llama3Params}` picks by `architecture`.
    Raises ValueError, in one line.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{section} = {values!r}: must be a section of keys")
    if isinstance(choices, Mapping):
        key = fields(next(iter(choices.values())))[0].name  # type: ignore[arg-type]
        if values.get(key) not in list(choices):
            raise ValueError(f"{section}.{key} = {values.get(key)!r}: must be one of {', '.join(choices)}")
        cls, of = choices[values[key]], f" with {section}.{key} = {values[key]}"
    else:
        cls, of = choices, ""
    hints = typing.get_type_hints(cls)  # in the order of the fields
    for key in values:
        if key not in hints:
            raise ValueError(f"{section}.{key}: unknown key{of}; allowed: {', '.join(hints)}")
    for key in hints:
        if key not in values:
            raise ValueError(f"{section}.{key}: missing{of}; `tiny-lm preset` sets a whole section")
    try:
        return cls(**{key: _convert(key, values[key], hint) for key, hint in hints.items()})
    except ValueError as error:
        raise ValueError(f"{section}.{error}") from error


def _convert(key: str, value: Any, hint: Any) -> Any:
    """`value` as the type `hint`, or a ValueError that says what is allowed."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # X | None
        (inner,) = (a for a in arguments if a is not type(None))
        return None if value is None else _convert(key, value, inner)
    if origin is tuple and isinstance(value, list):  # tuple[X, ...]
        return tuple(_convert(key, item, arguments[0]) for item in value)
    if origin is Literal and str(value) in arguments:  # DVC writes `-S train.precision=32` as a number
        return str(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    if hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        finite = abs(value) <= 2**63  # neither nan, nor a number that no float holds
        if finite and (hint is float or value == int(value)):  # DVC writes `-S train.steps=1e3` as 1000.0
            return hint(value)
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text", tuple: "a list"}
    allowed = f"one of {', '.join(map(str, arguments))}" if origin is Literal else names[origin or hint]
    raise ValueError(f"{key} = {value!r}: must be {allowed}")


def check(ok: bool, key: str, value: object, allowed: str) -> None:
    """ValueError "key = value: must be allowed" unless `ok`: for `__post_init__` of params classes."""
    if not ok:
        raise ValueError(f"{key} = {value!r}: must be {allowed}")
