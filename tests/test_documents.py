import gc
import hashlib
import os
import subprocess
import sys
import tracemalloc
from dataclasses import asdict
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tiny_lm import documents
from tiny_lm.documents import DocumentWriter, read_documents

TEXTS = ["plain", "", "two\r\nlines\n", "quotes \" ' and \\ and \x00", "åß漢字🙂\u2028", "x" * 100]


def write(path, texts):
    with DocumentWriter(path) as writer:
        for text in texts:
            writer.write(text)
    return writer


def test_documents_are_read_in_the_order_written(tmp_path):
    write(tmp_path / "a.parquet", TEXTS)
    assert list(read_documents(tmp_path / "a.parquet")) == TEXTS
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]


def test_reading_holds_only_a_part_of_the_file_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROW_GROUP_BYTES", 2**16)
    random = Random(0)
    write(tmp_path / "a.parquet", (random.randbytes(512).hex() for _ in range(16_000)))  # 8 MB when compressed
    assert (tmp_path / "a.parquet").stat().st_size > 8 * 10**6
    tracemalloc.start()
    assert sum(1 for _ in read_documents(tmp_path / "a.parquet")) == 16_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 10**6


def test_other_tools_read_the_text_column(tmp_path):
    write(tmp_path / "a.parquet", TEXTS)
    assert pq.read_table(tmp_path / "a.parquet").to_pydict() == {"text": TEXTS}


def test_the_metadata_counts_documents_characters_and_bytes_and_hashes_the_texts(tmp_path):
    metadata = write(tmp_path / "a.parquet", ["ab", "é"]).metadata("a.parquet")
    expected = hashlib.sha256(b"\x02" + bytes(7) + b"ab" + b"\x02" + bytes(7) + "é".encode()).hexdigest()
    file = hashlib.sha256((tmp_path / "a.parquet").read_bytes()).hexdigest()
    assert asdict(metadata) == {
        "file": "a.parquet", "documents": 2, "characters": 3, "bytes": 4, "sha256": expected, "file_sha256": file
    }  # fmt: skip


def test_the_hash_depends_on_where_documents_end(tmp_path):
    one, other = write(tmp_path / "a", ["ab", "c"]), write(tmp_path / "b", ["a", "bc"])
    assert one.metadata("a").sha256 != other.metadata("b").sha256


def test_the_same_documents_give_the_same_file(tmp_path):
    for name in "ab":
        write(tmp_path / name, TEXTS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_pandas_is_not_imported(tmp_path):
    code = f"""
import sys
from pathlib import Path
from tiny_lm.documents import DocumentWriter, read_documents
with DocumentWriter(Path({str(tmp_path / "a.parquet")!r})) as writer:
    writer.write("text")
assert list(read_documents(writer.path)) == ["text"]
assert "pandas" not in sys.modules
"""
    environment = os.environ | {"PYTHONPATH": str(Path(documents.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_row_groups_are_bounded_in_bytes_and_documents(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROW_GROUP_BYTES", 100)
    monkeypatch.setattr(documents, "ROW_GROUP_DOCUMENTS", 10)
    texts = ["y" * 60] * 3 + ["z"] * 25 + ["w" * 500]
    write(tmp_path / "a.parquet", texts)
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [1, 1, 10, 10, 6, 1]
    assert list(read_documents(tmp_path / "a.parquet")) == texts


def test_an_error_leaves_no_file(tmp_path):
    def broken():
        yield "text"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write(tmp_path / "a.parquet", broken())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("error")
def test_a_full_disk_is_an_os_error_and_leaves_no_file(tmp_path):
    (tmp_path / "a.parquet.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a.parquet", ["x" * 100])
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_lone_surrogate_is_refused_with_the_position(tmp_path):
    with pytest.raises(
        ValueError, match=r"a document has a lone surrogate \(U\+D83D\) at character 2, .* It begins 'ab\\ud83d'$"
    ):
        write(tmp_path / "a.parquet", ["fine", "ab\ud83d"])


def test_a_document_too_large_for_parquet_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 10)
    with pytest.raises(ValueError, match=r"a document has 10 bytes, must be under 10; .*dataset\.separator"):
        write(tmp_path / "a.parquet", ["x" * 10])


def broken(path):
    path.write_bytes(b"not parquet")


def truncated(path):
    write(path, TEXTS)
    path.write_bytes(path.read_bytes()[:-20])


def other_column(path):
    pq.write_table(pa.table({"body": ["a"]}), path)


def numbers(path):
    pq.write_table(pa.table({"text": [1]}), path)


def null(path):
    pq.write_table(pa.table({"text": pa.array([None], pa.large_string())}), path)


def damaged(path):
    write(path, ["".join(chr(97 + (i * i) % 23) for i in range(5000))])
    data = bytearray(path.read_bytes())
    data[60:160] = bytes(100)
    path.write_bytes(data)


@pytest.mark.parametrize("make", [broken, truncated, other_column, numbers, null, damaged])
def test_a_damaged_or_foreign_file_is_refused_by_name(tmp_path, make):
    make(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: not a file of documents \(.+\)") as error:
        list(read_documents(tmp_path / "a.parquet"))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(read_documents(tmp_path / "a.parquet"))


def test_a_row_group_that_cannot_be_written_is_an_error_even_if_later_ones_can(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROW_GROUP_DOCUMENTS", 1)
    original, calls = DocumentWriter._write_group, []

    def fails_first(self, group):
        calls.append(group)
        if len(calls) == 1:
            raise OSError("disk full")
        original(self, group)

    monkeypatch.setattr(DocumentWriter, "_write_group", fails_first)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "a.parquet", ["a", "b", "c"])
    assert not list(tmp_path.iterdir())


def test_a_file_with_fewer_documents_than_in_its_footer_is_refused(tmp_path, monkeypatch):
    write(tmp_path / "a.parquet", ["a", "b", "c"])
    original = documents.pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        documents.pq.ParquetFile, "iter_batches", lambda self, *args: (b.slice(0, 2) for b in original(self, *args))
    )
    with pytest.raises(ValueError, match="2 documents, but 3 according to the footer"):
        list(read_documents(tmp_path / "a.parquet"))
