"""The model card: what it shows, and that its front matter is YAML."""

import yaml

from tiny_lm.export.card import model_card


def test_shows_params_metrics_and_provenance() -> None:
    card = model_card(
        architecture="llama3",
        parameters=4_196_608,
        params={"model": {"d_model": 256, "d_ff": None}, "export": {"dtype": "a|b"}},
        step=1500,
        tokens_seen=6_144_000,
        metrics={"loss": 1.23456789, "by_split": {"val": 2}},
        provenance={"corpus": "abc"},
    )
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "transformers"
    assert "# llama3, 4.2 M parameters" in card
    assert "1,500 steps, 6,144,000 tokens" in card
    for row in (
        "d_model | 256",
        "d_ff | null",
        "dtype | a\\|b",
        "loss | 1.23457",
        "by_split.val | 2",
        "corpus | `abc`",
    ):
        assert f"| {row} |" in card


def test_has_no_empty_tables() -> None:
    card = model_card(
        architecture="gpt2", parameters=1, params={}, step=1, tokens_seen=1, metrics={}, provenance={}
    )  # fmt: skip
    assert "|---|" not in card
