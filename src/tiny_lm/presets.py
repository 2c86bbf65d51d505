"""params.yaml as people set it: presets from configs/ and single values put into its text, comments kept.

A preset file is a section of params.yaml, comments included; an experiment preset names one for several sections.
Sections are replaced as text, so that every comment outside them stays; nothing is written unless the result is valid.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from tiny_lm.config import load_params, parse_yaml, read_yaml
from tiny_lm.files import write_whole

PARAMS, SHARDS = Path("params.yaml"), Path("data/shards")
SECTIONS = ("dataset", "tokenizer", "shards", "model", "train", "evaluate", "export", "runtime")


def write_params(settings: list[str]) -> None:
    """Puts the settings into params.yaml, or raises ValueError and leaves it as it was."""
    read_yaml(PARAMS)
    text = apply(PARAMS.read_text(encoding="utf-8"), settings)
    check_params(text)
    write_whole(PARAMS, lambda file: file.write(text.encode()))


def params_with(settings: list[str], **choices: Any) -> list[Any]:
    """The params of some sections as they would be with the settings; nothing is written. `choices` is by section what
    `load_params` takes: `params_with(["model=gpt2-2l"], model=MODELS, train=TrainParams)`.
    """
    values = _read(apply(PARAMS.read_text(encoding="utf-8"), settings))
    return [load_params(section, values.get(section), choice) for section, choice in choices.items()]


def vocabulary(settings: list[str]) -> tuple[int, str]:
    """The size of the vocabulary, and where it is from: the shards, as in training, or else the tokenizer's params."""
    from tiny_lm.shards.format import read_metadata
    from tiny_lm.tokenizer.trainer import TokenizerParams

    asked = any(setting.startswith(("tokenizer", "experiment")) for setting in settings)
    if not asked and (SHARDS / "metadata.json").exists():
        return read_metadata(SHARDS).vocab_size, f"{SHARDS}/metadata.json"
    (tokenizer,) = params_with(settings, tokenizer=TokenizerParams)
    return tokenizer.vocab_size, "tokenizer.vocab_size"


def apply(text: str, settings: list[str]) -> str:
    """The text of params.yaml with the settings applied in order."""
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ValueError(f"{setting!r}: write SECTION=PRESET or SECTION.KEY=VALUE")
        if "." in key:
            text = _set_value(text, key, value)
        elif key == "experiment":
            for section, preset in read_yaml(_preset_path(key, value)).items():
                text = _set_section(text, section, str(preset))
        else:
            text = _set_section(text, key, value)
    return text


def check_params(text: str) -> None:
    """ValueError where the text is not a valid params.yaml."""
    values = _read(text)
    for section, choice in choices().items():
        load_params(section, values.get(section), choice)


def choices() -> dict[str, Any]:
    """By section what `load_params` takes."""
    from tiny_lm.corpus.sources import SOURCES  # here, since these take seconds to import
    from tiny_lm.evaluation.params import EvaluateParams
    from tiny_lm.export.huggingface import ExportParams
    from tiny_lm.model.build import MODELS
    from tiny_lm.runner.stage import RuntimeParams
    from tiny_lm.shards.writer import ShardsParams
    from tiny_lm.tokenizer.trainer import TokenizerParams
    from tiny_lm.training.params import TrainParams

    classes: tuple[Any, ...] = (
        SOURCES, TokenizerParams, ShardsParams, MODELS, TrainParams, EvaluateParams, ExportParams, RuntimeParams
    )  # fmt: skip
    return dict(zip(SECTIONS, classes, strict=True))


def _read(text: str) -> dict[str, Any]:
    values = parse_yaml(text, PARAMS)
    if not isinstance(values, dict):
        raise ValueError(f"{PARAMS}: must have sections of keys")
    return values


def _preset_path(section: str, name: str) -> Path:
    folder = Path("configs") / section
    if not folder.is_dir() or section not in (*SECTIONS, "experiment"):
        there = ", ".join(sorted(p.name for p in Path("configs").iterdir())) if Path("configs").is_dir() else "none"
        raise ValueError(f"{section}: no presets for it under configs/; there are presets for {there}")
    names = sorted(p.stem for p in folder.glob("*.yaml"))
    if name not in names:
        raise ValueError(f"{section}={name}: no such preset; there are {', '.join(names)}")
    return folder / f"{name}.yaml"


def _set_section(text: str, section: str, preset: str) -> str:
    new = _body(_preset_path(section, preset).read_text(encoding="utf-8"), section)
    old = _body(text, section)
    return text.replace(old, new, 1)


def _body(text: str, section: str) -> str:
    """The lines of a section: its head and all that is indented below it."""
    match = re.search(
        rf"^{section}:[^\n]*\n(?:(?:[ ]+[^\n]*)?\n)*(?:[ ]+[^\n]*\n?)?", text + "\n" * (not text.endswith("\n")), re.M
    )
    if not match:
        raise ValueError(f"no section {section} in params.yaml or in the preset")
    return match[0].rstrip("\n") + "\n"


def _set_value(text: str, setting: str, value: str) -> str:
    section, key = setting.split(".", 1)
    _read(text)
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    try:
        params = yaml.load(text)
    except (YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{PARAMS}: not readable as YAML: {' '.join(str(error).split())[:300]}") from None
    values = params.get(section)
    if not isinstance(values, dict) or key not in values:
        known = ", ".join(map(str, values if isinstance(values, dict) else params))
        raise ValueError(f"{section}.{key}: no such key in params.yaml; there are {known}")
    params[section][key] = parse_yaml(value, f"{section}.{key} = {value[:80]}")
    out = io.StringIO()
    yaml.dump(params, out)
    return out.getvalue()
