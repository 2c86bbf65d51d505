import gzip
import hashlib
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import texts_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_lm.corpus.readers import read_file
from tiny_lm.corpus.sources import local
from tiny_lm.corpus.sources.base import shorten
from tiny_lm.corpus.sources.local import divide, list_files, list_others
from tiny_lm.corpus.sources.registry import SOURCES
from tiny_lm.executor import InProcess
from tiny_lm.io.params import load_params, read_yaml

ROOT = Path(__file__).parents[3]


def load(**changes):
    return load_params("dataset", read_yaml(ROOT / "configs/dataset/local.yaml")["dataset"] | changes, SOURCES)


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")


def names(*arguments):
    return [(name, kind) for name, _, kind in list_files(*arguments)]


def test_a_folder_is_read_by_suffix_sorted_by_name(tmp_path):
    make(tmp_path, "b.txt", "a.JSONL", "sub/deep/c.csv", "sub/a.parquet", "image.png", "README.md", "x.txt.dvc")
    make(tmp_path, ".hidden.txt", ".git/config.txt", "sub/.cache/a.txt")
    expected = [("a.JSONL", "jsonl"), ("b.txt", "text"), ("sub/a.parquet", "parquet"), ("sub/deep/c.csv", "csv")]
    assert names(tmp_path, "auto", "**/*") == expected


def test_a_glob_chooses_files(tmp_path):
    make(tmp_path, "a.txt", "b.txt", "sub/a.txt")
    assert names(tmp_path, "auto", "*.txt") == [("a.txt", "text"), ("b.txt", "text")]
    assert names(tmp_path, "auto", "**/a.*") == [("a.txt", "text"), ("sub/a.txt", "text")]


def test_a_glob_that_names_another_suffix_reads_it_as_text(tmp_path):
    make(tmp_path, "README.md", "a.py", "a.txt")
    assert names(tmp_path, "auto", "**/*.md") == [("README.md", "text")]
    assert names(tmp_path, "auto", "*.py") == [("a.py", "text")]


def test_an_explicit_format_reads_all_files_but_notes(tmp_path):
    make(tmp_path, "a.log", "b.txt", "no-suffix", "README.md", "b.txt.dvc", ".gitignore")
    assert names(tmp_path, "text", "*") == [("a.log", "text"), ("b.txt", "text"), ("no-suffix", "text")]


def test_one_file_is_read_by_its_suffix_or_the_explicit_format(tmp_path):
    make(tmp_path, "a.txt", "a.log")
    assert names(tmp_path / "a.txt", "auto", "**/*") == [("a.txt", "text")]
    assert names(tmp_path / "a.log", "jsonl", "**/*") == [("a.log", "jsonl")]
    with pytest.raises(ValueError, match=r"dataset\.path = .*a\.log'.*suffix '\.log'; set dataset\.format"):
        list_files(tmp_path / "a.log", "auto", "**/*")


def test_without_files_the_error_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"dataset\.path = .*missing': no such file or folder"):
        list_files(tmp_path / "missing", "auto", "**/*")
    make(tmp_path, "a.md")
    with pytest.raises(
        ValueError,
        match=r"no \.txt, .* file matches dataset\.glob = .* \(found a\.md\); put",
    ):
        list_files(tmp_path, "auto", "**/*")
    with pytest.raises(ValueError, match=r"no file matches dataset\.glob = '\*\.txt'"):
        list_files(tmp_path, "text", "*.txt")


def test_a_file_that_a_glob_matches_twice_is_read_once(tmp_path):
    (tmp_path / "en/books/en").mkdir(parents=True)
    (tmp_path / "en/books/en/x.txt").write_text("x")
    files = list_files(tmp_path, "auto", "**/en/**/*.txt")  # twice, on Python 3.13
    assert [name for name, *_ in files] == ["en/books/en/x.txt"]


def test_a_glob_through_a_link_to_a_folder_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.txt").write_text("a")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here/b.txt").symlink_to(tmp_path / "elsewhere/a.txt")  # DVC reads the target of a link to a file
    with pytest.raises(ValueError, match=r"^dataset.glob = '\*/\*.txt': matches link/a.txt through a link to a folder"):
        list_files(tmp_path / "here", "auto", "*/*.txt")
    assert [name for name, *_ in list_files(tmp_path / "here", "auto", "*.txt")] == ["b.txt"]
    (tmp_path / "there").symlink_to(tmp_path / "here")  # dataset.path itself may be a link
    assert [name for name, *_ in list_files(tmp_path / "there", "auto", "*.txt")] == ["b.txt"]


