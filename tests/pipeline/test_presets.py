"""Every shipped preset loads, and every model and training preset takes a step at reduced size."""

import inspect
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch

from tiny_lm.io.params import load_params, params_class, read_yaml
from tiny_lm.model.registry import MODELS, build_model
from tiny_lm.presets import SECTIONS, apply, check_params, choices
from tiny_lm.runner.pipelines import read_plans
from tiny_lm.training.optimizer import build_optimizer
from tiny_lm.training.params import TrainParams

ROOT = Path(__file__).parents[2]
PRESETS = sorted((path.parent.name, path.stem) for path in (ROOT / "configs").glob("*/*.yaml"))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("section", "name"), PRESETS)
def test_a_preset_applies_to_params_yaml_and_is_valid(section, name):
    text = apply((ROOT / "params.yaml").read_text(), [f"{section}={name}"])
    check_params(text)


@pytest.mark.parametrize(("section", "name"), [p for p in PRESETS if p[0] in SECTIONS])
def test_a_preset_contains_its_section_and_nothing_else(section, name):
    assert set(read_yaml(ROOT / "configs" / section / f"{name}.yaml")) == {section}


DEFAULTS = {"dataset": "stories", "tokenizer": "4k", "model": "llama3-tiny", "train": "laptop"}


def test_params_yaml_has_every_key_and_equals_the_default_presets():
    text = (ROOT / "params.yaml").read_text()
    values = read_yaml(ROOT / "params.yaml")
    assert list(values) == list(SECTIONS)
    for section, choice in choices().items():
        keys = [field.name for field in fields(params_class(section, values[section], choice))]
        assert list(values[section]) == keys, section
    assert apply(text, [f"{section}={DEFAULTS.get(section, 'default')}" for section in SECTIONS]) == text


@pytest.mark.parametrize("section", SECTIONS)
def test_the_default_presets_are_the_defaults_of_the_classes(section):
    """So a preset changes nothing but what it names, and an empty section is a valid one."""
    choice, values = choices()[section], read_yaml(ROOT / "params.yaml")[section]
    selector = {next(iter(values)): next(iter(values.values()))} if isinstance(choice, dict) else {}
    assert load_params(section, selector, choice) == load_params(section, values, choice, complete=True)


@pytest.mark.parametrize("section", [section for section in SECTIONS if section != "runtime"])
def test_the_defaults_of_a_section_are_in_code_that_its_stage_lists(section):
    """DVC tracks the values in params.yaml alone: a default behind a key that is left out must be tracked as code."""
    (deps,) = [plan["deps"] for plan in read_plans().values() if section in plan["params"]]
    choice = choices()[section]
    for cls in choice.values() if isinstance(choice, dict) else [choice]:
        for base in cls.__mro__[:-1]:
            file = Path(inspect.getfile(base)).relative_to(ROOT)
            assert any(file.is_relative_to(dep) for dep in deps), f"{base.__name__} is in {file}"


@pytest.mark.parametrize(("section", "name"), [p for p in PRESETS if p[0] in SECTIONS])
def test_a_preset_contains_only_what_differs_from_the_defaults(section, name):
    values = read_yaml(ROOT / "configs" / section / f"{name}.yaml")[section]
    choice = choices()[section]
    params = load_params(section, values, choice)
    selector, *_ = fields(params)
    defaults = {field.name: field.default for field in fields(params)}
    same = {key for key in values if getattr(params, key) == defaults[key]}
    assert same == ({selector.name} if isinstance(choice, dict) else set())


@pytest.mark.parametrize("train", [n for s, n in PRESETS if s == "train"])
@pytest.mark.parametrize("model", [n for s, n in PRESETS if s == "model"])
def test_a_model_preset_takes_a_step_under_a_train_preset(model, train):
    params = load_params("model", read_yaml(ROOT / f"configs/model/{model}.yaml")["model"], MODELS)
    t = load_params("train", read_yaml(ROOT / f"configs/train/{train}.yaml")["train"], TrainParams)
    ratio = params.n_heads // params.n_kv_heads
    heads = {"d_model": 16 * ratio, "n_heads": 2 * ratio, "n_kv_heads": 2}
    small = replace(params, **heads, n_layers=2, d_ff=48, context_length=16)
    torch.manual_seed(t.seed)
    net = build_model(small, 300)
    optimizer = build_optimizer(net, t, t.weight_decay_for(100_000, small.context_length))
    for group in optimizer.param_groups:
        group["lr"] = t.learning_rate
    x = torch.randint(0, 300, (2, 16))
    y = torch.randint(0, 300, (2, 16))

    def loss():
        with torch.autocast("cpu", torch.bfloat16, enabled=t.precision == "bf16-mixed"):
            return net.summed_loss(x, y) / y.numel()

    net.eval()
    before = loss()
    before.backward()
    optimizer.step()
    assert loss() < before


PUBLISHED = {
    "gpt2-2l": {"context_length": 1024, "d_model": 768, "n_layers": 2, "n_heads": 4, "d_ff": 3072, "qkv_bias": False,
                "embedding_dropout": 0.1, "attention_dropout": 0.1, "residual_dropout": 0.1},
    "llama3-12l": {"context_length": 1024, "d_model": 384, "n_layers": 12, "n_heads": 12, "n_kv_heads": 4, "d_ff": None,
                   "rope_theta": 10000.0, "norm_eps": 1e-6, "embedding_dropout": 0.0, "attention_dropout": 0.0,
                   "residual_dropout": 0.0},
}  # fmt: skip
GPU = {
    "precision": "bf16-mixed", "learning_rate": 3e-4, "min_learning_rate": 6e-5, "schedule": "cosine", "warmup": 0.01,
    "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "gradient_clip": 1.0, "micro_batch_size": 56,
    "batch_size": 224, "steps": 1962, "validate_every": 50, "checkpoint_every": 100,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_keeps_its_figures(name):
    params = load_params("model", read_yaml(ROOT / f"configs/model/{name}.yaml")["model"], MODELS)
    assert {key: asdict(params)[key] for key in PUBLISHED[name]} == PUBLISHED[name]
    if name == "llama3-12l":
        assert params.feedforward_width == 1024  # 8/3 · 384 = 1024


def test_the_gpu_preset_keeps_its_figures():
    train = load_params("train", read_yaml(ROOT / "configs/train/gpu.yaml")["train"], TrainParams)
    assert {key: asdict(train)[key] for key in GPU} == GPU
    assert train.micro_batches == 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tinystories-gpt2", {"dataset.name": "roneneldan/TinyStories", "dataset.field": "text",
                              "tokenizer.vocab_size": 8192, "model.architecture": "gpt2", "train.steps": 1962}),
        ("swallow-code-llama3", {"dataset.name": "tokyotech-llm/swallow-code", "dataset.config": "swallow-code",
                                 "tokenizer.vocab_size": 16384, "model.d_model": 384}),
    ],
)  # fmt: skip
def test_an_experiment_sets_several_sections(name, expected, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(apply((ROOT / "params.yaml").read_text(), [f"experiment={name}"]))
    values = read_yaml(path)
    for key, value in expected.items():
        section, field = key.split(".")
        assert values[section][field] == value
