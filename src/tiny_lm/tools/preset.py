"""`tiny-lm preset`: put presets from configs/ and single values into params.yaml.

A preset file is a section of params.yaml, comments included; an experiment preset names one for several sections.
Sections are replaced as text, so that every comment outside them stays; nothing is written unless the result is valid.
"""

from __future__ import annotations

import argparse
import io
import os
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from tiny_lm.corpus.sources import SOURCES
from tiny_lm.evaluation.params import EvaluateParams
from tiny_lm.export.huggingface import ExportParams
from tiny_lm.guard import RuntimeParams
from tiny_lm.model.build import MODELS
from tiny_lm.params import load_params, read_yaml
from tiny_lm.shards.writer import ShardsParams
from tiny_lm.tokenizer.trainer import TokenizerParams
from tiny_lm.training.params import TrainParams

SECTIONS: dict[str, Any] = {
    "dataset": SOURCES,
    "tokenizer": TokenizerParams,
    "shards": ShardsParams,
    "model": MODELS,
    "train": TrainParams,
    "evaluate": EvaluateParams,
    "export": ExportParams,
    "runtime": RuntimeParams,
}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tiny-lm preset",
        description=__doc__.split("\n\n")[0],
        epilog="example: tiny-lm preset dataset=local dataset.path=book.txt model=gpt2-2l train.steps=500",
    )
    parser.add_argument("settings", nargs="*", metavar="SECTION=PRESET or SECTION.KEY=VALUE")
    parser.add_argument("--list", action="store_true", help="show the presets there are")
    args = parser.parse_args(argv)
    if args.list or not args.settings:
        for folder in sorted(Path("configs").iterdir()):
            print(f"{folder.name:<12}{'  '.join(sorted(p.stem for p in folder.glob('*.yaml')))}")
        return
    path = Path("params.yaml")
    read_yaml(path)
    text = apply(path.read_text(encoding="utf-8"), args.settings)
    check_params(text)
    draft = path.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
    print(f"params.yaml: set {', '.join(args.settings)}; `dvc repro` builds it")


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
    values = _load(YAML(typ="safe", pure=True), text)
    for section in SECTIONS:
        load_params(section, values.get(section), SECTIONS[section])


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


def _load(yaml: YAML, text: str) -> Any:
    """The sections in a text of params.yaml, as `yaml` reads it."""
    try:
        values = yaml.load(text)
    except (YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"params.yaml: not readable as YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(values, dict):
        raise ValueError(f"params.yaml: expected sections of keys, found {type(values).__name__}")
    return values


def _set_value(text: str, setting: str, value: str) -> str:
    section, key = setting.split(".", 1)
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    params = _load(yaml, text)
    values = params.get(section)
    if not isinstance(values, dict) or key not in values:
        known = ", ".join(map(str, values if isinstance(values, dict) else params))
        raise ValueError(f"{section}.{key}: no such key in params.yaml; there are {known}")
    try:
        params[section][key] = YAML(typ="safe", pure=True).load(value)
    except (YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{section}.{key} = {value[:80]}: not readable as a YAML value") from None
    out = io.StringIO()
    yaml.dump(params, out)
    return out.getvalue()