def test_folders_and_broken_links_are_skipped(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "broken.txt").symlink_to("nowhere")
    (tmp_path / "B.TXT").write_text("b")
    assert [name for name, *_ in list_files(tmp_path, "auto", "**/*")] == ["B.TXT"]
    (tmp_path / "C.MD").write_text("c")
    assert [name for name, *_ in list_files(tmp_path, "auto", "*.MD")] == ["C.MD"]
    assert list_files(tmp_path / "B.TXT", "auto", "*")[0].format == "text"


def test_local_files_are_read_in_order_and_recorded_with_sizes_and_checksums(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.jsonl").write_text('{"text": "third"}\n{"text": "fourth"}\n')
    (tmp_path / "a.txt").write_text("first--second--")
    (tmp_path / "sub/c.csv").write_text("text\nfifth\n")
    source = load(path=str(tmp_path), separator="--").open(False, InProcess())
    assert texts_of(source.train) == ["first", "second", "third", "fourth", "fifth"]
    assert [file["name"] for file in source.provenance["files"]] == ["a.txt", "b.jsonl", "sub/c.csv"]
    assert source.provenance["files"][0] == {
        "name": "a.txt",
        "format": "text",
        "bytes": 15,
        "sha256": hashlib.sha256(b"first--second--").hexdigest(),
    }
    assert str(tmp_path) not in json.dumps(source.provenance)


def test_the_metadata_of_very_many_files_is_their_number_and_a_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "MAX_LISTED", 2)
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(name)
    provenance = load(path=str(tmp_path)).open(False, InProcess()).provenance
    assert provenance["files"] == {"number": 3, "sha256": provenance["files"]["sha256"]}
    (tmp_path / "a.txt").write_text("A")
    assert load(path=str(tmp_path)).open(False, InProcess()).provenance != provenance


def test_compressed_files_are_read_in_every_text_format(tmp_path):
    make(tmp_path, "a.txt.gz", "b.jsonl.ZST", "c.csv.bz2", "d.json.xz", "e.tsv", "f.ndjson.gz", "g.parquet.gz", "h.gz")
    files = list_files(tmp_path, "auto", "**/*")
    assert [(file.name, file.format) for file in files] == [
        ("a.txt.gz", "text"), ("b.jsonl.ZST", "jsonl"), ("c.csv.bz2", "csv"), ("d.json.xz", "json"), ("e.tsv", "tsv"),
        ("f.ndjson.gz", "jsonl"),
    ]  # fmt: skip
    assert list_others(tmp_path, files) == ["g.parquet.gz", "h.gz"]
    assert names(tmp_path, "jsonl", "h.*") == [("h.gz", "jsonl")]
    make(tmp_path, "x.log.gz", "x.md.gz")
    assert names(tmp_path, "auto", "*.log.gz") == [("x.log.gz", "text")]
    assert names(tmp_path, "auto", "*.md.gz") == [("x.md.gz", "text")]
    with pytest.raises(ValueError, match=r"no reader for the suffix '\.parquet\.gz'; set dataset\.format"):
        list_files(tmp_path / "g.parquet.gz", "auto", "**/*")


def test_files_that_are_not_read_are_named(tmp_path):
    make(tmp_path, "a.txt", "notes.md", "sub/README.md", ".hidden.txt", "sub/.cache/b.txt", "image.png", "b.tar.gz")
    make(tmp_path, "README.md", ".gitignore", "a.txt.dvc", ".git/config", "elsewhere/c.txt")
    (tmp_path / "broken.txt").symlink_to("nowhere")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    files = list_files(tmp_path, "auto", "**/*.txt")
    assert [file.name for file in files] == ["a.txt", "elsewhere/c.txt"]
    assert list_others(tmp_path, files) == [
        ".hidden.txt", "b.tar.gz", "broken.txt", "image.png", "link", "notes.md", "sub/.cache/b.txt", "sub/README.md",
    ]  # fmt: skip


