import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tiny_lm.io.params import load_params, read_yaml
from tiny_lm.model.gpt2 import GPT2Params
from tiny_lm.model.registry import MODELS
from tiny_lm.tools import preset

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT / "configs")
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    return Path("params.yaml")


def test_a_preset_replaces_its_section_and_no_other_line(params):
    params.write_text("# my own\n" + params.read_text() + "\n# the end\n")
    before = params.read_text()
    preset.main(["model=gpt2-2l"])
    after = params.read_text()
    assert load_params("model", read_yaml(params)["model"], MODELS, complete=True) == GPT2Params()
    start, end = before.index("model:"), before.index("train:")
    assert after.startswith(before[:start])
    assert after.endswith(before[end:])


def test_a_line_of_a_section_that_is_commented_out_at_the_margin_is_part_of_it(params):
    before = params.read_text()
    text = before.replace("\n  d_model: 128\n", "\n  d_model: 96\n#  d_model: 128\n\n# why\n\n")
    assert text != before
    params.write_text(text.replace("\ntrain:", "\n# the run\ntrain:"))
    preset.main(["model=llama3-tiny"])
    assert params.read_text() == before.replace("\ntrain:", "\n# the run\ntrain:")


def test_switching_presets_and_back_restores_the_file(params):
    before = params.read_text()
    preset.main(["model=gpt2-2l", "train=gpu"])
    preset.main(["model=llama3-tiny", "train=laptop"])
    assert params.read_text() == before


def test_a_single_value_keeps_all_comments(params):
    preset.main(["dataset=local"])
    comments = [line.partition("#")[2] for line in params.read_text().splitlines() if "#" in line]
    preset.main(["train.steps=7", "dataset.path=/some/file.txt", "evaluate.prompts=[a, b]", "train.eps=1e-9"])
    values = read_yaml(params)
    assert (values["train"]["steps"], values["dataset"]["path"]) == (7, "/some/file.txt")
    assert values["evaluate"]["prompts"] == ["a", "b"]
    assert values["train"]["eps"] == yaml.safe_load(params.read_text())["train"]["eps"] == 1e-9  # not 1e-09, a text
    assert [line.partition("#")[2] for line in params.read_text().splitlines() if "#" in line] == comments


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        *((text, text) for text in (
            "---", "#", " ", " a ", "*.txt", "a: b", "- a", "[a", "{a: b}", "&a", "!x", "%", "@", "`", "|", "it's",
            "'", '"', 'say "no"', "\"a\" and \"b\"", "010", "1e3", "yes", "True", "~", "Null", "1:30", "2026-01-01",
            "<|endoftext|>", "\n\n", "\r\n", "\t", "\\n", "é😀", "\u2028", "\ufeff", "\x00\x1b", "a" * 300 + " b", "=",
        )),
        (r'"\n\n"', "\n\n"), ("'it''s'", "it's"), ("'---'", "---"), ('"null"', "null"), ("null", None),
    ],
)  # fmt: skip
def test_a_text_is_taken_literally_unless_it_is_in_quotes(params, call, typed, value):
    said = call(preset.main, "dataset=local", f"dataset.separator={typed}", "--json")
    assert said["values"] == {"dataset": "local", "dataset.separator": value}
    dvc, pyyaml = read_yaml(params), yaml.safe_load(params.read_text(encoding="utf-8"))  # YAML 1.2 and 1.1
    assert dvc["dataset"]["separator"] == pyyaml["dataset"]["separator"] == value
    assert "# splits text files into documents" in params.read_text(encoding="utf-8")


def test_null_is_a_text_for_keys_that_cannot_be_null(params):
    preset.main(["dataset=local", "dataset.glob=null", "train.precision=32", "train.stride=null"])
    values = read_yaml(params)
    assert (values["dataset"]["glob"], values["train"]["precision"], values["train"]["stride"]) == ("null", "32", None)


def test_list_items_are_texts(params):
    preset.main(
        ["evaluate.prompts=[010, yes, null, Once upon a time, 'Once, upon', \"a\\n\", '#']", "runtime.loggers=[]"]
    )
    expected = ["010", "yes", "null", "Once upon a time", "Once, upon", "a\n", "#"]
    assert read_yaml(params)["evaluate"]["prompts"] == expected
    assert yaml.safe_load(params.read_text())["evaluate"]["prompts"] == expected


def test_the_output_shows_the_values_in_the_file(params, capsys):
    preset.main(["dataset=local", "dataset.separator=---", "train.steps=010", "train.stride=null"])
    said = capsys.readouterr().out
    assert said.startswith(
        'params.yaml: set dataset=local, dataset.separator="---", train.steps=10, train.stride=null; '
    )


