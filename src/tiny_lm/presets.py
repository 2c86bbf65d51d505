"""Edits params.yaml: applies presets and single values, and keeps the comments.

A preset under configs/ contains the keys of one section that differ from the defaults of its params class. Applying it
writes the whole section, with each key's comment; an experiment preset names one preset for each of several sections.
Sections are replaced as text, so everything outside them stays as it is, and nothing is written unless all is valid.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from tiny_lm.io.files import write_whole
from tiny_lm.io.params import field_comments, load_params, params_class, parse_yaml, read_yaml, without_none

PARAMS, SHARDS, CONFIGS = Path("params.yaml"), Path("data/shards"), Path("configs")
SECTIONS = ("dataset", "tokenizer", "shards", "model", "train", "evaluate", "export", "runtime")

Choice = type[Any] | Mapping[str, type[Any]]
QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\"""", re.S)  # a whole value in quotes, as YAML writes it
PLAIN = re.compile(r"[A-Za-z/][\w./+-]*(?:,? [\w./+-]+)*,?")  # a text that needs no quotes, unless it is one of these:
KEYWORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # in YAML 1.2, or in the 1.1 of PyYAML
MAX_COMMENT_COLUMN = 36


def write_params(settings: list[str]) -> None:
    """Applies the settings to params.yaml, or raises ValueError and leaves the file as it was."""
    write_text(edited(settings))


def edited(settings: list[str]) -> str:
    """The text of params.yaml with the settings applied; ValueError unless it is valid."""
    read_yaml(PARAMS)
    text = apply(PARAMS.read_text(encoding="utf-8"), settings)
    check_params(text)
    return text


def write_text(text: str) -> None:
    write_whole(PARAMS, lambda file: file.write(text.encode()))


def params_with(settings: list[str], **choices: Choice) -> list[Any]:
    """The params of some sections as they would be with the settings; nothing is written. `choices` contains by section
    what `load_params` takes: `params_with(["model=gpt2-2l"], model=MODELS, train=TrainParams)`.
    """
    values = _read(apply(PARAMS.read_text(encoding="utf-8"), settings))
    return [load_params(section, values.get(section), choice) for section, choice in choices.items()]


def params_in(text: str, section: str) -> Any:
    """The params object of a section of this text of params.yaml."""
    return load_params(section, _read(text).get(section), choices()[section])


def vocabulary(settings: list[str]) -> tuple[int, str]:
    """The vocabulary size and its origin: the shards, as in training, or else the tokenizer's params."""
    from tiny_lm.bpe import TokenizerParams
    from tiny_lm.shards.format import read_metadata

    asked = any(setting.startswith(("tokenizer", "experiment")) for setting in settings)
    if not asked and (SHARDS / "metadata.json").exists():
        return read_metadata(SHARDS).vocab_size, f"{SHARDS}/metadata.json"
    (tokenizer,) = params_with(settings, tokenizer=TokenizerParams)
    return tokenizer.vocab_size, "tokenizer.vocab_size"


def apply(text: str, settings: list[str]) -> str:
    """The text of params.yaml with the settings applied in order, `SECTION=PRESET` or `SECTION.KEY=VALUE`."""
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ValueError(f"{setting!r}: write SECTION=PRESET or SECTION.KEY=VALUE")
        if "." in key:
            text = set_value(text, key, value, typed=True)
        elif key == "experiment":
            for section, preset in read_yaml(_preset_path(key, value)).items():
                text = _set_section(text, section, str(preset))
        else:
            text = _set_section(text, key, value)
    return text


def check_params(text: str) -> None:
    """ValueError unless the text is a valid params.yaml."""
    values = _read(text)
    for section, choice in choices().items():
        load_params(section, values.get(section), choice)


def choices() -> dict[str, Choice]:
    """The params class of each section, or the classes among which its first key selects."""
    from tiny_lm.bpe import TokenizerParams
    from tiny_lm.corpus.sources.registry import SOURCES  # imported here because these take seconds
    from tiny_lm.encoding.encode import ShardsParams
    from tiny_lm.evaluation.params import EvaluateParams
    from tiny_lm.export.params import ExportParams
    from tiny_lm.model.registry import MODELS
    from tiny_lm.runner.stage import RuntimeParams
    from tiny_lm.training.params import TrainParams

    return {
        "dataset": SOURCES,
        "tokenizer": TokenizerParams,
        "shards": ShardsParams,
        "model": MODELS,
        "train": TrainParams,
        "evaluate": EvaluateParams,
        "export": ExportParams,
        "runtime": RuntimeParams,
    }


def set_value(text: str, key: str, value: Any, *, typed: bool = False) -> str:
    """The text of params.yaml with one value replaced. With `typed`, the value is as it was typed at a terminal."""
    section, name = key.split(".", 1)
    document = _load(text, PARAMS)
    values = document.get(section)
    if not isinstance(values, CommentedMap) or section not in SECTIONS:
        raise ValueError(f"{key}: no such key in params.yaml; there are {', '.join(map(str, document))}")
    hint = _hint(section, name, values)
    values[name] = _representable(parse_typed(key, value, hint) if typed else value)
    return _dump(document)