def test_other_files_are_not_reported_if_the_path_is_a_file(tmp_path):
    make(tmp_path, "a.txt", "b.txt")
    source = load(path=str(tmp_path / "a.txt")).open(False, InProcess())
    assert (texts_of(source.train), source.not_read) == (["text"], ())


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    make(tmp_path, "a.txt", "closed/b.txt")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="closed"):
        list_others(tmp_path, list_files(tmp_path, "auto", "*.txt"))


def test_a_name_that_is_not_utf8_is_refused_if_dvc_would_fail(tmp_path):
    make(tmp_path, "a.txt")
    Path(os.fsdecode(bytes(tmp_path) + b"/\xe9.pdf")).write_text("text")
    with pytest.raises(ValueError, match=r"the file name '\\udce9\.pdf' is not UTF-8, .*; rename it$") as error:
        list_files(tmp_path, "auto", "**/*")
    assert str(error.value).isprintable()
    with pytest.raises(ValueError, match=r"^dataset.path = '\\udce9.txt': must be a file or a folder"):
        load(path="\udce9.txt")
    source = load(path=str(tmp_path), glob="*.txt").open(False, InProcess())  # a name that is only reported
    assert shorten(source.not_read) == "\\udce9.pdf"
    json.dumps(source.not_read).encode()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.text(alphabet="ab-é🙂\n", max_size=60),
    st.sampled_from(["-", "--", "-a-", "\n\n", "é", "aa"]),
    st.integers(1, 20),
)
def test_however_a_file_is_divided_its_documents_are_those_of_the_whole_file(text, separator, size):
    """Also if separators overlap."""
    with TemporaryDirectory() as folder, patch.object(local, "PART_BYTES", size):
        for name in ("a.txt", "b.jsonl", "c.txt"):
            content = "\n".join(map(json.dumps, [{"text": line} for line in text.split("\n")])) if "b" in name else text
            Path(folder, name).write_text(content, encoding="utf-8", newline="")
        files = list_files(Path(folder), "auto", "**/*")
        whole = [text for file in files for text in read_file(file.path, file.format, "text", separator)]
        parts = list(divide(files, "text", separator))
        assert len(parts) >= sum(file.path.stat().st_size // (size + 1) for file in files)
        assert texts_of(parts) == whole


def test_large_parquet_files_are_divided_by_row_groups(tmp_path, monkeypatch):
    texts = [f"text {i}" for i in range(100)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=7)
    monkeypatch.setattr(local, "PART_BYTES", 150)
    parts = list(divide(list_files(tmp_path, "auto", "**/*"), "text", None))
    assert len(parts) > 3
    assert texts_of(parts) == texts


def test_an_error_in_a_later_part_names_the_line_of_the_file(tmp_path, monkeypatch):
    good = "".join(f'{{"text": "text {i}"}}\n' for i in range(50))
    (tmp_path / "a.jsonl").write_text(good + "{bad\n" + good)
    monkeypatch.setattr(local, "PART_BYTES", 100)
    with pytest.raises(ValueError, match=r"a\.jsonl: line 51: not JSON") as error:
        texts_of(load(path=str(tmp_path)).open(False, InProcess()).train)
    (tmp_path / "a.jsonl").write_bytes(good.encode() + b'{"text": "\xff"}\n' + good.encode())
    with pytest.raises(ValueError, match=rf"a\.jsonl: not UTF-8 at byte {len(good) + 10}") as error:
        texts_of(load(path=str(tmp_path)).open(False, InProcess()).train)
    assert str(error.value).count("a.jsonl") == 1


def test_small_files_share_a_part_and_compressed_ones_are_not_divided(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "PART_BYTES", 100)
    for name in "abcdef":
        (tmp_path / f"{name}.txt").write_text(name * 40)
    (tmp_path / "g.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 10, 0))
    parts = list(divide(list_files(tmp_path, "auto", "**/*"), "text", None))
    assert [[file.name for file in part.files] for part in parts] == [
        ["a.txt", "b.txt"], ["c.txt", "d.txt"], ["e.txt", "f.txt"], ["g.jsonl.gz"]
    ]  # fmt: skip