@pytest.fixture
def custom_preset(params):
    def write(text):
        Path("configs").unlink()
        shutil.copytree(ROOT / "configs", "configs")
        Path("configs/model/mine.yaml").write_text(text)

    return write


def test_a_custom_preset_keeps_its_comments(params, custom_preset):
    custom_preset("# model: mine\n\nmodel:\n  architecture: llama3\n  n_layers: 9 # because\n  rope_theta: 5e5\n")
    preset.main(["model=mine"])
    section = params.read_text().partition("\nmodel:\n")[2].partition("\n\n")[0]
    lines = [" ".join(line.split()) for line in section.splitlines()]
    assert lines[:3] == [
        "# model: mine",
        "architecture: llama3 # gpt2 | llama3 | qwen3",
        "context_length: 256 # tokens",
    ]
    assert {"n_layers: 9 # because", "rope_theta: 5e5", "d_model: 128"} <= set(lines)
    assert read_yaml(params)["model"]["rope_theta"] == 500_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:\n  architecture: llama3\n  n_layer: 9\n", "configs/model/mine.yaml: model.n_layer: unknown key"),
        ("model:\n  architecture: llama3\n  n_layers: 0\n", "configs/model/mine.yaml: model.n_layers = 0: must be"),
        ("model:\n  n_layers: 9\n", "configs/model/mine.yaml: model.architecture: must be one of gpt2, llama3"),
        ("train: {}\n", "configs/model/mine.yaml: must have the section model and no other"),
        ("model:\n", "configs/model/mine.yaml: must have the section model and no other"),
        ("model: [", "configs/model/mine.yaml: not readable as YAML"),
    ],
)
def test_a_mistake_in_a_preset_is_named_with_its_file(params, custom_preset, text, message):
    custom_preset(text)
    before = params.read_text()
    with pytest.raises(ValueError) as error:
        preset.main(["model=mine"])
    assert str(error.value).startswith(message)
    assert params.read_text() == before


def test_a_missing_key_or_section_can_be_set(params):
    text = params.read_text()
    params.write_text(re.sub(r"  steps:.*\n", "", text))
    preset.main(["train.steps=7"])
    assert read_yaml(params)["train"]["steps"] == 7
    params.write_text(re.sub(r"export:\n.*\n", "", text))
    preset.main(["export=default"])
    assert read_yaml(params)["export"] == {"dtype": "float32"}


def test_untracked_text_is_added_and_its_path_updated(params, tmp_path_factory, capsys):
    """Which files are added, and to Git or DVC: tests/test_tracking.py."""
    subprocess.run(["git", "init", "-q"], check=True)
    book = tmp_path_factory.mktemp("elsewhere") / "book.txt"
    book.write_text("a text")
    preset.main(["dataset=local", f"dataset.path={book}"])
    said = capsys.readouterr()
    assert said.err.startswith(f"tiny-lm preset: copied {book} to data/raw/book.txt, ")
    assert 'dataset.path="data/raw/book.txt"' in said.out
    assert read_yaml(params)["dataset"]["path"] == "data/raw/book.txt"
    assert subprocess.run(["git", "ls-files"], capture_output=True, text=True).stdout == "data/raw/book.txt\n"
    preset.main(["dataset.path=data/raw/book.txt"])
    assert capsys.readouterr().err == ""


def test_values_in_a_list_of_sections_can_be_set(params, call):
    call(preset.main, "dataset=mixture", "--json")
    comments = [line.partition("#")[2] for line in params.read_text().splitlines() if "#" in line]
    settings = ["dataset.sources.1.weight=0.25", "dataset.sources.1.min_chars=9", "dataset.sources.0.glob=a.txt"]
    said = call(preset.main, *settings, "--json")
    assert list(said["values"].values()) == [0.25, 9, "a.txt"]
    sources = read_yaml(params)["dataset"]["sources"]
    assert (sources[1]["weight"], sources[1]["min_chars"], sources[0]["glob"]) == (0.25, 9, "a.txt")
    assert [line.partition("#")[2] for line in params.read_text().splitlines() if "#" in line] == comments
    call(preset.main, "dataset.sources=[{weight: 0.5, source: stories, documents: 9}]", "--json")
    assert read_yaml(params)["dataset"]["sources"] == [{"weight": 0.5, "source": "stories", "documents": 9}]


