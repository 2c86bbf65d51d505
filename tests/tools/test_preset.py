from pathlib import Path

import pytest

from tiny_lm.config import read_yaml
from tiny_lm.tools import preset

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT / "configs")
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    return Path("params.yaml")


def test_a_preset_replaces_its_section_and_leaves_every_other_line_as_it_was(params):
    params.write_text("# of mine\n" + params.read_text() + "\n# the end\n")
    before = params.read_text()
    preset.main(["model=gpt2-2l"])
    after = params.read_text()
    assert read_yaml(params)["model"] == read_yaml(Path("configs/model/gpt2-2l.yaml"))["model"]
    start, end = before.index("model:"), before.index("train:")
    assert after.startswith(before[:start])
    assert after.endswith(before[end:])


def test_there_and_back_is_the_same_file(params):
    before = params.read_text()
    preset.main(["model=gpt2-2l", "train=gpu"])
    preset.main(["model=llama3-tiny", "train=laptop"])
    assert params.read_text() == before


def test_a_single_value_keeps_all_comments(params):
    before = params.read_text().splitlines()
    preset.main(["train.steps=7", "dataset=local", "dataset.path=/some/file.txt", "evaluate.prompts=[a, b]"])
    values = read_yaml(params)
    assert (values["train"]["steps"], values["dataset"]["path"]) == (7, "/some/file.txt")
    assert values["evaluate"]["prompts"] == ["a", "b"]
    comments = [line.partition("#")[2] for line in before if "#" in line]
    kept = params.read_text()
    missing = [c for c in comments if c not in kept]
    dataset = (ROOT / "configs/dataset/stories.yaml").read_text()
    assert all(c in dataset for c in missing)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model=gpt9"], "model=gpt9: no such preset; there are gpt2-2l, llama3-12l, llama3-tiny"),
        (["modle=gpt2-2l"], "modle: no presets for it under configs/"),
        (["model.n_kvheads=2"], "model.n_kvheads: no such key in params.yaml; there are architecture, context_length"),
        (["model.n_kv_heads=3"], "model.n_kv_heads = 3: must be a divisor of n_heads = 4"),
        (["train.steps=many"], "train.steps = 'many': must be a whole number"),
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


def test_json_is_for_scripts(params, call):
    there = call(preset.main, "--list", "--json")
    assert there["model"] == sorted(path.stem for path in Path("configs/model").glob("*.yaml"))
    assert call(preset.main, "train.steps=7", "--json") == {"set": ["train.steps=7"]}
    assert read_yaml(params)["train"]["steps"] == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", "params.yaml: not readable as YAML: "),
        ("", "params.yaml: expected sections of keys"),
        ("- train", "params.yaml: expected sections of keys"),
    ],
)
def test_params_that_are_not_readable_are_one_line(params, text, message):
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


def test_no_other_line_changes_with_a_value(params):
    before = params.read_text().splitlines()
    preset.main(["train.steps=7"])
    after = params.read_text().splitlines()
    assert [line.split(":")[0].strip() for line in after if line not in before] == ["steps"]
    assert len(after) == len(before)
