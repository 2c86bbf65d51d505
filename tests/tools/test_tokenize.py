"""`tiny-lm tokenize` shows the ids of the tokenizer and every byte of the text."""

import io
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tiny_lm.tools.tokenize import main

TEXT = "Tom has a cat.\nIs it a “café”?\t<bos> 😀"


def test_ids_and_statistics_are_correct(project, call, tokenizer):
    facts = call(main, TEXT, "--json")
    ids = tokenizer.encode(TEXT).tolist()
    assert facts["ids"] == ids
    assert (facts["tokens"], facts["characters"], facts["bytes"]) == (len(ids), len(TEXT), len(TEXT.encode()))
    assert facts["bytes_per_token"] * len(ids) == pytest.approx(len(TEXT.encode()))
    assert facts["characters_per_token"] * len(ids) == pytest.approx(len(TEXT))
    shown = call(main, TEXT)
    assert f"{len(ids)} tokens, {len(TEXT)} characters, {len(TEXT.encode())} bytes" in shown
    assert f"{len(TEXT.encode()) / len(ids):.2f} bytes and {len(TEXT) / len(ids):.2f} characters per token" in shown


def test_argument_file_and_standard_input_give_the_same_output(project, call, monkeypatch):
    Path("text.txt").write_bytes(TEXT.encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert call(main, TEXT) == call(main, "--file", "text.txt") == call(main)


def test_line_ends_are_not_translated(project, call, tokenizer):
    Path("text.txt").write_bytes(b"a\r\nb")
    assert call(main, "--file", "text.txt", "--json")["ids"] == tokenizer.encode("a\r\nb").tolist()


def test_characters_split_between_tokens_are_shown_as_bytes(project, call):
    text = "ÿ"  # not in the text that the tokenizer was trained on
    assert call(main, text, "--json")["token_texts"] == ["\\xc3", "\\xbf"]
    assert call(main, text).splitlines()[0] == "\\xc3·\\xbf"


def test_every_byte_of_the_text_is_shown_once(project, call, plain):
    body = call(main, TEXT, "--color", "always").split("\n\n")[0]
    assert plain(body).replace("\n", "") == "".join(call(main, TEXT, "--json")["token_texts"])
    assert plain(body).startswith("Tom has a cat.\\n\nIs it a ")


def test_control_characters_are_escaped(project, call):
    shown = call(main, "\x1b[2Jgone\u202e\u00a0\r", "--color", "never")
    assert not {"\x1b", "\u202e", "\u00a0", "\r"} & set(shown)
    assert "\\x1b" in shown


def test_names_of_special_tokens_are_ordinary_text(project, call, tokenizer):
    assert not set(call(main, "<bos>", "--json")["ids"]) & set(tokenizer.special_tokens.values())


def test_ids_are_printed_before_their_tokens(project, call):
    facts = call(main, TEXT, "--json")
    lines = call(main, TEXT, "--ids").split("\n\n")[0].splitlines()
    assert [int(line[:7]) for line in lines] == facts["ids"]
    assert [line[9:] for line in lines] == facts["token_texts"]


@pytest.mark.parametrize(
    ("choice", "terminal", "no_color", "colored"),
    [
        ("auto", True, None, True),
        ("auto", False, None, False),
        ("auto", True, "1", False),
        ("auto", True, "", True),  # no-color.org: only if it is not empty
        ("never", True, None, False),
        ("always", False, "1", True),
    ],
)
def test_colors_are_used_on_terminals_or_on_request(project, call, monkeypatch, choice, terminal, no_color, colored):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    shown = call(main, TEXT, "--color", choice)
    assert ("\x1b[" in shown) == colored
    assert ("·" in shown) != colored


def test_adjacent_tokens_have_different_colors_which_are_reset(project, call):
    line = call(main, "Tom has a cat.", "--color", "always").splitlines()[0]
    styles = [part.split("m")[0] for part in line.split("\x1b[") if part and not part.startswith("0m")]
    assert all(one != other for one, other in pairwise(styles))
    assert line.endswith("\x1b[0m")


def test_an_empty_text_has_no_tokens(project, call):
    assert call(main, "") == "0 tokens, 0 characters, 0 bytes\n"
    assert call(main, "", "--json")["bytes_per_token"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--file", "binary"], "binary: not UTF-8 at byte 1"),
        (["text", "--file", "binary"], "argument --file: not allowed with argument text"),
        (["text", "--tokenizer", "nowhere"], "nowhere/metadata.json: there is no such file"),
        (["\ud83d"], "character 0 of the text is a lone surrogate (U+D83D); remove or replace it"),
        (["text", "--color", "red"], "argument --color: invalid choice: 'red'"),
    ],
)
def test_a_mistake_is_one_line(project, arguments, message):
    Path("binary").write_bytes(b"a\xff")
    with pytest.raises(ValueError) as error:
        main(arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