def test_untracked_text_of_a_mixture_is_added_and_its_paths_updated(params, tmp_path_factory, capsys):
    subprocess.run(["git", "init", "-q"], check=True)
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("notes", "books"):
        (folder / name).mkdir()
        (folder / name / "a.txt").write_text(name)
    sources = [{"weight": 1, "source": "local", "path": str(folder / name)} for name in ("notes", "books")]
    preset.main(["dataset=mixture", f"dataset.path={folder}", f"dataset.sources={json.dumps(sources)}"])
    assert capsys.readouterr().err.startswith(f"tiny-lm preset: copied {folder} to data/raw/{folder.name}, ")
    dataset = read_yaml(params)["dataset"]
    copy = f"data/raw/{folder.name}"
    assert [dataset["path"], *(source["path"] for source in dataset["sources"])] == [
        copy,
        f"{copy}/notes",
        f"{copy}/books",
    ]
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True).stdout.split()
    assert tracked == [f"{copy}/books/a.txt", f"{copy}/notes/a.txt"]


def test_a_failure_of_git_changes_nothing(params):
    Path("book.txt").write_text("a text")  # outside of a Git repository
    before = params.read_text()
    with pytest.raises(ValueError, match=r"^`git rev-parse .*` failed: fatal: not a git repository"):
        preset.main(["dataset=local", "dataset.path=book.txt"])
    assert params.read_text() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model=gpt9"], "model=gpt9: no such preset; there are gpt2-2l, llama3-12l, llama3-tiny"),
        (["modle=gpt2-2l"], "modle: no presets for it under configs/"),
        (["model.n_kvheads=2"], "model.n_kvheads: no such key in params.yaml; there are architecture, context_length"),
        (["model.n_kv_heads=3"], "model.n_kv_heads = 3: must be a divisor of n_heads = 4"),
        (["train.steps=many"], "train.steps = 'many': must be a whole number"),
        (["train.stride="], "train.stride = '': must be a whole number or null"),
        (["dataset=local", "dataset.separator="], "dataset.separator = '': must be null"),
        (["dataset=local", "dataset.path=b\udcff"], "dataset.path = 'b\\udcff': not UTF-8"),
        (["dataset=local", r'dataset.separator="\q"'], r'dataset.separator = "\q": not readable as YAML'),
        (["evaluate.prompts=[*.txt]"], "evaluate.prompts = [*.txt]: not readable as a list; write it as "),
        (["evaluate.prompts=[a: b]"], "evaluate.prompts = {'a': 'b'}: must be a text"),
        (["evaluate.prompts=Lily"], "evaluate.prompts = 'Lily': must be a list, such as [a, b]"),
        (["dataset.seed.0=1"], "dataset.seed.0: no such key in params.yaml; there are source, path, seed"),
        (["dataset=mixture", "dataset.sources.9.weight=1"], "dataset.sources.9.weight: no such key in params.yaml"),
        (["dataset=mixture", "dataset.sources.0=1"], "dataset.sources.0: no such key in params.yaml"),
        (
            ["dataset=mixture", "dataset.sources.0.weigth=1"],
            "dataset.sources.0.weigth: unknown key with source = local",
        ),
        (["dataset=mixture", "dataset.sources.0.weight=-1"], "dataset.sources.0.weight = -1.0: must be above 0"),
        (["dataset=mixture", "dataset.sources=stories"], "dataset.sources = 'stories': must be a list"),
        (["train.steps"], "'train.steps': write SECTION=PRESET or SECTION.KEY=VALUE"),
        (["../../etc=passwd"], "../../etc: no such key in params.yaml"),
        (["model=../train/gpu"], "model=../train/gpu: no such preset"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(params, settings, message):
    before = params.read_text()
    with pytest.raises(ValueError) as error:
        preset.main(settings)
    assert str(error.value).startswith(message)
    assert params.read_text() == before


def test_json_output(params, call):
    there = call(preset.main, "--list", "--json")
    assert there["model"] == sorted(path.stem for path in Path("configs/model").glob("*.yaml"))
    assert call(preset.main, "model=gpt2-2l", "train.steps=7", "--json") == {
        "set": ["model=gpt2-2l", "train.steps=7"], "values": {"model": "gpt2-2l", "train.steps": 7}
    }  # fmt: skip
    assert read_yaml(params)["train"]["steps"] == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", "params.yaml: not readable as YAML: "),
        ("", "params.yaml: expected sections of keys"),
        ("- train", "params.yaml: expected sections of keys"),
    ],
)
def test_unreadable_params_are_one_line(params, text, message):
    params.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        preset.main(["train.steps=7"])
    assert "\n" not in str(error.value)
    assert params.read_text() == text


def test_without_settings_the_presets_are_listed(params, capsys):
    preset.main([])
    shown = capsys.readouterr().out
    for path in (ROOT / "configs").glob("*/*.yaml"):
        assert path.stem in shown


def test_setting_a_value_changes_no_other_line(params):
    before = params.read_text().splitlines()
    preset.main(["train.steps=7"])
    after = params.read_text().splitlines()
    assert [line.split(":")[0].strip() for line in after if line not in before] == ["steps"]
    assert len(after) == len(before)
