import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import tarfile
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tiny_lm.corpus import readers
from tiny_lm.corpus.readers import read_file


def read(file, field="text", separator=None):
    """The documents of a file whose first suffix is its format."""
    format = file.suffixes[0].removeprefix(".").replace("txt", "text")
    return list(read_file(file, format, field, separator))


@pytest.fixture(params=[1, 2, 3, 7, 2**20])
def block(request, monkeypatch):
    monkeypatch.setattr(readers, "BLOCK_CHARS", request.param)


@pytest.mark.usefixtures("block")
def test_text_is_unchanged(tmp_path):
    text = "A\r\nB\rC\n\n\tå漢🙂\u2028\x00 end \r\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert read(tmp_path / "a.txt") == [text]


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("separator", ["\n\n", "<|endoftext|>", "å", "aba", "\n"])
@pytest.mark.parametrize(
    "text",
    ["", "one", "a\n\nb\n\n\nc\n\n\n\nd\n\n", "x<|endoftext|>y<|endof<|endoftext|>", "\n\n\n", "abababaXaba", "éåéåå"],
)
def test_documents_are_the_non_empty_parts_between_separators(tmp_path, text, separator):
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert read(tmp_path / "a.txt", separator=separator) == [part for part in text.split(separator) if part]


def test_a_long_text_with_separators_is_never_in_memory_as_a_whole(tmp_path):
    (tmp_path / "a.txt").write_text(("word " * 200 + "\n\n") * 20000)  # 20 MB
    tracemalloc.start()
    count = sum(1 for _ in read_file(tmp_path / "a.txt", "text", None, "\n\n"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20000
    assert peak < 8 * 2**20


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("separator", [None, "\n"])
@pytest.mark.parametrize("tail", [b"\xff more", b"\xe6\xbc", b"\xed\xa0\xbd"])
def test_text_that_is_not_utf8_is_refused_with_the_position(tmp_path, separator, tail):
    (tmp_path / "a.txt").write_bytes("åb\n".encode() * 5 + tail)
    with pytest.raises(ValueError, match=r"a\.txt: not UTF-8 at byte 20;"):
        read(tmp_path / "a.txt", separator=separator)


TEXTS = ["plain", 'quotes " and, commas', "two\r\nlines\n", "å漢🙂\u2028\x85", " ", "x" * 300_000]


def test_jsonl_documents_are_the_field_of_each_line(tmp_path):
    lines = [json.dumps({"id": 1, "body": text}, ensure_ascii=i % 2 == 0) for i, text in enumerate(TEXTS)]
    (tmp_path / "a.jsonl").write_bytes(("\ufeff" + "\n\n".join(lines) + "\r\n").encode())
    assert read(tmp_path / "a.jsonl", "body") == TEXTS


def test_a_line_may_have_ten_megabytes(tmp_path):
    text = "åb" * 5_000_000
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n" + '{"text": "next"}\n')
    assert read(tmp_path / "a.jsonl") == [text, "next"]
    (tmp_path / "a.csv").write_text(f"text\n{text}\nnext\n", encoding="utf-8")
    assert read(tmp_path / "a.csv") == [text, "next"]


def test_null_counts_as_empty(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n')
    assert read(tmp_path / "a.jsonl") == [""]
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ["a", ""]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"line 2: not JSON \("),
        ("[1, 2]", r"line 2: expected an object, found list"),
        ('{"body": "x", "id": 1}', r"line 2: no field 'text'; found: 'body', 'id'"),
        ("{}", r"line 2: no field 'text'; found: none"),
        ('{"text": 5}', r"line 2: field 'text' must be text, found int"),
        (r'{"text": "ab\ud83d"}', r"line 2: field 'text' has a lone surrogate \(U\+D83D\) at character 2"),
        ("[" * 100_000, r"line 2: not JSON"),
    ],
)
def test_jsonl_errors_name_the_line(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl: " + message) as error:
        read(tmp_path / "a.jsonl")
    assert len(str(error.value)) < 500


def test_csv_documents_are_the_column(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["text", "id"], *([text, i] for i, text in enumerate(TEXTS))])
    assert read(tmp_path / "a.csv") == TEXTS
    assert read(tmp_path / "a.csv", "id") == [str(i) for i in range(len(TEXTS))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("body,id\nx,1\n", r"a\.csv: no field 'text'; found: 'body', 'id'"),
        ("", r"a\.csv: no field 'text'; found: none"),
        ("text,text\nx,1\n", r"a\.csv: 2 columns are named 'text'; rename all but one"),
        ("id,text\n1,one, two\n", r"a\.csv: line 2: 3 fields, but 2 in the header"),
        ("id,text\n1,fine\n2\n", r"a\.csv: line 3: 1 fields, but 2 in the header"),
        ('id,text\n1,"never closed\n2,x\n', r"a\.csv: line 3: not CSV \(unexpected end of data\)"),
    ],
)
def test_csv_errors_name_the_line(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.csv")


@pytest.mark.parametrize(("name", "first"), [("a.jsonl", b'{"text": "x"}\n'), ("a.csv", b"text\n")])
def test_lines_that_are_not_utf8_are_refused_with_the_position(tmp_path, name, first):
    (tmp_path / name).write_bytes(first + b"ab\xff\n")
    with pytest.raises(ValueError, match=rf"{name}: not UTF-8 at byte {len(first) + 2}"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_parquet_documents_are_the_column(tmp_path, kind):
    texts = pa.array(TEXTS * 200, pa.string()).cast(kind) if kind != pa.string_view() else pa.array(TEXTS * 200, kind)
    table = pa.table({"id": range(len(TEXTS) * 200), "body": texts})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=500)
    assert read(tmp_path / "a.parquet", "body") == TEXTS * 200


def test_parquet_errors_name_the_file(tmp_path):
    pq.write_table(pa.table({"body": ["x"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: no field 'text'; found: 'body', 'id'"):
        read(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: column 'id' must be text, found int64"):
        read(tmp_path / "a.parquet", "id")
    (tmp_path / "b.parquet").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"b\.parquet: not readable as Parquet"):
        read(tmp_path / "b.parquet")
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    pq.write_table(pa.table({"text": bad}), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"c\.parquet: row 0: not UTF-8"):
        read(tmp_path / "c.parquet")


def test_a_format_with_fields_needs_the_name_of_one(tmp_path):
    with pytest.raises(ValueError, match=r"a\.jsonl: dataset\.field = None: must be the name "):
        list(read_file(tmp_path / "a.jsonl", "jsonl", None, None))


@pytest.mark.parametrize("kind", ["text", "jsonl", "csv", "parquet"])
def test_an_empty_file_has_no_documents_or_is_an_error(tmp_path, kind):
    (tmp_path / "a").touch()
    if kind in ("text", "jsonl"):
        assert list(read_file(tmp_path / "a", kind, "text", None)) == []
    else:
        with pytest.raises(ValueError, match="a: "):
            list(read_file(tmp_path / "a", kind, "text", None))


def test_a_blank_line_in_a_csv_file_is_ignored(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("n,text\n1,a\n\n2,b\n")
    assert read(path) == ["a", "b"]


def test_a_file_with_only_a_byte_order_mark_is_empty(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf")
    assert read(path) == []
    path.write_text(
        '{"text": "a"}\n\ufeff{"text": "b"}\n', encoding="utf-8"
    )  # a byte order mark only at the beginning of a file
    with pytest.raises(ValueError, match="line 2: not JSON"):
        read(path)


def test_parquet_with_two_columns_of_the_same_name_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    with pytest.raises(ValueError, match="a.parquet: 2 columns are named 'text'; rename all but one$"):
        read(path)


def test_a_parquet_row_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    rows = pa.array([b"a", b"b", b"\xff", b"d"], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"text": rows}), path)
    with pytest.raises(ValueError, match="a.parquet: row 2: not UTF-8"):
        read(path)


@pytest.mark.usefixtures("block")
def test_only_a_byte_order_mark_at_the_beginning_is_removed(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffa\ufeff|\ufeffb".encode())
    assert read(tmp_path / "a.txt") == ["a\ufeff|\ufeffb"]
    assert read(tmp_path / "a.txt", separator="|") == ["a\ufeff", "\ufeffb"]
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8)
    assert read(tmp_path / "a.txt") == []
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + b"ab\xff")
    with pytest.raises(ValueError, match="a.txt: not UTF-8 at byte 5;"):
        read(tmp_path / "a.txt")


def zstd(data):
    return pa.compress(data, codec="zstd", asbytes=True)


COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
every_compression = pytest.mark.parametrize("suffix", COMPRESS)
ROWS = [{"text": "one é"}, {"text": "two"}]
CONTENTS = {
    "text": "one é|two",
    "jsonl": "\n".join(map(json.dumps, ROWS)),
    "json": json.dumps(ROWS),
    "csv": "id,text\n1,one é\n2,two\n",
    "tsv": "id\ttext\n1\tone é\n2\ttwo\n",
}


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("suffix", ["", *COMPRESS])
def test_every_text_format_is_read_with_every_compression_and_with_a_byte_order_mark(tmp_path, kind, suffix, bom):
    file = tmp_path / f"a{suffix}"
    file.write_bytes(COMPRESS.get(suffix, bytes)((bom + CONTENTS[kind]).encode()))
    separator = "|" if kind == "text" else None
    assert list(read_file(file, kind, "text", separator)) == ["one é", "two"]


@every_compression
def test_concatenated_streams_are_one_file(tmp_path, suffix):
    file = tmp_path / f"a.txt{suffix}"
    file.write_bytes(b"".join(COMPRESS[suffix](part) for part in (b"", b"o", b"ne ", b"two")))
    assert read(file) == ["one two"]
    if suffix in (".gz", ".xz"):  # these may have padding
        file.write_bytes(COMPRESS[suffix](b"one") + bytes(8))
        assert read(file) == ["one"]


@every_compression
def test_a_damaged_compressed_file_is_named_in_one_line(tmp_path, suffix):
    file = tmp_path / f"a.jsonl{suffix}"
    data = COMPRESS[suffix]("".join(f'{{"text": "{i * i}"}}\n' for i in range(9999)).encode())
    cut_off = [data[:size] for size in (0, 1, 20, len(data) // 2, len(data) - 1)]
    for content in (*cut_off, b'{"text": "x"}\n', data + b"garbage", data + data[:-9]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"a\.jsonl{suffix}: damaged or incomplete {suffix} file \(.+\)") as error:
            read(file)
        assert "\n" not in str(error.value)


@every_compression
def test_a_large_compressed_file_is_never_in_memory_as_a_whole(tmp_path, suffix):
    file = tmp_path / f"a.txt{suffix}"
    file.write_bytes(COMPRESS[suffix]((b"a text, " * 128 + b"\n") * 1000) * 30)  # 30 MB
    tracemalloc.start()
    count = sum(1 for _ in read_file(file, "text", None, "\n"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 30_000
    assert peak < 15 * 2**20  # xz itself takes 8


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_utf16_is_refused_with_the_command_that_converts_it(tmp_path, kind, encoding):
    file = tmp_path / "a"
    file.write_bytes('{"text": "a text"}'.encode(encoding))
    shown = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    message = f"a: {shown}, must be UTF-8; convert it: `iconv -f {shown} -t UTF-8 OLD > NEW`$"
    with pytest.raises(ValueError, match=message):
        list(read_file(file, kind, "text", None))


@pytest.mark.parametrize("compress", [*COMPRESS.values(), lambda data: b"PK\x03\x04" + data])
def test_a_compressed_file_without_the_suffix_is_recognized(tmp_path, compress):
    path = tmp_path / "a.txt"
    path.write_bytes(compress(b'{"text": "a text"}\n' * 9))
    for format in ("text", "jsonl"):
        with pytest.raises(ValueError, match="a.txt: compressed; decompress it, or add its suffix"):
            list(read_file(path, format, "text", None))


def test_a_tar_archive_is_not_read_as_text(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(__file__)
    with pytest.raises(ValueError, match="a.tar.gz: a tar archive; unpack it first"):
        list(read_file(tmp_path / "a.tar.gz", "text", None, None))


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize(
    "content",
    [
        "[{a}, {b} ,\n{c}]",
        "\n[\n  {a},\n  {b},\n  {c}\n]\n\n",
        "{a}\n{b}\r\n\n{c}\n",
        "{a}{b} {c}",
    ],
)
def test_json_is_an_array_or_a_sequence_of_objects(tmp_path, content):
    texts = ['quotes \\ " and ]},[', "å漢🙂\n" * 30, ""]
    for ascii in (True, False):
        rows = [json.dumps({"n": [1.5e-7, True, None], "text": text}, ensure_ascii=ascii, indent=1) for text in texts]
        for name, row in zip("abc", rows, strict=True):
            content = content.replace(f"{{{name}}}", row)
        (tmp_path / "a.json").write_text(content, encoding="utf-8")
        assert read(tmp_path / "a.json") == texts


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("content", ["", " \n", "[]", "[ ]\n"])
def test_json_without_objects_has_no_documents(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    assert read(tmp_path / "a.json") == []


def test_a_large_json_array_is_never_in_memory_as_a_whole(tmp_path):
    (tmp_path / "a.json").write_text("[" + ",\n".join(['{"text": "' + "word " * 200 + '"}'] * 20_000) + "]")  # 20 MB
    tracemalloc.start()
    count = sum(1 for _ in read_file(tmp_path / "a.json", "json", "text", None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 12 * 2**20


def test_a_long_json_value_takes_linear_time(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "BLOCK_CHARS", 100)
    (tmp_path / "a.json").write_text('[{"text": "' + "x" * 10**6 + '"}]')
    scanned = []
    stream = readers._JsonStream((tmp_path / "a.json").open())
    decode = stream._decode
    monkeypatch.setattr(stream, "_decode", lambda text, at: (scanned.append(len(text)), decode(text, at))[1])
    assert stream.skip("[")
    assert len(stream.value()[0]["text"]) == 10**6
    assert sum(scanned) < 5 * 10**6


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"},\n{"text": }]', r"line 2: not JSON \(Expecting value\)"),
        ('[{"text": "a"},\n{"text": "b"}', r"line 2: not JSON \(expected , or \] after an object\)"),
        ('[{"text": "a"}\n{"text": "b"}]', r"line 2: not JSON \(expected , or \] after an object\)"),
        ('[{"text": "a"},\n]', r"line 2: not JSON \(Expecting value\)"),
        ('[{"text": "a"}]\n[]', r"line 2: not JSON \(unexpected text after the array\)"),
        ('{"text": "a"}\n{"text": "b', r"line 2: not JSON \(Unterminated string starting at\)"),
        ('{"text": "a"},\n{"text": "b"}', r"line 1: not JSON \(Expecting value\)"),
        ('["a", "b"]', r"line 1: expected an object, found str"),
        ("[12, 34]", r"line 1: expected an object, found int"),
        ('[{"text": "a"},\n{"body": 1}]', r"line 2: no field 'text'; found: 'body'"),
        ("[" * 100_000, r"line 1: not JSON \(.*recursion"),
        ('{"text": ' + "1" * 5000 + "}", r"line 1: not JSON \(Exceeds the limit"),
    ],
)
def test_json_errors_name_the_line(tmp_path, content, message):
    if len(content) > 9999 and readers.BLOCK_CHARS < 9:
        return  # slow, and tests nothing new
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=r"a\.json: " + message):
        read(tmp_path / "a.json")


def test_an_early_mistake_in_json_is_reported_without_reading_the_rest(monkeypatch):
    monkeypatch.setattr(readers, "BLOCK_CHARS", 100)
    text = io.StringIO('{"text": nonsense}' + " " * 82 + "x" * 900)
    with pytest.raises(json.JSONDecodeError):
        readers._JsonStream(text).value()
    assert text.tell() == 100


def test_tsv_fields_are_separated_by_tabs(tmp_path):
    with (tmp_path / "a.tsv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows([["text", "id"], *([text, i] for i, text in enumerate(TEXTS))])
    assert read(tmp_path / "a.tsv") == TEXTS
    (tmp_path / "a.tsv").write_text("text\tid\na, b\n")
    with pytest.raises(
        ValueError, match=r"a\.tsv: line 2: 1 fields, but 2 in .* quote text that contains .\\t. or newlines"
    ):
        read(tmp_path / "a.tsv")


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("text", ["t", "t"]),  # although pyarrow also returns text.x
        ("text.x", ["tx", "tx"]),
        ("s.t", ["exact", "exact"]),  # the column, although the struct s has a field t
        ("s.u", ["inner", ""]),
        ("s.v.w", ["deep", ""]),
        ("d.o.t", ["dot", "dot"]),
    ],
)
def test_a_field_with_a_dot_is_the_column_of_that_name_or_a_field_of_a_struct(tmp_path, field, expected):
    struct = pa.array([{"t": "inner t", "u": "inner", "v": {"w": "deep"}}, None])
    columns = {"text.x": ["tx"] * 2, "text": ["t"] * 2, "s": struct, "s.t": ["exact"] * 2, "d.o": [{"t": "dot"}] * 2}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", field) == expected
    rows = pa.table(columns).to_pylist()
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if row["s"]))
    assert read(tmp_path / "a.jsonl", field) == expected[:1]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("s.x", r"no field 's\.x'; found: 's\.t'"),
        ("s", "column 's' must be text, found struct<t: int64>"),
        ("s.t", r"column 's\.t' must be text, found int64"),
    ],
)
def test_a_struct_field_that_is_missing_or_not_text_is_refused(tmp_path, field, message):
    pq.write_table(pa.table({"s": [{"t": 1}]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: " + message):
        read(tmp_path / "a.parquet", field)


def test_compressed_parquet_is_refused(tmp_path):
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    with pytest.raises(ValueError, match=r"a\.parquet\.gz: not readable as Parquet"):
        read(tmp_path / "a.parquet.gz")
