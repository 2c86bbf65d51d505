"""Turns a section of params.yaml into one frozen, validated object.

A params class is a frozen dataclass next to the component that it configures. All fields have defaults; the comment
behind or above a field is also its comment in params.yaml; `__post_init__` checks the values with `check`, whose
ValueError starts with the key: "n_heads = 3: must be …". `load_params` fills the class from YAML, refuses unknown keys
and wrong types, and prefixes the section, so that the message shows the key as the user typed it: `model.n_heads`.

DVC tracks only the values in params.yaml. A key that is missing there gets its default from the class. If that default
changes later, the stage is stale, because it lists the file of the class in dvc.yaml.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.composer import Composer
from ruamel.yaml.events import AliasEvent

T = TypeVar("T")


class _Composer(Composer):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.parser.check_event(AliasEvent):  # a few lines of nested aliases expand to more than fits in memory
            raise YAMLError("an alias (*name) is not allowed: write the value itself, or quote a text")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    return parse_sections(path.read_bytes(), path)


def parse_sections(text: str | bytes, name: object, yaml: YAML | None = None) -> Any:
    """The mapping in the text of a YAML file; ValueError that starts with `name` if there is none."""
    values = parse_yaml(text, name, yaml)
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"{name}: expected sections of keys, found {type(values).__name__}")
    return values


def parse_yaml(text: str | bytes, name: object, yaml: YAML | None = None) -> Any:
    """Parses YAML 1.2, as DVC does: PyYAML reads DVC's `1e-06` as a text. A ValueError starts with `name`."""
    yaml = yaml or YAML(typ="safe", pure=True)
    yaml.Composer = _Composer
    try:
        return yaml.load(text)
    except (YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{name}: not readable as YAML: {' '.join(str(error).split())[:300]}") from error


def flat(value: Any, key: str = "") -> list[tuple[str, Any]]:
    """`{"model": {"n_heads": 4}}` -> `[("model.n_heads", 4)]`."""
    if isinstance(value, Mapping) and (value or not key):
        return [pair for name, inner in value.items() for pair in flat(inner, f"{key}.{name}".lstrip("."))]
    return [(key, value)]


def load_params(section: str, values: object, choices: type[T] | Mapping[str, type[T]], *, complete: bool = False) -> T:
    """The params object of `section`, or a ValueError in one line.

    `choices` is the params class, or a mapping from which the section's first key selects one:
    `{"gpt2": GPT2Params, "llama3": Llama3Params}` selects by `architecture`. With `complete`, as for the config in an
    artifact, every key must be present: a default of today need not be the one that the artifact was made with.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{section} = {show(values)}: must be a section of keys")
    cls = params_class(section, values, choices)
    of = "" if cls is choices else f" with {section}.{_selector(cls)} = {values[_selector(cls)]}"
    hints = typing.get_type_hints(cls)  # in the order of the fields
    for key in values:
        if key not in hints:
            raise ValueError(f"{section}.{repr(str(key)[:80])[1:-1]}: unknown key{of}; allowed: {', '.join(hints)}")
    for key in hints:
        if complete and key not in values:
            raise ValueError(f"{section}.{key}: missing{of}")
    try:
        return cls(**{key: _convert(key, values[key], hint) for key, hint in hints.items() if key in values})
    except ValueError as error:
        raise ValueError(f"{section}.{error}") from error


def params_class(section: str, values: Mapping[str, Any], choices: type[T] | Mapping[str, type[T]]) -> type[T]:
    """The params class for these values; ValueError if their first key selects none."""
    if not isinstance(choices, Mapping):
        return choices
    key = _selector(next(iter(choices.values())))
    if key not in values or values[key] not in list(choices):
        found = f" = {show(values[key])}" if key in values else ""
        raise ValueError(f"{section}.{key}{found}: must be one of {', '.join(choices)}")
    return choices[values[key]]


def _selector(cls: type) -> str:
    return dataclasses.fields(cls)[0].name


def field_comments(cls: type) -> dict[str, str]:
    """The comments on the fields of a params class, which params.yaml repeats, after the choices of a `Literal`."""
    comments: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        above = ""
        for line in inspect.getsource(base).splitlines():
            comment = re.fullmatch(r"    # (.+)", line)
            field = re.fullmatch(r"    (\w+): .*?(?:  # (.+))?", line)
            if field and (field[2] or above):
                comments[field[1]] = field[2] or above
            above = comment[1] if comment else ""
    for key, hint in typing.get_type_hints(cls).items():
        if typing.get_origin(hint) is Literal and len(typing.get_args(hint)) > 1:
            choices = " | ".join(typing.get_args(hint))
            comments[key] = f"{choices}; {comments[key]}" if key in comments else choices
    return comments


def _convert(key: str, value: Any, hint: Any) -> Any:
    """`value` as the type `hint`, or a ValueError that shows what is allowed."""
    inner, optional = without_none(hint)
    if value is None and optional:
        return None
    origin, arguments = typing.get_origin(inner), typing.get_args(inner)
    if origin is tuple and isinstance(value, list):  # tuple[X, ...]
        return tuple(_convert(key, item, arguments[0]) for item in value)
    text = value if isinstance(value, str) else show(value)
    if origin is Mapping and isinstance(value, Mapping):
        return value
    if origin is Literal and text in arguments:  # DVC writes `-S train.precision=32` as a number
        return text
    if inner in (bool, str) and isinstance(value, inner):
        return value
    if inner in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        finite = abs(value) <= 2**63  # excludes nan, and integers that no float can represent
        if finite and (inner is float or value == int(value)):  # DVC writes `-S train.steps=1e3` as 1000.0
            return inner(value)
    names = {
        int: "a whole number", float: "a finite number", bool: "true or false", str: "a text, in quotes",
        tuple: "a list, such as [a, b]", Mapping: "a section of keys",
    }  # fmt: skip
    allowed = f"one of {', '.join(map(str, arguments))}" if origin is Literal else names[origin or inner]
    raise ValueError(f"{key} = {show(value)}: must be {allowed}{' or null' if optional else ''}")


def without_none(hint: Any) -> tuple[Any, bool]:
    """`X | None` -> (X, True); `X` -> (X, False)."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint, False
    (inner,) = (argument for argument in typing.get_args(hint) if argument is not type(None))
    return inner, True


def check(ok: bool, key: str, value: object, allowed: str) -> None:
    """Raises ValueError "key = value: must be allowed" unless `ok`; for `__post_init__` of params classes."""
    if not ok:
        raise ValueError(f"{key} = {show(value)}: must be {allowed}")


def show(value: object) -> str:
    """`repr`, cut to a length that fits into a message."""
    try:
        return repr(value)[:200]
    except (ValueError, RecursionError):  # thousands of digits, or deeply nested lists
        return f"a very large {type(value).__name__}"
