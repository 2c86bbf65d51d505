"""Bad values: any value for any key gives a params object or a ValueError that names the key."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tries import Book

from tiny_lm.corpus.sources.local import list_files
from tiny_lm.io.params import load_params, parse_yaml, read_yaml
from tiny_lm.presets import apply, check_params, choices, section_text
from tiny_lm.tools import summary

ROOT = Path(__file__).parents[2]
trust = settings.get_profile("trust")
CHOICES = choices()
VALID = {
    f"{path.parent.name}={path.stem}": parse_yaml(section_text(path.parent.name, path), path)[path.parent.name]
    for path in sorted((ROOT / "configs").glob("*/*.yaml"))
    if path.parent.name in CHOICES
}


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
ODD = [10**5000, -(10**5000), deep(900), deep(90_000), CIRCLE, b"bytes", {1}, (1,), datetime.date(2026, 1, 1), object(),
       1 + 2j, type, "x" * 10**6, "\n", "true", "1e3", "0x10", range(3)]  # fmt: skip


@pytest.mark.parametrize("name", VALID)
@trust
@given(data=st.data())
def test_any_value_gives_a_params_object_or_an_error_with_the_key(
    name: str, book: Book, strategies: Any, data: st.DataObject
) -> None:
    section, values = name.partition("=")[0], dict(VALID[name])
    for key in data.draw(st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=2)):
        how = data.draw(st.sampled_from(["any", "any", "odd", "near", "missing", "unknown"]))
        if how == "missing":
            values.pop(key, None)
        elif how == "unknown":
            values[data.draw(st.one_of(st.text(max_size=9), st.integers(), st.none(), st.just(key.upper())))] = 1
        elif how == "near" and isinstance(values.get(key), int | float):
            values[key] = data.draw(st.sampled_from([-1, 0, 1, 2, 2**31, 2**32, 2**63, values[key] * -1, 0.5, 1e-320]))
        else:
            values[key] = data.draw(strategies.anything if how == "any" else st.sampled_from(ODD))
    try:
        load_params(section, values, CHOICES[section])
    except ValueError as error:
        message, keys = str(error), [*VALID[name], *(repr(str(key))[1:-1] for key in values)]
        named = tuple(f"{section}.{key}{sign}" for key in keys for sign in (" = ", ": "))
        if section == "dataset" and isinstance(sources := values.get("sources"), list):
            named += tuple(f"dataset.sources.{number}." for number in range(len(sources)))  # a key of a component
        assert message.startswith(named), message
        assert "\n" not in message, message
        assert len(message) < 3000
    book.note("values of params")


@pytest.mark.parametrize("section", CHOICES)
@trust
@given(data=st.data())
def test_a_value_that_is_not_a_section_is_refused_by_name(
    section: str, book: Book, strategies: Any, data: st.DataObject
) -> None:
    value = data.draw(st.one_of(strategies.anything, st.sampled_from(ODD)))
    assume(value != {})  # {} means the defaults, unless a key selects the class
    with pytest.raises(ValueError, match=rf"^{section}\b"):
        load_params(section, value, CHOICES[section])
    book.note("sections of params")


@trust
@given(data=st.data())
def test_any_bytes_are_yaml_or_a_value_error(book: Book, strategies: Any, artifacts: Path, data: st.DataObject) -> None:
    path = artifacts / "params.yaml"
    valid = (ROOT / "params.yaml").read_bytes()
    signs = st.text(st.sampled_from(" \n-:?&*!|>%@`'\"[]{},#~01.exoabc\t\u2028"), max_size=60).map(str.encode)
    path.write_bytes(data.draw(st.one_of(strategies.damaged(valid), signs, st.binary(max_size=60))))
    try:
        assert isinstance(read_yaml(path), dict)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    book.note("bytes of params.yaml")


@trust
@given(data=st.data())
def test_any_setting_of_a_preset_is_applied_or_refused(book: Book, strategies: Any, data: st.DataObject) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    if data.draw(st.integers(0, 3)) == 0:
        text = data.draw(strategies.damaged(text.encode())).decode(errors="replace")
    words = ["train", "model.n_heads", "dataset.path", "evaluate.prompts", "[", "{", "4", "null", "!!int", "x:", "&a"]
    word = st.one_of(st.sampled_from(words), st.text(max_size=9))
    setting = f"{data.draw(word)}={data.draw(word)}"
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        check_params(apply(text, [setting]))
    except ValueError:
        pass
    finally:
        os.chdir(before)
    book.note("settings of presets")


@trust
@given(data=st.data())
def test_any_path_and_glob_finds_files_or_is_an_error_with_the_key(
    book: Book, artifacts: Path, data: st.DataObject
) -> None:
    signs = st.one_of(st.text(st.sampled_from("*?[]!./\\a\0"), max_size=8), st.text(max_size=8), st.just("\ud800"))
    values = VALID["dataset=local"] | {"glob": data.draw(signs), "path": data.draw(signs)}
    try:
        params: Any = load_params("dataset", values, CHOICES["dataset"])
        list_files(artifacts / "data", params.format, params.glob)
        list_files(Path(params.path), params.format, "*.txt")
    except ValueError as error:
        assert str(error).startswith("dataset.")  # noqa: PT017
    book.note("paths and globs")


@trust
@given(data=st.data())
def test_the_summary_of_damaged_results_is_printed_or_a_value_error(
    book: Book, artifacts: Path, strategies: Any, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(
        ["data/corpus/metadata.json", "data/shards/metadata.json", "models/checkpoint/config.json",
         "results/evaluate/metrics.json"]
    ))  # fmt: skip
    path, before = artifacts / name, Path.cwd()
    valid = path.read_bytes()
    path.write_bytes(data.draw(st.one_of(strategies.damaged(valid), st.sampled_from([b"[1]", b"{}", b"3", b"null"]))))
    (artifacts / "results/evaluate/samples.txt").write_text("=== prompt: ''\ntext\n")
    os.chdir(artifacts)
    try:
        summary.main([])
    except ValueError:
        pass
    finally:
        os.chdir(before)
        path.write_bytes(valid)
    book.note("damage before `tiny-lm summary`")
