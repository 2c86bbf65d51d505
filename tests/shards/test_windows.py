import itertools
from pathlib import Path

import pytest
import torch

from tiny_lm.shards.stream import TokenStream
from tiny_lm.shards.windows import DocumentWindows

DOCUMENTS = ["", "abc", "x" * 7, "y" * 8, "z" * 40, "é😀", "w" * 14, "v" * 15, "u" * 16]


def pairs_of(batches: DocumentWindows) -> dict[int, list[tuple[int, ...]]]:
    """For each document, the (position in its window, input, target) triples of all its windows."""
    found: dict[int, list[tuple[int, ...]]] = {}
    for x, y, document in (batches[i] for i in range(len(batches))):
        for row in range(len(x)):
            kept = (y[row] != -100).nonzero().flatten().tolist()
            assert kept == list(range(len(kept)))  # padding is on the right
            assert (x[row, len(kept) :] == 256).all()
            found.setdefault(int(document[row]), []).append(
                tuple(zip(x[row, kept].tolist(), y[row, kept].tolist(), strict=True))
            )
    return found


def naive(tokens: list[int], context_length: int) -> list[tuple[tuple[int, int], ...]]:
    pairs = list(itertools.pairwise(tokens))
    return [tuple(pairs[i : i + context_length]) for i in range(0, len(pairs), context_length)]


@pytest.mark.parametrize("context_length", [1, 4, 8, 16, 17, 100])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_every_target_of_every_document_counts_once(
    context_length: int, batch_size: int, make_shards, stream_of, tmp_path: Path
) -> None:
    make_shards(["a"], DOCUMENTS)
    batches = DocumentWindows(TokenStream(tmp_path / "shards", "val"), context_length, batch_size, None)
    found = pairs_of(batches)
    for i, text in enumerate(DOCUMENTS):
        assert sorted(found[i]) == sorted(naive(stream_of([text]), context_length))
    targets = sum(int((y != -100).sum()) for _, y, _ in (batches[i] for i in range(len(batches))))
    assert targets == sum(len(text.encode()) + 1 for text in DOCUMENTS)


def test_no_batch_exceeds_the_context_or_the_batch_size(make_shards, stories, tmp_path: Path) -> None:
    make_shards(["a"], stories(50))
    batches = DocumentWindows(TokenStream(tmp_path / "shards", "val"), 30, 8, None)
    shapes = [batches[i].x.shape for i in range(len(batches))]
    assert all(rows <= 8 and width <= 30 for rows, width in shapes)
    assert {rows for rows, _ in shapes[:-1]} == {8}
    assert shapes[0][1] == 30
    assert [width for _, width in shapes] == sorted((width for _, width in shapes), reverse=True)


def test_windows_of_similar_length_share_a_batch(make_shards, tmp_path: Path) -> None:
    make_shards(["a"], ["a" * 3, "b" * 200] * 10)
    batches = DocumentWindows(TokenStream(tmp_path / "shards", "val"), 256, 10, None)
    assert [tuple(batches[i].x.shape) for i in range(len(batches))] == [(10, 208), (10, 16)]
    assert batches[0].document.tolist() == list(range(1, 20, 2))  # ties stay in order


@pytest.mark.parametrize("documents", [1, 4, 9, 100])
def test_a_limit_takes_the_first_documents(documents: int, make_shards, tmp_path: Path) -> None:
    make_shards(["a"], DOCUMENTS)
    batches = DocumentWindows(TokenStream(tmp_path / "shards", "val"), 8, 4, documents)
    assert sorted(pairs_of(batches)) == list(range(min(documents, 9)))
    first = DOCUMENTS[:documents]
    assert batches.lengths.tolist() == [[len(t.encode()) + 2, len(t), len(t.encode())] for t in first]


def test_the_batches_are_the_same_every_time(make_shards, stories, tmp_path: Path) -> None:
    make_shards(["a"], stories(30))
    one, two = (DocumentWindows(TokenStream(tmp_path / "shards", "val"), 64, 4, None) for _ in range(2))
    assert len(one) == len(two)
    for i in range(len(one)):
        assert all(torch.equal(a, b) for a, b in zip(one[i], two[i], strict=True))


def test_batches_end_with_an_index_error(make_shards, tmp_path: Path) -> None:
    make_shards(["a"], ["abc"])
    batches = DocumentWindows(TokenStream(tmp_path / "shards", "val"), 8, 4, None)
    assert len(list(batches)) == len(batches) == 1
