import argparse

import pytest

from tiny_lm.terminal import Parser, amount, size, visible


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("1500", 1500), ("20K", 20_000), ("1.5m", 1_500_000), ("8GB", 8 * 10**9), ("8 gb", 8 * 10**9),
     ("2T", 2 * 10**12), ("0.001K", 1), ("1234567890123", 1234567890123), ("100B", 100)],
)  # fmt: skip
def test_amounts_are_exact(text, count):
    assert amount(text) == count


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.5", "K", "1e6", "8GiB", "1,000", "nan", "inf", "9" * 15 + "T", "0.0001K", "1 2", "٣"]
)
def test_invalid_amounts_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be an amount such as 5000, 20K or 1.5M"):
        amount(text)


def test_sizes_use_powers_of_1000():
    shown = [size(count) for count in (0, 999, 1000, 999_949, 999_950, 1_234_567, 8_000_000_000, 5 * 10**15)]
    assert shown == ["0 bytes", "999 bytes", "1.0 kB", "999.9 kB", "1.0 MB", "1.2 MB", "8.0 GB", "5000.0 TB"]


def test_visible_escapes_invisible_characters_and_incomplete_bytes():
    assert visible("Größe 今日 😀".encode()) == "Größe 今日 😀"
    assert visible("é".encode()[:1]) == "\\xc3"
    assert visible("é\n".encode()[1:]) == "\\xa9\\n"
    assert visible("\u00a0\u200b\x1b\x07\U000e0001".encode()) == "\\u00a0\\u200b\\x1b\\x07\\U000e0001"


def test_invalid_arguments_are_a_value_error_of_one_line():
    parser = Parser("tool", "Does something.", "--many 3")
    parser.add_argument("--many", type=amount)
    assert parser.format_help().rstrip().endswith("example: tiny-lm tool --many 3")
    with pytest.raises(ValueError, match="^argument --many: 'x': must be .*; see `tiny-lm tool --help`$"):
        parser.parse_args(["--many", "x"])
