"""Train on a subset of the shards and restore the full set, with the commands of docs/tools.md."""

import re
from pathlib import Path

from tiny_lm.io.params import read_yaml

ROOT = Path(__file__).parents[2]


def test_a_model_is_trained_on_a_subset_and_the_full_set_is_restored(repository):
    section = (ROOT / "docs/tools.md").read_text(encoding="utf-8").partition("## Train on a smaller data set\n")[2]
    make, train, restore = re.findall(r"^```bash\n(.*?)^```", section.partition("\n## ")[0], re.M | re.S)
    before = repository.hashes()
    repository.tiny_lm(*make.splitlines()[0].replace("1M", "2000").split()[1:])

    output = repository.run("bash", "-ec", train)
    assert repository.ran(output) == ["train"]
    stages = read_yaml(repository.path / "dvc.lock")["stages"]
    small, seen = stages["shards"]["outs"][0], stages["train"]["deps"][0]
    assert (seen["path"], seen["md5"]) == ("data/shards", small["md5"])
    trained = repository.hashes()
    assert trained["data/shards/train/00000.bin"] != before["data/shards/train/00000.bin"]
    assert trained["models/checkpoint/model.safetensors"] != before["models/checkpoint/model.safetensors"]

    repository.run("bash", "-ec", restore)
    data = {path: md5 for path, md5 in before.items() if path.startswith("data")}
    assert repository.hashes() == trained | data  # its model stays
    repository.git("diff", "--exit-code", "HEAD", "--", "dvc.lock")
    repository.tiny_lm("restore", "train")
    assert repository.hashes() == before
    assert repository.is_clean()
