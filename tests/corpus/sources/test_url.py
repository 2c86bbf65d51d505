"""Files behind URLs: on an HTTP server of the test's own, which counts bytes and fails on request, on emulators of
cloud storages, and on a fake Hub.
"""

import gzip
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote
from urllib.request import Request, urlopen

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import texts_of
from hub import Hub, Repository

from tiny_lm.corpus import remote
from tiny_lm.corpus.mixture import DATASETS
from tiny_lm.corpus.remote import RemoteFile, list_url
from tiny_lm.corpus.sources import local
from tiny_lm.executor import InProcess
from tiny_lm.io.params import load_params


class Server(ThreadingHTTPServer):
    """`files` by path. The next `drops` answers with a body end in the middle, the next `failures` looks no answer;
    `ranges`, `etags` and `sizes` can be off.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.drops = self.failures = self.sent = self.requests = 0
        self.ranges = self.etags = self.sizes = True
        self.on_range = lambda: None
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        if self.server.failures > 0:
            self.server.failures -= 1
            self.close_connection = True
            return
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        server = self.server
        data = server.files.get(self.path)
        if data is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if server.ranges else None
        part = data[int(asked[1]) : int(asked[2]) + 1] if asked else data
        self.send_response(206 if asked else 200)
        if server.sizes:
            self.send_header("Content-Length", str(len(part)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        if server.etags:
            self.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
        self.end_headers()
        if body:
            server.requests += 1
            if server.drops > 0:
                server.drops -= 1
                part = part[: len(part) // 2]
                self.close_connection = True
            self.wfile.write(part)
            server.sent += len(part)
            server.on_range()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE_SECONDS", 0.001)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def load(*urls, **changes):
    return load_params("dataset", {"source": "url", "urls": list(urls)} | changes, DATASETS)


def read(*urls, **changes):
    return texts_of(load(*urls, **changes).open(False, InProcess()).train)


def test_a_file_that_two_urls_find_is_read_once(server):
    server.files["/a.jsonl"] = jsonl(3)
    url = f"{server.url}/a.jsonl"
    source = load(url, url, deduplicate=False).open(False, InProcess())
    assert len(texts_of(source.train)) == 3
    assert len(source.provenance["files"]) == 1


def jsonl(count, start=0):
    return "".join(json.dumps({"text": f"document {i} é🙂"}) + "\n" for i in range(start, start + count)).encode()


def documents(count, start=0):
    return [f"document {i} é🙂" for i in range(start, start + count)]


def parquet(texts, rows):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": texts, "other": ["x" * 1000] * len(texts)}), sink, row_group_size=rows)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ([], r"urls = \[\]: must be a list, such as \[s3://bucket/texts/\*\.jsonl\]"),
        (["data/raw/a.txt"], "urls = 'data/raw/a.txt': must be a URL, such as s3://bucket"),
        (["://"], "urls = '://': must be a URL"),
    ],
)
def test_invalid_urls_are_refused(urls, message):
    with pytest.raises(ValueError, match=f"^dataset.{message}"):
        load(*urls)


def test_files_of_each_format_are_read_in_order_and_their_versions_recorded(server):
    files = {
        "/a.jsonl": jsonl(3), "/b.txt.gz": gzip.compress(b"a text"), "/c.parquet": parquet(["p", "q"], 1),
        "/d.csv": b"text\none\ntwo\n",
    }  # fmt: skip
    server.files |= files
    urls = [server.url + path for path in files]
    source = load(*urls).open(False, InProcess())
    assert texts_of(source.train) == [*documents(3), "a text", "p", "q", "one", "two"]
    assert source.provenance == {
        "source": "url",
        "files": [
            {"url": url, "format": kind, "bytes": len(data), "version": hashlib.md5(data).hexdigest()}
            for url, kind, data in zip(urls, ("jsonl", "text", "parquet", "csv"), files.values(), strict=True)
        ],
    }
    server.files["/image.png"] = b"x"
    assert load(urls[0], f"{server.url}/image.png").open(False, InProcess()).not_read == (f"{server.url}/image.png",)
    with pytest.raises(
        ValueError, match=r"no reader for the suffix of http://.*/image\.png; set dataset\.format to text"
    ):
        read(f"{server.url}/image.png")


def test_format_field_and_separator_are_those_of_local_files(server):
    server.files["/a"] = b"one--two--three"
    assert read(f"{server.url}/a", format="text", field=None, separator="--") == ["one", "two", "three"]
    server.files["/b.jsonl"] = b'{"body": "x"}\n'
    assert read(f"{server.url}/b.jsonl", field="body") == ["x"]
    with pytest.raises(
        ValueError, match=r"^http://.*/b\.jsonl: line 1: no field 'text'; found: 'body'; set dataset\.field"
    ):
        read(f"{server.url}/b.jsonl")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_large_files_are_read_in_parts_by_any_process(server, monkeypatch, kind):
    monkeypatch.setattr(local, "PART_BYTES", 200_000 if kind == "jsonl" else 50_000)
    monkeypatch.setattr(remote, "MIN_RANGE", 4096)
    texts = documents(50_000)
    server.files[f"/a.{kind}"] = data = jsonl(50_000) if kind == "jsonl" else parquet(texts, 2000)
    parts = list(load(f"{server.url}/a.{kind}").open(False, InProcess()).train)
    assert len(parts) >= 8
    with ThreadPoolExecutor(2) as pool:
        read_apart = list(pool.map(lambda part: list(part.read()), reversed(parts)))
    assert [text for part in reversed(read_apart) for text in part] == texts
    server.sent = 0
    some = list(parts[5].read())
    assert 0 < len(some) < 10_000
    assert server.sent < len(data) / 2  # the rest of the file is not downloaded


def test_memory_holds_one_range(server, monkeypatch):
    monkeypatch.setattr(remote, "MAX_RANGE", 2**19)
    server.files["/a.jsonl"] = jsonl(100_000)
    largest = 0
    original = RemoteFile.read_range

    def read_range(self, start, end):
        nonlocal largest
        largest = max(largest, end - start)
        return original(self, start, end)

    monkeypatch.setattr(RemoteFile, "read_range", read_range)
    assert len(read(f"{server.url}/a.jsonl")) == 100_000
    assert largest == 2**19


@pytest.mark.parametrize("drops", [1, remote.ATTEMPTS - 1])
def test_a_connection_that_drops_is_tried_again(server, drops):
    server.files["/a.jsonl"] = jsonl(2000)
    files = load(f"{server.url}/a.jsonl").open(False, InProcess())
    server.drops = drops
    assert texts_of(files.train) == documents(2000)
    assert (server.drops, server.requests) == (0, drops + 1)


def test_a_look_at_a_file_without_an_answer_is_tried_again(server):
    """fsspec looks twice, with HEAD and GET, and says that there is no such file."""
    server.files["/a.jsonl"] = jsonl(20)
    server.failures, server.drops = 3, 1
    assert read(f"{server.url}/a.jsonl") == documents(20)


def test_a_connection_that_keeps_dropping_is_one_line(server):
    server.files["/a.jsonl"] = jsonl(2000)
    server.drops = 10**6
    with pytest.raises(ValueError, match=rf"^{server.url}/a\.jsonl: not readable after 5 attempts \(") as error:
        read(f"{server.url}/a.jsonl")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("etags", [True, False])
def test_a_file_that_changes_while_it_is_read_is_one_line(server, etags, monkeypatch):
    """Before its first part, between two parts, or within one; without ETags, if its size changes."""
    monkeypatch.setattr(local, "PART_BYTES", 20_000)
    server.etags = etags
    url = f"{server.url}/a.jsonl"
    for moment in range(3):
        server.files["/a.jsonl"] = jsonl(2000)
        parts = list(load(url).open(False, InProcess()).train)
        assert len(parts) > 2

        def change():
            server.files["/a.jsonl"] = jsonl(1990 if not etags else 2000, start=5000)

        what = "version [0-9a-f]{32}, now [0-9a-f]{32}" if etags else r"size \d+, now \d+"
        if moment == 0:
            change()
        elif moment == 1:
            list(parts[0].read())
            change()
        else:
            server.on_range = change
        with pytest.raises(ValueError, match=rf"^{url}: changed while the corpus was made \({what}\); run the same"):
            texts_of(parts)
        server.on_range = lambda: None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranges": False}, "the server ignores ranges; download the file, and use source: local"),
        ({"sizes": False}, "the server does not report its size; download the file, and use source: local"),
        ({"files": {}}, r"not readable \(ClientResponseError: 404, "),
    ],
)
def test_a_server_that_cannot_serve_parts_is_one_line(server, change, message):
    server.files["/a.jsonl"] = jsonl(20_000)
    vars(server).update(change)
    with pytest.raises(ValueError, match=rf"^{server.url}/a\.jsonl: {message}") as error:
        read(f"{server.url}/a.jsonl")
    assert "\n" not in str(error.value)


def test_a_large_file_is_not_read_whole_to_find_that_a_server_ignores_ranges(server):
    server.files["/a.jsonl"] = jsonl(1000) * 1000
    server.ranges = False
    with pytest.raises(ValueError, match="the server ignores ranges"):
        read(f"{server.url}/a.jsonl")
    assert server.sent < len(server.files["/a.jsonl"]) / 2  # answers that were not cut off


@pytest.mark.parametrize(("protocol", "package"), [("gs", "gcsfs"), ("abfs", "adlfs")])
def test_a_missing_package_is_named(protocol, package):
    if find_spec(package):
        pytest.skip("installed")
    with pytest.raises(ValueError, match=rf"^{protocol}://a/b: {protocol}:// cannot be read \(.*{package}") as error:
        list_url(f"{protocol}://a/b")
    assert "\n" not in str(error.value)


def test_an_unknown_protocol_is_one_line():
    with pytest.raises(ValueError, match=r"^xyz://a: .*xyz") as error:
        list_url("xyz://a")
    assert "\n" not in str(error.value)


# Storages of clouds: a function that stores a file, and the beginning of its URLs. The rest is as users set it, by
# environment variables.


@contextmanager
def ending(stop):
    try:
        yield
    finally:
        stop()


@contextmanager
def s3():
    """moto's server."""
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    variables = {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
    }  # fmt: skip
    with ending(server.stop), patch.dict(os.environ, variables):
        client = boto3.client("s3")
        client.create_bucket(Bucket="texts")
        yield lambda name, data: client.put_object(Bucket="texts", Key=name, Body=data), "s3://texts"


