from pathlib import Path

import pytest
import torch

from tiny_lm.shards.stream import TokenStream
from tiny_lm.training.dataset import BinTokenDataset


@pytest.mark.parametrize(("context_length", "stride"), [(16, None), (16, 16), (16, 1), (16, 7), (300, 100), (1500, 40)])
def test_windows_are_those_of_the_naive_loop(
    context_length: int, stride: int | None, make_shards, stories, stream_of, tmp_path: Path
) -> None:
    train = stories(40)
    make_shards(train)
    dataset = BinTokenDataset(TokenStream(tmp_path / "shards", "train"), context_length, stride)
    tokens = torch.tensor(stream_of(train))
    step = stride or context_length
    starts = [s for s in range(0, len(tokens), step) if s + context_length + 1 <= len(tokens)]
    assert len(dataset) == len(starts)
    x, y = dataset.__getitems__(list(range(len(dataset))))
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(x, torch.stack([tokens[s : s + context_length] for s in starts]))
    assert torch.equal(y, torch.stack([tokens[s + 1 : s + context_length + 1] for s in starts]))


def test_targets_are_the_inputs_shifted_by_one(make_shards, stories, tmp_path: Path) -> None:
    make_shards(stories(30))
    dataset = BinTokenDataset(TokenStream(tmp_path / "shards", "train"), 64, None)
    x, y = dataset[3]
    assert x.shape == y.shape == (64,)
    assert torch.equal(x[1:], y[:-1])
    assert y[-1] == dataset[4][0][0]  # the next window begins with the last target


def test_a_batch_is_its_items(make_shards, stories, tmp_path: Path) -> None:
    make_shards(stories(30))
    dataset = BinTokenDataset(TokenStream(tmp_path / "shards", "train"), 32, 5)
    indices = [7, 0, len(dataset) - 1, 7]
    x, y = dataset.__getitems__(indices)
    assert x.is_contiguous()
    assert y.is_contiguous()
    for row, index in enumerate(indices):
        assert torch.equal(x[row], dataset[index][0])
        assert torch.equal(y[row], dataset[index][1])


def test_an_index_out_of_range_is_an_index_error(make_shards, tmp_path: Path) -> None:
    make_shards(["a" * 100])
    dataset = BinTokenDataset(TokenStream(tmp_path / "shards", "train"), 32, None)
    assert torch.equal(dataset[-1][0], dataset[len(dataset) - 1][0])
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_a_corpus_of_one_window_has_one(make_shards, tmp_path: Path) -> None:
    make_shards(["a" * 31])
    assert len(BinTokenDataset(TokenStream(tmp_path / "shards", "train"), 32, None)) == 1


def test_a_corpus_smaller_than_a_window_says_so_in_numbers(make_shards, tmp_path: Path) -> None:
    make_shards(["a" * 30])
    message = r"^model.context_length = 32: .*train has only 32 tokens, under one window of 33; choose at most 31"
    with pytest.raises(ValueError, match=message):
        BinTokenDataset(TokenStream(tmp_path / "shards", "train"), 32, None)


def test_uint32_shards_give_the_same_windows(make_shards, stories, tmp_path: Path) -> None:
    make_shards(stories(20), folder="small")
    make_shards(stories(20), folder="large", vocab_size=70_000)
    small, large = (BinTokenDataset(TokenStream(tmp_path / name, "train"), 50, 9) for name in ("small", "large"))
    every = list(range(len(small)))
    assert torch.equal(small.__getitems__(every)[0], large.__getitems__(every)[0])
