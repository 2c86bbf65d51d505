"""`tiny-lm preset`: apply presets from configs/ and single values to params.yaml.

A value for a text is taken as typed, or with YAML's escapes if all of it is in quotes: 'dataset.separator="\\n\\n"'.
Texts at dataset.path that neither Git nor DVC tracks are added, so that clones and experiments have them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tiny_lm.io.params import read_yaml
from tiny_lm.presets import PARAMS, apply, edit_params, params_in, write_params
from tiny_lm.terminal import Parser


def main(argv: list[str]) -> None:
    example = "dataset=local dataset.path=book.txt dataset.validation=tail model=gpt2-2l train.steps=500"
    parser = Parser("preset", __doc__, example)
    parser.add_argument("settings", nargs="*", metavar="SECTION=PRESET or SECTION.KEY=VALUE")
    parser.add_argument("--list", action="store_true", help="show the available presets")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    args = parser.parse_args(argv)
    if args.list or not args.settings:
        presets = {
            folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
            for folder in sorted(Path("configs").iterdir())
        }
        lines = "\n".join(f"{section:<12}{'  '.join(names)}" for section, names in presets.items())
        print(json.dumps(presets, indent=2) if args.json else lines)
        return
    text, note = edit_params(args.settings), ""
    if any(setting.startswith(("dataset", "experiment")) for setting in args.settings):
        text, note = _track(text)
    write_params(text)
    params = read_yaml(PARAMS)  # reports what a reader of the file gets
    values = {}
    for setting in args.settings:
        key = setting.partition("=")[0]
        section, dot, name = key.partition(".")
        values[key] = params[section][name] if dot else setting.partition("=")[2]
    shown = ", ".join(f"{key}={_show(value)}" if "." in key else f"{key}={value}" for key, value in values.items())
    if note:
        print(f"tiny-lm preset: {note}", file=sys.stderr)
    set_ = {"set": args.settings, "values": values}
    print(json.dumps(set_, indent=2) if args.json else f"params.yaml: set {shown}; run `dvc repro` to build it")


def _show(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _track(text: str) -> tuple[str, str]:
    """Puts the text at dataset.path under version control. (params.yaml with its new place, a line for the user)"""
    from tiny_lm.corpus.sources.local import LocalParams, list_files
    from tiny_lm.tracking import track

    (params,) = params_in(text, "dataset")
    if not isinstance(params, LocalParams):
        return text, ""
    path = Path(params.path)
    if not path.exists():
        path = path.expanduser()  # the shell leaves the ~ in dataset.path=~/book.txt
    try:
        files = [file.path for file in list_files(path, params.format, params.glob)]
    except ValueError as error:  # the text may come later; the corpus stage looks again
        return text, str(error)
    place, note = track(path, files)
    if str(place) != params.path:
        text = apply(text, [f"dataset.path={json.dumps(place.as_posix(), ensure_ascii=False)}"])
    return text, note