@contextmanager
def gs():
    """gcp-storage-emulator."""
    pytest.importorskip("gcsfs")
    server = pytest.importorskip("gcp_storage_emulator.server").create_server("127.0.0.1", 0, True, "texts")
    server.start()
    endpoint = f"http://127.0.0.1:{server._api._httpd.server_port}"

    def put(name, data):
        url = f"{endpoint}/upload/storage/v1/b/texts/o?uploadType=media&name={quote(name, safe='')}"
        urlopen(Request(url, data, {"Content-Type": "application/octet-stream"}, method="POST")).close()

    variables = {"STORAGE_EMULATOR_HOST": endpoint, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    with ending(server.stop), patch.dict(os.environ, variables):
        yield put, "gs://texts"


@contextmanager
def abfs():
    """Azurite, which `npm install --global azurite` installs."""
    pytest.importorskip("adlfs")
    if not (azurite := shutil.which("azurite-blob")):
        pytest.skip("no azurite-blob")
    from azure.storage.blob import BlobServiceClient

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [azurite, "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck", "--blobPort", str(port)]
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # Azurite's own
    account = f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={key};"
    connection = f"{account}BlobEndpoint=http://127.0.0.1:{port}/devstoreaccount1;"
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        ending(server.kill),
        patch.dict(os.environ, {"AZURE_STORAGE_CONNECTION_STRING": connection}),
    ):
        assert any("successfully listens" in line for line in server.stdout)
        container = BlobServiceClient.from_connection_string(connection).create_container("texts")
        yield lambda name, data: container.upload_blob(name, data, overwrite=True), "abfs://texts"


