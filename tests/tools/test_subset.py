"""`tiny-lm subset` writes ordinary shards: whole documents, verified, never incomplete."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tiny_lm.runner import verify as verify_module
from tiny_lm.runner.verify import verify_shards
from tiny_lm.shards.stream import TokenStream
from tiny_lm.tools import subset
from tiny_lm.tools.subset import main

SHARDS, SMALL = Path("data/shards"), Path("small")


def all_tokens(folder, name):
    stream = TokenStream(folder, name)
    return stream.read(0, len(stream)).tolist()


@pytest.mark.parametrize("chunk", [1 << 21, 150, 1])  # all at once, a few documents at a time, one by one
def test_as_many_whole_documents_as_fit_are_copied(project, call, monkeypatch, chunk):
    monkeypatch.setattr(subset, "CHUNK_TOKENS", chunk)
    monkeypatch.setattr(subset, "CHUNK_DOCUMENTS", 7)
    call(main, "--tokens", "2K", "--output", "small")
    metadata = verify_shards(SMALL)
    whole = TokenStream(SHARDS, "train")
    ends = whole.lengths[:, 0].cumsum()
    assert metadata.train.tokens == max(end for end in ends.tolist() if end <= 2000)
    assert all_tokens(SMALL, "train") == whole.read(0, metadata.train.tokens).tolist()
    assert (TokenStream(SMALL, "train").lengths == whole.lengths[: metadata.train.documents]).all()
    assert all_tokens(SMALL, "val") == all_tokens(SHARDS, "val")
    assert [shard.tokens for shard in metadata.train.shards] == [1000, metadata.train.tokens - 1000]


def test_a_copy_of_all_tokens_has_the_same_bytes(project, call):
    tokens = len(TokenStream(SHARDS, "train"))
    call(main, "--tokens", tokens, "--output", "small")
    files = sorted(path.relative_to(SHARDS) for path in SHARDS.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(SMALL) for path in SMALL.rglob("*") if path.is_file())
    assert all((SMALL / file).read_bytes() == (SHARDS / file).read_bytes() for file in files)


def test_the_validation_split_can_be_limited_and_json_shows_the_metadata(project, call):
    shown = call(main, "--tokens", "1000", "--val-tokens", "100", "--output", "deep/er", "--json")
    assert shown == json.loads(Path("deep/er/metadata.json").read_text())
    assert shown["val"]["tokens"] <= 100 < TokenStream(SHARDS, "val").split.tokens


def test_nanogpt_can_read_it(project, call):
    call(main, "--tokens", "1000", "--output", "small")
    data = np.memmap("small/train/00000.bin", dtype=np.uint16, mode="r")
    assert data.tolist() == all_tokens(SHARDS, "train")[: len(data)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "1M", "--output", "small"], r"--tokens 1,000,000: data/shards/train has only [\d,]+$"),
        (["--tokens", "3", "--output", "small"], r"--tokens 3: the first document alone has \d+$"),
        (["--tokens", "1K", "--val-tokens", "1", "--output", "small"], "--val-tokens 1: the first document alone has"),
        (["--tokens", "1K", "--output", "data"], "--output data: already exists; name a new folder"),
        (["--tokens", "1K", "--output", "data/shards/small"], "must be outside of data/shards"),
        (["--tokens", "1K", "--output", "small", "--shards", "no"], "no/metadata.json: there is no such file"),
        (["--tokens", "few", "--output", "small"], "argument --tokens: 'few': must be an amount"),
        (["--tokens", "0", "--output", "small"], "argument --tokens: '0': must be an amount"),
        (["--output", "small"], "the following arguments are required: --tokens"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(project, arguments, message):
    before = sorted(Path().rglob("*"))
    with pytest.raises(ValueError, match=message) as error:
        main(arguments)
    assert "\n" not in str(error.value)
    assert sorted(Path().rglob("*")) == before


def damage(file, change):
    path = SHARDS / file
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("train/00000.bin", lambda content: content.pop(), "train/00000.bin: 1999 bytes, must be 2000"),
        ("train/00000.bin", lambda content: content.__setitem__(slice(0, 2), b"\0\0"), "damaged near token 0"),
        ("train/00000.bin", lambda content: content.__setitem__(slice(2, 4), b"\xff\xff"), "damaged near token 0"),
        ("train/00000.bin", lambda content: content.__setitem__(slice(2, 4), b"\x2a\x01"), "is damaged: "),
        ("train/lengths.bin", lambda content: content.__setitem__(slice(0, 4), b"\0\0\0\0"), "lengths.bin: is damaged"),
        ("train/lengths.bin", lambda content: content.__setitem__(0, content[0] - 1), "damaged near token 0"),
        ("val/lengths.bin", lambda content: content.__setitem__(slice(0, 4), b"\0\0\0\x40"), "lengths.bin: is damaged"),
    ],
    ids=["truncated", "no-bos", "no-such-id", "bos-within", "length-0", "length-wrong", "length-huge"],
)
def test_damaged_shards_are_refused(project, file, change, message):
    damage(file, change)
    before = sorted(Path().rglob("*"))
    with pytest.raises(ValueError, match=message):
        main(["--tokens", "2K", "--output", "small"])
    assert sorted(Path().rglob("*")) == before


def test_an_error_while_writing_leaves_no_files(project, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(verify_module, "verify_shards", stop)
    before = sorted(Path().rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        main(["--tokens", "1K", "--output", "small"])
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"])
def test_a_signal_leaves_no_files(project, number, code):
    shutil.copytree(SHARDS, "before")
    slow = (
        "import time; from tiny_lm.tools import subset; copy = subset._copy\n"
        "subset._copy = lambda *a: (copy(*a), print('half', flush=True), time.sleep(60))\n"
        "from tiny_lm.cli import main; main()"
    )
    command = [sys.executable, "-c", slow, "subset", "--tokens", "1K", "--output", "new/small"]
    env = {**os.environ, "PYTHONPATH": str(Path(subset.__file__).parents[2])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stdout.readline() == "half\n"
    assert [path.name for path in Path("new").glob(".small.*/small/*")] == ["train"]
    time.sleep(0.1)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (code, "")
    assert not list(Path("new").iterdir())
