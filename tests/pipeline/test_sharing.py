"""Results are shared through a remote, completely or not at all: the commands of docs/sharing.md, on localhost."""

import asyncio
import hashlib
import subprocess
import threading

import pytest
from transformers import AutoModelForCausalLM


class Folder:
    """A remote that is a folder of this machine, or of one that SSH reaches."""

    def __init__(self, path, url=None, **options):
        self.path, self.url, self.options = path, url or str(path), options

    def configure(self, repository):
        repository.dvc("remote", "add", "--local", "--default", "storage", self.url)
        for name, value in ({"verify": "true"} | self.options).items():
            repository.dvc("remote", "modify", "--local", "storage", name, value)
        return repository

    def read(self, md5):
        return (self.path / "files/md5" / md5[:2] / md5[2:]).read_bytes()

    def write(self, md5, content):
        file = self.path / "files/md5" / md5[:2] / md5[2:]
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)


class Bucket(Folder):
    """A remote in a bucket of S3."""

    def __init__(self, client, **options):
        super().__init__(None, "s3://bucket/tiny-lm", **options)
        self.client = client

    def read(self, md5):
        return self.client.get_object(Bucket="bucket", Key=f"tiny-lm/files/md5/{md5[:2]}/{md5[2:]}")["Body"].read()

    def write(self, md5, content):
        self.client.put_object(Bucket="bucket", Key=f"tiny-lm/files/md5/{md5[:2]}/{md5[2:]}", Body=content)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "storage")


@pytest.fixture
def s3():
    pytest.importorskip("dvc_s3")
    boto3, server = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    server = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint, keys = f"http://{host}:{port}", {"access_key_id": "someone", "secret_access_key": "secret"}
    client = boto3.client("s3", "us-east-1", endpoint_url=endpoint, **{f"aws_{key}": keys[key] for key in keys})
    client.create_bucket(Bucket="bucket")
    yield Bucket(client, endpointurl=endpoint, region="us-east-1", **keys)
    server.stop()


@pytest.fixture
def ssh(tmp_path):
    pytest.importorskip("sshfs")
    import asyncssh

    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(tmp_path / "key")
    key.write_public_key(tmp_path / "key.pub")
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(
        asyncssh.listen(
            "127.0.0.1", 0, sftp_factory=True, authorized_client_keys=str(tmp_path / "key.pub"),
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        )
    )  # fmt: skip
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    path = tmp_path / "storage"
    yield Folder(path, f"ssh://me@127.0.0.1:{server.get_port()}{path}", keyfile=str(tmp_path / "key"))
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.mark.parametrize("kind", ["s3", "ssh"])
def test_pushed_results_are_pulled_and_nothing_is_rebuilt(kind, request, repository):
    remote = request.getfixturevalue(kind)
    remote.configure(repository).dvc("push")
    assert repository.is_clean()  # where the remote is, and its keys, stay on this machine

    clone = remote.configure(repository.clone("clone"))
    clone.dvc("pull")
    assert clone.hashes() == repository.hashes()
    assert clone.is_clean()
    assert clone.ran(clone.dvc("repro")) == []

    weights = repository.hashes()["models/export/model.safetensors"]
    content = bytearray(remote.read(weights))
    content[-1] ^= 1
    remote.write(weights, bytes(content))
    other = remote.configure(repository.clone("other"))
    assert "ERROR: failed to pull data from the cloud" in other.fails("dvc", "pull")
    assert weights not in other.hashes().values()
    assert not (other.path / "models/export").exists()


def test_single_outputs_and_those_that_repro_needs_can_be_fetched(folder, repository):
    folder.configure(repository).dvc("push")
    clone = folder.configure(repository.clone("clone"))
    clone.dvc("pull", "models/export")
    model = AutoModelForCausalLM.from_pretrained(clone.path / "models/export")
    assert model.config.num_key_value_heads == 2
    assert not (clone.path / "data/corpus").exists()

    output = clone.dvc("repro", "--pull")
    assert clone.ran(output) == []
    assert clone.hashes() == repository.hashes()
    assert clone.is_clean()


