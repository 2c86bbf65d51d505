from dataclasses import dataclass
from typing import Literal

import pytest

from tiny_lm.config import check, flat, load_params, read_yaml


@dataclass(frozen=True, kw_only=True)
class Rope:
    kind: Literal["rope"]
    theta: float
    heads: int
    window: int | None
    names: tuple[str, ...]
    on: bool

    def __post_init__(self) -> None:
        check(self.heads > 0, "heads", self.heads, "over 0")


@dataclass(frozen=True, kw_only=True)
class Learned:
    kind: Literal["learned"]
    rows: int


CHOICES = {"rope": Rope, "learned": Learned}
GOOD = {"kind": "rope", "theta": 1e4, "heads": 2, "window": None, "names": ["a"], "on": True}


def test_a_valid_section_becomes_a_frozen_object():
    assert load_params("pos", GOOD, CHOICES) == Rope(
        kind="rope", theta=1e4, heads=2, window=None, names=("a",), on=True
    )
    assert load_params("pos", {"kind": "learned", "rows": 3}, CHOICES) == Learned(kind="learned", rows=3)


def test_a_choice_that_reads_as_a_number_may_be_written_as_one():
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
        ({"window": "x"}, "pos.window = 'x': must be a whole number"),
        ({"theta": float("nan")}, "pos.theta = nan: must be a finite number"),
        ({"theta": float("inf")}, "pos.theta = inf: must be a finite number"),
        ({"theta": 10**400}, f"pos.theta = {str(10**400)[:200]}: must be a finite number"),
        ({"names": "a"}, "pos.names = 'a': must be a list"),
        ({"names": [1]}, "pos.names = 1: must be a text"),
        ({"on": 1}, "pos.on = 1: must be true or false"),
        ({"\n": 1}, r"pos.\n: unknown key with pos.kind = rope; allowed: kind, theta, heads, window, names, on"),
        ({"teta": 1}, "pos.teta: unknown key with pos.kind = rope; allowed: kind, theta, heads, window, names, on"),
    ],
)
def test_a_mistake_is_named_with_its_key_its_value_and_what_is_allowed(change, message):
    with pytest.raises(ValueError) as error:
        load_params("pos", {**GOOD, **change}, CHOICES)
    assert str(error.value) == message


def test_a_missing_key_and_a_missing_section_are_named():
    with pytest.raises(ValueError, match=r"^pos\.on: missing"):
        load_params("pos", {k: v for k, v in GOOD.items() if k != "on"}, CHOICES)
    with pytest.raises(ValueError, match=r"^pos = None: must be a section"):
        load_params("pos", None, CHOICES)


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
