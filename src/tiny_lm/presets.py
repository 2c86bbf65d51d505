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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from tiny_lm.io.files import write_whole
from tiny_lm.io.params import field_comments, load_params, params_class, parse_sections, parse_yaml, without_none

PARAMS, SHARDS, CONFIGS = Path("params.yaml"), Path("data/shards"), Path("configs")
SECTIONS = ("dataset", "tokenizer", "shards", "model", "train", "evaluate", "export", "tasks", "runtime")

Choice = type[Any] | Mapping[str, type[Any]]
QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\"""", re.S)  # a whole value in quotes, as YAML writes it
PLAIN = re.compile(r"[A-Za-z/][\w./+-]*(?:,? [\w./+-]+)*,?")  # a text that needs no quotes, unless it is one of these:
KEYWORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # in YAML 1.2, or in the 1.1 of PyYAML
MAX_COMMENT_COLUMN = 36


def edit_params(settings: list[str]) -> str:
    """The text of params.yaml with the settings applied; ValueError unless it is valid."""
    text = apply(_read_params(), settings)
    check_params(text)
    return text


def write_params(text: str) -> None:
    write_whole(PARAMS, lambda file: file.write(text.encode()))


def params_with(settings: list[str], *sections: str) -> list[Any]:
    """The params objects of these sections with the settings applied, which are not written."""
    return params_in(apply(_read_params(), settings), *sections)


def params_in(text: str, *sections: str) -> list[Any]:
    """The params objects of these sections of the text of a params.yaml."""
    values, classes = parse_sections(text, PARAMS), choices()
    return [load_params(section, values.get(section), classes[section]) for section in sections]


def check_params(text: str) -> None:
    """Raises ValueError unless the text is a valid params.yaml."""
    params_in(text, *SECTIONS)


def vocabulary(settings: list[str]) -> tuple[int, str]:
    """The vocabulary size and its origin: the shards, as in training, or else the tokenizer's params."""
    from tiny_lm.shards.format import read_metadata

    asked = any(setting.startswith(("tokenizer", "experiment")) for setting in settings)
    if not asked and (SHARDS / "metadata.json").exists():
        return read_metadata(SHARDS).vocab_size, f"{SHARDS}/metadata.json"
    (tokenizer,) = params_with(settings, "tokenizer")
    return tokenizer.vocab_size, "tokenizer.vocab_size"


def apply(text: str, settings: list[str]) -> str:
    """The text of params.yaml with the settings applied in order, `SECTION=PRESET` or `SECTION.KEY=VALUE`."""
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ValueError(f"{setting!r}: write SECTION=PRESET or SECTION.KEY=VALUE")
        if "." in key:
            text = _set_value(text, key, value)
        elif key == "experiment":
            path = _preset_path(key, value)
            for section, preset in parse_sections(path.read_bytes(), path).items():
                text = _set_section(text, section, str(preset))
        else:
            text = _set_section(text, key, value)
    return text


def choices() -> dict[str, Choice]:
    """The params class of each section, or the classes among which its first key selects."""
    from tiny_lm.bpe import TokenizerParams
    from tiny_lm.corpus.mixture import DATASETS  # imported here because these take seconds
    from tiny_lm.encoding.encode import ShardsParams
    from tiny_lm.evaluation.params import EvaluateParams
    from tiny_lm.export.params import ExportParams
    from tiny_lm.model.registry import MODELS
    from tiny_lm.runner.stage import RuntimeParams
    from tiny_lm.tasks.params import TasksParams
    from tiny_lm.training.params import TrainParams

    classes = (
        DATASETS, TokenizerParams, ShardsParams, MODELS, TrainParams, EvaluateParams, ExportParams, TasksParams,
        RuntimeParams,
    )  # fmt: skip
    return dict(zip(SECTIONS, classes, strict=True))


def _read_params() -> str:
    parse_sections(PARAMS.read_bytes(), PARAMS)
    return PARAMS.read_text(encoding="utf-8")


