"""From a section of params.yaml to one frozen, validated object.

A params class is a frozen dataclass that stands beside the component it configures and checks its own values in
`__post_init__` with a ValueError that starts with the key: "n_heads = 3: must be …". `load_params` fills it from YAML,
refuses unknown, missing and mistyped keys, and puts the section in front, as the user typed it: `model.n_heads`.
"""

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.composer import Composer
from ruamel.yaml.events import AliasEvent

T = TypeVar("T")


class _Composer(Composer):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.parser.check_event(AliasEvent):  # a few lines of aliases of aliases are more than any memory holds
            raise YAMLError("an alias (*name) is not read here: write the value out")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ValueError with the file and line where it is none."""
    values = parse_yaml(path.read_bytes(), path)
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"{path}: expected sections of keys, found {type(values).__name__}")
    return values


def parse_yaml(text: str | bytes, name: object) -> Any:
    """With DVC's own parser: PyYAML's takes DVC's `1e-06` for a text. ValueError begins with `name`."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _Composer
    try:
        return yaml.load(text)
    except (YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{name}: not readable as YAML: {' '.join(str(error).split())[:300]}") from error


def read_json(path: Path, most: int, remedy: str) -> dict[str, Any]:
    """The object in a JSON file of at most `most` bytes. ValueError, in one line that ends with what to do."""
    text = read_bytes(path, most, remedy)
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            return content
        raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); {remedy}") from None


def read_bytes(path: Path, most: int, remedy: str) -> bytes:
    """A whole file of at most `most` bytes; ValueError where it is missing or larger."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; {remedy}")
    if path.stat().st_size > most:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, must be at most {most}; {remedy}")
    return path.read_bytes()


def flat(value: Any, key: str = "") -> list[tuple[str, Any]]:
    """`{"model": {"n_heads": 4}}` → `[("model.n_heads", 4)]`."""
    if isinstance(value, Mapping) and (value or not key):
        return [pair for name, inner in value.items() for pair in flat(inner, f"{key}.{name}".lstrip("."))]
    return [(key, value)]


def load_params(section: str, values: object, choices: type[T] | Mapping[str, type[T]]) -> T:
    """One params object of `section` from `values`, or ValueError in one line. `choices` is its class, or a mapping
    where the section's first field says which: `{"gpt2": GPT2Params, "llama3": Llama3Params}` picks by `architecture`.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{section} = {show(values)}: must be a section of keys")
    if isinstance(choices, Mapping):
        key = fields(next(iter(choices.values())))[0].name  # type: ignore[arg-type]
        if values.get(key) not in list(choices):
            raise ValueError(f"{section}.{key} = {show(values.get(key))}: must be one of {', '.join(choices)}")
        cls, of = choices[values[key]], f" with {section}.{key} = {values[key]}"
    else:
        cls, of = choices, ""
    hints = typing.get_type_hints(cls)  # in the order of the fields
    for key in values:
        if key not in hints:
            raise ValueError(f"{section}.{repr(str(key)[:80])[1:-1]}: unknown key{of}; allowed: {', '.join(hints)}")
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
    text = value if isinstance(value, str) else show(value)
    if origin is Literal and text in arguments:  # DVC writes `-S train.precision=32` as a number
        return text
    if hint in (bool, str) and isinstance(value, hint):
        return value
    if hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        finite = abs(value) <= 2**63  # neither nan, nor a number that no float holds
        if finite and (hint is float or value == int(value)):  # DVC writes `-S train.steps=1e3` as 1000.0
            return hint(value)
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text", tuple: "a list"}
    allowed = f"one of {', '.join(map(str, arguments))}" if origin is Literal else names[origin or hint]
    raise ValueError(f"{key} = {show(value)}: must be {allowed}")


def check(ok: bool, key: str, value: object, allowed: str) -> None:
    """ValueError "key = value: must be allowed" unless `ok`: for `__post_init__` of params classes."""
    if not ok:
        raise ValueError(f"{key} = {show(value)}: must be {allowed}")


def show(value: object) -> str:
    """`repr`, cut to what fits into a message."""
    try:
        return repr(value)[:200]
    except (ValueError, RecursionError):  # a number of thousands of digits; lists in lists in lists
        return f"a very large {type(value).__name__}"