@pytest.mark.parametrize("storage", [s3, gs, abfs])
def test_a_storage_is_listed_read_in_parts_and_checked(storage, monkeypatch):
    monkeypatch.setattr(local, "PART_BYTES", 20_000)
    monkeypatch.setattr(remote, "MIN_RANGE", 4096)
    with storage() as (put, texts):
        for name, start in (("en/b.jsonl", 3000), ("en/a.jsonl", 0), ("en/deep/c.jsonl", 6000), ("fr/d.jsonl", 9000)):
            put(name, jsonl(1000, start))
        both = documents(1000) + documents(1000, 3000)
        assert read(f"{texts}/en/*.jsonl") == both
        of_folder = both + documents(1000, 6000)
        assert read(f"{texts}/en/") == read(f"{texts}/en") == read(f"{texts}/en/**") == of_folder
        assert read(f"{texts}/fr/d.jsonl", f"{texts}/en/a.jsonl") == documents(1000, 9000) + documents(1000)
        parts = list(load(f"{texts}/fr/d.jsonl").open(False, InProcess()).train)
        assert len(parts) > 1
        put("fr/d.jsonl", jsonl(1000, 8000))
        with pytest.raises(ValueError, match=rf"^{texts}/fr/d\.jsonl: changed while the corpus was made \(version "):
            texts_of(parts)
        assert read(f"{texts}/fr/d.jsonl") == documents(1000, 8000)
        for url in (f"{texts}/xx/*.jsonl", f"{texts}/xx/"):
            with pytest.raises(ValueError, match=rf"^{re.escape(url)}: no"):
                read(url)