def _hint(section: str, name: str, values: Mapping[str, Any]) -> Any:
    """The type of a key in the params class that the section selects, whether or not the file contains the key."""
    choice = choices()[section]
    try:
        cls = params_class(section, values, choice)
    except ValueError:  # its selector is perhaps the key to be set
        assert isinstance(choice, Mapping)
        cls = next(iter(choice.values()))
    hints = typing.get_type_hints(cls)
    if name not in hints:
        raise ValueError(f"{section}.{name}: no such key in params.yaml; there are {', '.join(hints)}")
    return hints[name]


def parse_typed(key: str, value: str, hint: Any) -> Any:
    """The value that was typed for a key of the type `hint`.

    A text is taken character by character, unless all of it is in quotes: then the quotes and escapes are YAML's, as in
    "\\n\\n". `null` without quotes is null for a key that can be null. The items of a list are texts too. Numbers and
    booleans are read as YAML.
    """
    inner, optional = without_none(hint)
    name = f"{key} = {value[:80]}"
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{key} = {value[:80]!r}: not UTF-8, which YAML cannot contain; rename the file") from None
    if value == "null" and optional:
        return None
    if inner is str or typing.get_origin(inner) is Literal:
        return parse_yaml(value, name) if QUOTED.fullmatch(value) else value
    if typing.get_origin(inner) is tuple:
        try:
            return parse_yaml(value, name, as_texts=True)
        except ValueError:
            raise ValueError(f'{name}: not readable as a list; write it as ["one text", "another"]') from None
    return parse_yaml(value, name) if value.strip() else value


def _read(text: str, name: object = PARAMS) -> dict[str, Any]:
    values = parse_yaml(text, name)
    if not isinstance(values, dict):
        raise ValueError(f"{name}: must have sections of keys")
    return values


def _preset_path(section: str, name: str) -> Path:
    folder = CONFIGS / section
    if not folder.is_dir() or section not in (*SECTIONS, "experiment"):
        there = ", ".join(sorted(path.name for path in CONFIGS.iterdir())) if CONFIGS.is_dir() else "none"
        raise ValueError(f"{section}: no presets for it under configs/; there are presets for {there}")
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise ValueError(f"{section}={name}: no such preset; there are {', '.join(names)}")
    return folder / f"{name}.yaml"


def _set_section(text: str, section: str, preset: str) -> str:
    new = section_text(section, _preset_path(section, preset))
    text += "\n" * (not text.endswith("\n"))
    old = re.search(rf"^{section}:[^\n]*\n(?:[ ]+[^\n]*\n|\n(?=\n*[ ]))*", text, re.M)
    return text[: old.start()] + new + text[old.end() :] if old else f"{text}\n{new}"


def section_text(section: str, path: Path) -> str:
    """A whole section of params.yaml: the preset's values and comments where it has any, else those of the class."""
    preset = _load(path.read_text(encoding="utf-8"), path)
    values = preset.get(section)
    if list(preset) != [section] or not isinstance(values, CommentedMap):
        raise ValueError(f"{path}: must have the section {section} and no other")
    try:
        cls = params_class(section, values, choices()[section])
        load_params(section, read_yaml(path)[section], cls)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    blocks = [_dump(CommentedMap({key: _representable(values.get(key, defaults[key]))})).split("\n", 1)
              for key in defaults]  # fmt: skip
    column = min(max(len(first) for first, _ in blocks), MAX_COMMENT_COLUMN)
    comments = field_comments(cls) | _comments(values)
    head = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    lines = [f"{section}:", *(f"  {line}" for line in head)]
    for key, (first, rest) in zip(defaults, blocks, strict=True):
        comment = f"  # {comments[key]}" if key in comments else ""
        lines += [f"  {first:<{column if comment else 0}}{comment}", *(f"  {line}" for line in rest.splitlines())]
    return "\n".join(lines) + "\n"


def _comments(values: CommentedMap) -> dict[str, str]:
    """The comments behind the keys of a section."""
    tokens = {key: places[2] for key, places in values.ca.items.items() if len(places) > 2 and places[2]}
    return {key: token.value.splitlines()[0].lstrip("# ") for key, token in tokens.items()}


class _Representer(RoundTripRepresenter):
    """Writes what YAML 1.2 and 1.1 read alike."""

    def represent_none(self, data: None) -> ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")

    def represent_float(self, data: float) -> ScalarNode:
        text = repr(data)
        text = text if "." in text else text.replace("e", ".0e")  # PyYAML reads 1e-08 as a text
        return self.represent_scalar("tag:yaml.org,2002:float", text)


_Representer.add_representer(type(None), _Representer.represent_none)
_Representer.add_representer(float, _Representer.represent_float)


def _yaml() -> YAML:
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 1 << 30
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _load(text: str, name: object) -> CommentedMap:
    """The YAML of `text` with its comments."""
    _read(text, name)
    try:
        values = _yaml().load(text)
    except (YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{name}: not readable as YAML: {' '.join(str(error).split())[:300]}") from None
    assert isinstance(values, CommentedMap)
    return values


def _dump(values: CommentedMap) -> str:
    out = io.StringIO()
    _yaml().dump(values, out)
    return out.getvalue()


def _representable(value: Any) -> Any:
    """`value` with texts in double quotes where any reader might take them for something else."""
    if isinstance(value, list | tuple):
        return [_representable(item) for item in value]
    if isinstance(value, str) and (not PLAIN.fullmatch(value) or value.lower() in KEYWORDS):
        return DoubleQuotedScalarString(value)
    return value
