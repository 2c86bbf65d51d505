import bz2
import csv
import gzip
import json
import lzma
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tiny_lm.corpus import local
from tiny_lm.corpus.local import list_files, read_csv, read_file, read_jsonl, read_parquet, read_text


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


def test_a_set_format_reads_all_but_notes(tmp_path):
    make(tmp_path, "a.log", "b.txt", "no-suffix", "README.md", "b.txt.dvc", ".gitignore")
    assert names(tmp_path, "text", "*") == [("a.log", "text"), ("b.txt", "text"), ("no-suffix", "text")]


def test_one_file_is_read_by_its_suffix_or_the_set_format(tmp_path):
    make(tmp_path, "a.txt", "a.log")
    assert names(tmp_path / "a.txt", "auto", "**/*") == [("a.txt", "text")]
    assert names(tmp_path / "a.log", "jsonl", "**/*") == [("a.log", "jsonl")]
    with pytest.raises(ValueError, match=r"dataset\.path = .*a\.log'.*suffix '\.log'; set dataset\.format"):
        list_files(tmp_path / "a.log", "auto", "**/*")


def test_nothing_to_read_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"dataset\.path = .*missing': no such file or folder"):
        list_files(tmp_path / "missing", "auto", "**/*")
    make(tmp_path, "a.md")
    with pytest.raises(ValueError, match=r"no \.txt, .* file matches dataset\.glob = '\*\*/\*'; put files there"):
        list_files(tmp_path, "auto", "**/*")
    with pytest.raises(ValueError, match=r"no file matches dataset\.glob = '\*\.txt'"):
        list_files(tmp_path, "text", "*.txt")


@pytest.fixture(params=[1, 2, 3, 7, 2**20])
def block(request, monkeypatch):
    monkeypatch.setattr(local, "BLOCK_BYTES", request.param)


@pytest.mark.usefixtures("block")
def test_text_is_kept_exactly(tmp_path):
    text = "\ufeffA\r\nB\rC\n\n\tå漢🙂\u2028\x00 end \r\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert list(read_text(tmp_path / "a.txt", None)) == [text]


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("separator", ["\n\n", "<|endoftext|>", "å", "aba", "\n"])
@pytest.mark.parametrize(
    "text",
    ["", "one", "a\n\nb\n\n\nc\n\n\n\nd\n\n", "x<|endoftext|>y<|endof<|endoftext|>", "\n\n\n", "abababaXaba", "éåéåå"],
)
def test_pieces_are_those_of_split_without_the_empty_ones(tmp_path, text, separator):
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert list(read_text(tmp_path / "a.txt", separator)) == [piece for piece in text.split(separator) if piece]