ON_THE_HUB = """
import json, sys
from corpora import texts_of
from tiny_lm.corpus.mixture import DATASETS
from tiny_lm.corpus.sources import local
from tiny_lm.executor import InProcess
from tiny_lm.io.params import load_params

local.PART_BYTES = 20_000
results = []
for urls in json.loads(sys.argv[1]):
    source = load_params("dataset", {"source": "url", "urls": urls}, DATASETS).open(False, InProcess())
    parts = list(source.train)
    results.append([len(parts), texts_of(parts), source.provenance["files"]])
print(json.dumps(results))
"""


def test_the_hub_is_listed_and_read_in_parts(tmp_path):
    """In a process of its own, because huggingface_hub reads the environment when it is imported."""
    new, old = "a" * 40, "b" * 40
    files = {"en/a.jsonl": jsonl(1000), "en/b.jsonl": jsonl(1000, 3000), "README.md": b"# texts"}
    repository = Repository({new: files, old: {"en/a.jsonl": jsonl(10)}}, {"main": new, "old": old})
    urls = [
        ["hf://datasets/own/texts/en/*.jsonl"],
        ["hf://datasets/own/texts/en/"],
        ["hf://datasets/own/texts@old/en/a.jsonl"],
    ]
    with Hub({"own/texts": repository}) as hub:
        variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", ON_THE_HUB, json.dumps(urls)], env=kept | variables | {"PYTHONPATH": path},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pattern, folder, branch = json.loads(done.stdout)
    assert pattern == folder
    assert pattern[0] > 2
    assert pattern[1] == documents(1000) + documents(1000, 3000)
    assert pattern[2] == [
        {"url": f"hf://datasets/own/texts/{name}", "format": "jsonl", "bytes": len(files[name]),
         "version": hashlib.sha1(files[name]).hexdigest()} for name in ("en/a.jsonl", "en/b.jsonl")
    ]  # fmt: skip
    assert branch[1] == documents(10)