def _set_value(text: str, key: str, value: str) -> str:
    section, name = key.split(".", 1)
    document = _load(text, PARAMS)
    values = document.get(section)
    if not isinstance(values, CommentedMap) or section not in SECTIONS:
        raise ValueError(f"{key}: no such key in params.yaml; there are {', '.join(map(str, document))}")
    hints = typing.get_type_hints(params_class(section, values, choices()[section]))
    if name in hints:
        values[name] = _representable(_parse_typed(key, value, hints[name]))
        return _dump(document)
    *path, last = name.split(".")  # of a list of sections: sources.0.weight
    inner = find(values, path)
    if not path or not isinstance(inner, CommentedMap):
        raise ValueError(f"{key}: no such key in params.yaml; there are {', '.join(hints)}")
    inner[last] = _representable(parse_yaml(value, f"{key} = {value[:80]}"))
    return _dump(document)


def find(values: Any, path: Sequence[str]) -> Any:
    """The value at a path of keys of sections and places in lists, or None."""
    for name in path:
        if isinstance(values, list) and name.isdecimal() and int(name) < len(values):
            values = values[int(name)]
        elif isinstance(values, Mapping):
            values = values.get(name)
        else:
            return None
    return values


def _parse_typed(key: str, value: str, hint: Any) -> Any:
    """The value that was typed for a key of the type `hint`.

    A text is taken character by character, unless all of it is in quotes: then the quotes and escapes are YAML's, as in
    "\\n\\n". `null` without quotes is null for a key that can be null. The items of a list are texts too. Numbers,
    booleans and lists of sections are read as YAML.
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
    if typing.get_origin(inner) is tuple and typing.get_origin(typing.get_args(inner)[0]) is not Mapping:
        try:
            return parse_yaml(value, name, YAML(typ="base", pure=True))  # every scalar is a text, 010 and yes too
        except ValueError:
            raise ValueError(f'{name}: not readable as a list; write it as ["one text", "another"]') from None
    return parse_yaml(value, name) if value.strip() else value


def _preset_path(section: str, name: str) -> Path:
    folder = CONFIGS / section
    if not folder.is_dir() or section not in (*SECTIONS, "experiment"):
        presets = ", ".join(sorted(path.name for path in CONFIGS.glob("*"))) or "none"
        raise ValueError(f"{section}: no presets for it under configs/; there are presets for {presets}")
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise ValueError(f"{section}={name}: no such preset; there are {', '.join(names)}")
    return folder / f"{name}.yaml"


def _set_section(text: str, section: str, preset: str) -> str:
    new = section_text(section, _preset_path(section, preset))
    text += "\n" * (not text.endswith("\n"))
    between = r"(?:#[^\n]*)?\n"  # lines of the section: an empty one, or a comment at the margin
    lines = rf"(?:[ ]+[^\n]*\n|{between}(?=(?:{between})*[ ]))*"
    old = re.search(rf"^{section}:[^\n]*\n{lines}", text, re.M)
    return text[: old.start()] + new + text[old.end() :] if old else f"{text}\n{new}"


def section_text(section: str, path: Path) -> str:
    """A whole section of params.yaml: the preset's values and comments where it has any, else those of the class."""
    text = path.read_text(encoding="utf-8")
    preset = _load(text, path)
    values = preset.get(section)
    if list(preset) != [section] or not isinstance(values, CommentedMap):
        raise ValueError(f"{path}: must have the section {section} and no other")
    try:
        params = load_params(section, values, choices()[section])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    defaults = {field.name: field.default for field in dataclasses.fields(params)}
    blocks = [_dump(CommentedMap({key: _representable(values.get(key, defaults[key]))})).split("\n", 1)
              for key in defaults]  # fmt: skip
    column = min(max(len(first) for first, _ in blocks), MAX_COMMENT_COLUMN)
    comments = field_comments(type(params)) | _comments(values)
    head = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
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
    return parse_sections(text, name, _yaml())


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