def test_a_long_text_with_separators_is_never_whole_in_memory(tmp_path):
    (tmp_path / "a.txt").write_text(("word " * 200 + "\n\n") * 20000)  # 20 MB
    tracemalloc.start()
    count = sum(1 for _ in read_text(tmp_path / "a.txt", "\n\n"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20000
    assert peak < 8 * 2**20


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("separator", [None, "\n"])
@pytest.mark.parametrize("tail", [b"\xff more", b"\xe6\xbc", b"\xed\xa0\xbd"])
def test_text_that_is_not_utf8_is_refused_with_its_place(tmp_path, separator, tail):
    (tmp_path / "a.txt").write_bytes("åb\n".encode() * 5 + tail)
    with pytest.raises(ValueError, match=r"a\.txt: not UTF-8 at byte 20;"):
        list(read_text(tmp_path / "a.txt", separator))


TEXTS = ["plain", 'quotes " and, commas', "two\r\nlines\n", "å漢🙂\u2028\x85", " ", "x" * 300_000]


def test_jsonl_gives_the_field_of_each_line(tmp_path):
    lines = [json.dumps({"id": 1, "body": text}, ensure_ascii=i % 2 == 0) for i, text in enumerate(TEXTS)]
    (tmp_path / "a.jsonl").write_bytes(("\ufeff" + "\n\n".join(lines) + "\r\n").encode())
    assert list(read_jsonl(tmp_path / "a.jsonl", "body")) == TEXTS


def test_ten_megabytes_on_one_line_work(tmp_path):
    text = "åb" * 5_000_000
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n" + '{"text": "next"}\n')
    assert list(read_jsonl(tmp_path / "a.jsonl", "text")) == [text, "next"]
    (tmp_path / "a.csv").write_text(f"text\n{text}\nnext\n", encoding="utf-8")
    assert list(read_csv(tmp_path / "a.csv", "text")) == [text, "next"]


def test_null_counts_as_empty(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n')
    assert list(read_jsonl(tmp_path / "a.jsonl", "text")) == [""]
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "a.parquet")
    assert list(read_parquet(tmp_path / "a.parquet", "text")) == ["a", ""]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"line 2: not JSON \("),
        ("[1, 2]", r"line 2: expected an object with fields, found list"),
        ('{"body": "x", "id": 1}', r"line 2: no field 'text' \(dataset\.field\); there is 'body', 'id'"),
        ("{}", r"line 2: no field 'text' \(dataset\.field\); there is none"),
        ('{"text": 5}', r"line 2: field 'text' must be text, found int"),
        (r'{"text": "ab\ud83d"}', r"line 2: field 'text' has a lone surrogate \(U\+D83D\) at character 2"),
        ("[" * 100_000, r"line 2: not JSON"),
    ],
)
def test_jsonl_errors_name_the_line(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl, " + message) as error:
        list(read_jsonl(tmp_path / "a.jsonl", "text"))
    assert len(str(error.value)) < 500


def test_csv_gives_the_column(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["text", "id"], *([text, i] for i, text in enumerate(TEXTS))])
    assert list(read_csv(tmp_path / "a.csv", "text")) == TEXTS
    assert list(read_csv(tmp_path / "a.csv", "id")) == [str(i) for i in range(len(TEXTS))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("body,id\nx,1\n", r"a\.csv: no field 'text' \(dataset\.field\); there is 'body', 'id'"),
        ("", r"a\.csv: no field 'text' \(dataset\.field\); there is none"),
        ("text,text\nx,1\n", r"a\.csv: 2 columns are called 'text'"),
        ("id,text\n1,one, two\n", r"a\.csv, line 2: 3 fields in this row, 2 in the first"),
        ("id,text\n1,fine\n2\n", r"a\.csv, line 3: 1 fields in this row, 2 in the first"),
        ('id,text\n1,"never closed\n2,x\n', r"a\.csv, line 3: not CSV \(unexpected end of data\)"),
    ],
)
def test_csv_errors_name_the_line(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        list(read_csv(tmp_path / "a.csv", "text"))


@pytest.mark.parametrize("reader", [read_jsonl, read_csv])
def test_lines_that_are_not_utf8_are_refused_with_their_place(tmp_path, reader):
    (tmp_path / "a").write_bytes(b'{"text": "x"}\n'.replace(b'"', b"" if reader is read_csv else b'"') + b"ab\xff\n")
    offset = (tmp_path / "a").read_bytes().index(b"\xff")
    with pytest.raises(ValueError, match=rf"a: not UTF-8 at byte {offset}"):
        list(reader(tmp_path / "a", "{text: x}" if reader is read_csv else "text"))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_gives_the_column(tmp_path, kind):
    texts = pa.array(TEXTS * 200, pa.string()).cast(kind) if kind != pa.string_view() else pa.array(TEXTS * 200, kind)
    table = pa.table({"id": range(len(TEXTS) * 200), "body": texts})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=500)
    assert list(read_parquet(tmp_path / "a.parquet", "body")) == TEXTS * 200