def test_a_damaged_remote_damages_nothing_locally_and_is_repaired(folder, bench, tmp_path):
    repository = folder.configure(bench.repository)
    bench.preset("export.dtype=bfloat16")
    assert bench.start("export")["code"] == 0
    repository.dvc("commit", "--force", "export")
    repository.git("checkout", "-qb", "half")
    repository.git("commit", "-qm", "half", "--", "params.yaml", "dvc.lock")
    weights = repository.hashes()["models/export/model.safetensors"]
    repository.dvc("push", "--all-branches")
    clone = folder.configure(repository.clone("clone"))
    clone.git("checkout", "-q", "main")
    clone.dvc("pull")
    original = clone.hashes()

    content = folder.read(weights)
    for damaged in (bytes([*content[:-1], content[-1] ^ 1]), None):
        folder.write(weights, damaged)
        clone.git("checkout", "-q", "half")
        assert "ERROR: failed to pull data from the cloud" in clone.fails("dvc", "pull")
        assert weights not in clone.hashes().values()
        clone.git("checkout", "-q", "main")
        clone.dvc("checkout")
        assert clone.hashes() == original
        assert clone.is_clean()

    # What cannot be fetched can be built, and who has everything fills a fresh folder.
    clone.git("checkout", "-q", "half")
    assert "models/export" in clone.fails("dvc", "checkout")  # puts in its place what did arrive
    assert clone.ran(clone.dvc("repro")) == ["export"]
    assert clone.hashes()["models/export/model.safetensors"] == weights
    fresh = Folder(tmp_path / "fresh")
    repository.dvc("remote", "modify", "--local", "storage", "url", fresh.url)
    repository.dvc("push", "--all-branches")
    assert fresh.read(weights) == content


def test_a_missing_remote_is_an_error(folder, repository):
    assert "no remote" in repository.fails("dvc", "push")
    folder.configure(repository).dvc("push")
    clone = folder.configure(repository.clone("clone"))
    folder.path.rename(folder.path.with_name("elsewhere"))
    output = clone.fails("dvc", "pull")
    assert "Some of the cache files do not exist neither locally nor on remote" in output
    folder.path.with_name("elsewhere").rename(folder.path)
    clone.dvc("pull")
    assert clone.hashes() == repository.hashes()


def test_a_full_remote_is_an_error_and_a_later_push_sends_the_rest(folder, repository):
    """On a file system of 64 kB, which only root may mount."""
    folder.path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder.path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("not allowed to mount")
    try:
        folder.configure(repository)
        before = repository.hashes()
        output = repository.fails("dvc", "push")
        assert "No space left on device" in output
        assert repository.hashes() == before
        assert repository.is_clean()
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder.path)], check=True)
        repository.dvc("push")
        clone = folder.configure(repository.clone("clone"))
        clone.dvc("pull")
        assert clone.hashes() == before
    finally:
        subprocess.run(["umount", str(folder.path)], check=True)


def test_experiments_and_released_models_are_shared(folder, repository, tmp_path):
    repository.git("init", "-q", "--bare", str(tmp_path / "origin.git"))
    repository.git("remote", "add", "origin", str(tmp_path / "origin.git"))
    repository.git("tag", "-a", "model@v1.0.0", "-m", "the first")
    repository.git("push", "-q", "origin", "main", "--tags")
    folder.configure(repository).dvc("push")
    weights = repository.hashes()["models/export/model.safetensors"]
    repository.dvc("exp", "run", "--name", "half", "-S", "export.dtype=bfloat16")
    variant = repository.hashes()
    repository.dvc("exp", "push", "origin", "half")

    clone = folder.configure(repository.clone("clone", str(tmp_path / "origin.git")))
    assert "half" in clone.dvc("exp", "list", "origin")
    clone.dvc("exp", "pull", "origin", "half")
    clone.dvc("exp", "apply", "half")
    clone.dvc("pull")
    assert clone.hashes() == variant

    # A released model, anywhere, with neither this repository nor its configuration.
    released = tmp_path / "released"
    options = ("--remote", "storage", "--remote-config", f"url={folder.path}", "verify=true")
    repository.dvc("artifacts", "get", str(tmp_path / "origin.git"), "model", *options, "-o", str(released))
    assert hashlib.md5((released / "model.safetensors").read_bytes()).hexdigest() == weights
