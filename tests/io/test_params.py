from dataclasses import dataclass
from typing import Literal

import pytest
from ruamel.yaml import YAML

from tiny_lm.io.params import check, field_comments, flat, load_params, parse_yaml, read_yaml


@dataclass(frozen=True, kw_only=True)
class Rope:
    kind: Literal["rope"] = "rope"
    theta: float = 1e4
    heads: int = 2
    window: int | None = None
    names: tuple[str, ...] = ()
    on: bool = False

    def __post_init__(self) -> None:
        check(self.heads > 0, "heads", self.heads, "over 0")


@dataclass(frozen=True, kw_only=True)
class Learned:
    kind: Literal["learned"] = "learned"
    rows: int = 1


CHOICES = {"rope": Rope, "learned": Learned}
GOOD = {"kind": "rope", "theta": 1e4, "heads": 2, "window": None, "names": ["a"], "on": True}


def test_a_valid_section_becomes_a_frozen_object():
    assert load_params("pos", GOOD, CHOICES) == Rope(
        kind="rope", theta=1e4, heads=2, window=None, names=("a",), on=True
    )
    assert load_params("pos", {"kind": "learned", "rows": 3}, CHOICES) == Learned(kind="learned", rows=3)


def test_a_choice_that_looks_like_a_number_may_be_written_as_one():
    @dataclass(frozen=True, kw_only=True)
    class Train:
        precision: Literal["32", "bf16-mixed"]

    for written in ("32", 32):  # the second is what `dvc exp run -S train.precision=32` makes of it
        assert load_params("train", {"precision": written}, Train) == Train(precision="32")
    with pytest.raises(ValueError, match="train.precision = 16: must be one of 32, bf16-mixed"):
        load_params("train", {"precision": 16}, Train)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "none"}, "pos.kind = 'none': must be one of rope, learned"),
        ({"heads": 0}, "pos.heads = 0: must be over 0"),
        ({"heads": "two"}, "pos.heads = 'two': must be a whole number"),
        ({"heads": 2.5}, "pos.heads = 2.5: must be a whole number"),
        ({"heads": True}, "pos.heads = True: must be a whole number"),
        ({"heads": None}, "pos.heads = None: must be a whole number"),
        ({"window": "x"}, "pos.window = 'x': must be a whole number or null"),
        ({"theta": float("nan")}, "pos.theta = nan: must be a finite number"),
        ({"theta": float("inf")}, "pos.theta = inf: must be a finite number"),
        ({"theta": 10**400}, f"pos.theta = {str(10**400)[:200]}: must be a finite number"),
        ({"names": "a"}, "pos.names = 'a': must be a list, such as [a, b]"),
        ({"names": [1]}, "pos.names = 1: must be a text, in quotes"),
        ({"on": 1}, "pos.on = 1: must be true or false"),
        ({"\n": 1}, r"pos.\n: unknown key with pos.kind = rope; allowed: kind, theta, heads, window, names, on"),
        ({"teta": 1}, "pos.teta: unknown key with pos.kind = rope; allowed: kind, theta, heads, window, names, on"),
    ],
)
def test_a_mistake_is_reported_with_key_value_and_what_is_allowed(change, message):
    with pytest.raises(ValueError) as error:
        load_params("pos", {**GOOD, **change}, CHOICES)
    assert str(error.value) == message


def test_a_missing_key_has_its_default_except_in_artifacts():
    values = {k: v for k, v in GOOD.items() if k != "on"}
    assert load_params("pos", values, CHOICES) == load_params("pos", {**GOOD, "on": False}, CHOICES)
    with pytest.raises(ValueError, match=r"^pos\.on: missing with pos.kind = rope$"):
        load_params("pos", values, CHOICES, complete=True)


def test_a_missing_section_and_a_missing_choice_of_class_are_named():
    with pytest.raises(ValueError, match=r"^pos = None: must be a section"):
        load_params("pos", None, CHOICES)
    with pytest.raises(ValueError, match=r"^pos\.kind: must be one of rope, learned"):
        load_params("pos", {}, CHOICES)


def test_a_whole_float_is_a_whole_number_since_dvc_writes_1e3_as_1000_0():
    params = load_params("pos", {**GOOD, "heads": 1e3}, CHOICES)
    assert params.heads == 1000
    assert isinstance(params.heads, int)


def test_yaml_is_version_1_2_as_dvc_writes_it(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a: 1e-06\nb: no\nc: 012\nd: 1:30\ne: -1.5E+3\n")
    assert read_yaml(path) == {"a": 1e-06, "b": "no", "c": 12, "d": "1:30", "e": -1500.0}


def test_unreadable_yaml_is_one_line_with_the_place(tmp_path):
    path = tmp_path / "params.yaml"
    for content in (b"a: [1\nb: 2\n", b"\xff\xfe", b"- 1\n", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="params.yaml: ") as error:
            read_yaml(path)
        assert "\n" not in str(error.value)


def test_flat_names_each_value():
    values = {"model": {"n_heads": 4, "rope": {"theta": 1.0}}, "train": {}, "seed": True}
    assert flat(values) == [("model.n_heads", 4), ("model.rope.theta", 1.0), ("train", {}), ("seed", True)]
    assert repr(dict(flat(values))["model.rope.theta"]) == "1.0"
    assert flat({}) == []


class Base:
    width: int = 3  # of the base
    # above
    depth: int = 4
    heads: int = 5


class Derived(Base):
    width: int = 6  # of the class
    norm: Literal["rms", "layer"] = "rms"  # layer: with a bias
    kind: Literal["a", "b"] = "a"


def test_the_comments_of_fields_are_read_from_the_class_and_its_bases():
    assert field_comments(Base) == {"width": "of the base", "depth": "above"}
    assert field_comments(Derived) == {
        "width": "of the class", "depth": "above", "norm": "rms | layer; layer: with a bias", "kind": "a | b"
    }  # fmt: skip


def test_scalars_can_be_read_as_text():
    texts = parse_yaml("[010, yes, null, 1e3, 'a, b']", "x", YAML(typ="base", pure=True))
    assert texts == ["010", "yes", "null", "1e3", "a, b"]