def test_parquet_errors_name_the_file(tmp_path):
    pq.write_table(pa.table({"body": ["x"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: no field 'text' \(dataset\.field\); there is 'body', 'id'"):
        list(read_parquet(tmp_path / "a.parquet", "text"))
    with pytest.raises(ValueError, match=r"a\.parquet: column 'id' must be text, found int64"):
        list(read_parquet(tmp_path / "a.parquet", "id"))
    (tmp_path / "b.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"b\.parquet: not readable as Parquet"):
        list(read_parquet(tmp_path / "b.parquet", "text"))
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    pq.write_table(pa.table({"text": bad}), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"c\.parquet, row 0: not UTF-8"):
        list(read_parquet(tmp_path / "c.parquet", "text"))


def test_a_file_with_fields_needs_the_fields_name(tmp_path):
    with pytest.raises(ValueError, match=r"dataset\.field = None: must be the name .*a\.jsonl"):
        read_file(tmp_path / "a.jsonl", "jsonl", None, None)


@pytest.mark.parametrize("kind", ["text", "jsonl", "csv", "parquet"])
def test_an_empty_file_has_no_documents_or_says_why(tmp_path, kind):
    (tmp_path / "a").touch()
    if kind in ("text", "jsonl"):
        assert list(read_file(tmp_path / "a", kind, "text", None)) == []
    else:
        with pytest.raises(ValueError, match="a: "):
            list(read_file(tmp_path / "a", kind, "text", None))


def test_a_file_that_a_pattern_finds_twice_is_read_once(tmp_path):
    (tmp_path / "en/books/en").mkdir(parents=True)
    (tmp_path / "en/books/en/x.txt").write_text("x")
    files = list_files(tmp_path, "auto", "**/en/**/*.txt")  # twice, on Python 3.13
    assert [name for name, *_ in files] == ["en/books/en/x.txt"]


def test_a_link_to_a_folder_is_refused_where_a_pattern_goes_through_it(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.txt").write_text("a")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here/b.txt").symlink_to(tmp_path / "elsewhere/a.txt")  # DVC reads what that links to
    with pytest.raises(ValueError, match=r"^dataset.glob = '\*/\*.txt': reaches link/a.txt through a link to a folder"):
        list_files(tmp_path / "here", "auto", "*/*.txt")
    assert [name for name, *_ in list_files(tmp_path / "here", "auto", "*.txt")] == ["b.txt"]
    (tmp_path / "there").symlink_to(tmp_path / "here")  # dataset.path itself may be one
    assert [name for name, *_ in list_files(tmp_path / "there", "auto", "*.txt")] == ["b.txt"]


def test_what_only_looks_like_a_file_is_passed_over(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "broken.txt").symlink_to("nowhere")
    (tmp_path / "B.TXT").write_text("b")
    assert [name for name, *_ in list_files(tmp_path, "auto", "**/*")] == ["B.TXT"]
    (tmp_path / "C.MD").write_text("c")
    assert [name for name, *_ in list_files(tmp_path, "auto", "*.MD")] == ["C.MD"]
    assert list_files(tmp_path / "B.TXT", "auto", "*")[0][2] == "text"


def test_a_blank_line_of_a_csv_file_is_no_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("n,text\n1,a\n\n2,b\n")
    assert list(read_csv(path, "text")) == ["a", "b"]


def test_a_byte_order_mark_alone_is_no_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf")
    assert list(read_jsonl(path, "text")) == []
    path.write_text('{"text": "a"}\n\ufeff{"text": "b"}\n', encoding="utf-8")  # it is one at the beginning alone
    with pytest.raises(ValueError, match="line 2: not JSON"):
        list(read_jsonl(path, "text"))


def test_parquet_with_two_columns_of_a_name_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    with pytest.raises(ValueError, match="a.parquet: 2 columns are called 'text'$"):
        list(read_parquet(path, "text"))


def test_a_row_of_parquet_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    rows = pa.array([b"a", b"b", b"\xff", b"d"], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"text": rows}), path)
    with pytest.raises(ValueError, match="a.parquet, row 2: not UTF-8"):
        list(read_parquet(path, "text"))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("reader", [lambda f: read_text(f, None), lambda f: read_jsonl(f, "text")])
def test_a_compressed_file_is_said_to_be_one(tmp_path, compress, reader):
    path = tmp_path / "a.txt"
    path.write_bytes(compress(b'{"text": "a text"}\n' * 9))
    with pytest.raises(ValueError, match="a.txt: is compressed; unpack it first$"):
        list(reader(path))
