"""Streams and sites in words, and told apart where a study reads one stream at several sites."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from dmcore.specs import CROSS_SITES, SITES
from dmcore.ui.grid import choose_nearest
from dmcore.ui.link import read_wish, write_params
from dmcore.words.names import architecture_name
from dmcore.words.streams import SITE_PHRASES, SITE_SUFFIXES, site_phrase, stream_name, told_apart
from tests.pages.fake_results import write_fake_study


def records(*pairs: tuple[str, str]) -> pl.DataFrame:
    columns = {"site": [site for site, _ in pairs], "stream": [stream for _, stream in pairs]}
    same = {"d_sae": [64] * len(pairs), "label": ["topk"] * len(pairs), "l0": [float(k) for k in range(len(pairs))]}
    return pl.DataFrame({**columns, **same})


def test_a_stream_that_is_read_at_one_site_keeps_its_name() -> None:
    found = told_apart(records(("blocks.0.hook_resid_post", "residual"), ("blocks.0.attn.hook_z", "attention")))
    assert found["stream"].to_list() == ["residual", "attention"]
    assert len(told_apart(records())) == 0


def test_a_stream_that_is_read_at_several_sites_names_them() -> None:
    found = told_apart(
        records(
            ("blocks.0.hook_resid_post", "residual"),
            ("blocks.4.hook_resid_pre", "residual"),
            ("blocks.0.hook_mlp_out", "mlp"),
        )
    )
    assert found["stream"].to_list() == ["residual post", "residual pre", "mlp"]


def test_seeds_of_one_sae_have_links_of_their_own() -> None:
    hook = "blocks.0.hook_resid_post"
    rows = [(64, "topk", 16.0), (64, "topk", 16.00001), (128, "topk", 16.0), (64, "jumprelu", 16.0), (64, "topk", 16.2)]
    table = pl.DataFrame(
        [
            {
                "site": hook,
                "stream": "residual",
                "layer": 0,
                "d_sae": d_sae,
                "label": label,
                "l0": l0,
                "summary_key": str(k),
            }
            for k, (d_sae, label, l0) in enumerate([*rows, rows[0]])
        ]
    )
    found = told_apart(table)
    assert found["label"].to_list() == ["topk", "topk #2", "topk", "jumprelu", "topk", "topk #3"]
    assert [architecture_name(label) for label in found["label"][:2]] == ["TopK", "TopK (2)"]
    for record in found.to_dicts():
        wish, bad = read_wish(write_params("s", record))
        assert (choose_nearest(found, wish).record["summary_key"], bad) == (record["summary_key"], ())


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        ("residual", "Residual"),
        ("mlp", "MLP"),
        ("residual pre", "Residual before"),
        ("decoder mlp", "Decoder MLP"),
        ("attention z", "Attention z"),
    ],
)
def test_streams_in_words(stream: str, words: str) -> None:
    assert stream_name(stream) == words


def test_what_was_done_to_the_models_weights_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamlit.testing.v1 import AppTest

    from dmcore.specs import ModelSpec
    from dmcore.ui import reads

    model = ModelSpec(id="openai-community/gpt2", processing=("center_writing_weights",))
    write_fake_study(tmp_path, n_saes=2, model=model.described)
    monkeypatch.setenv("DMCORE_CACHE", str(tmp_path))
    reads.forget()
    at = AppTest.from_file(str(Path(__file__).parents[2] / "app.py"), default_timeout=60).run()
    reads.forget()
    assert not at.exception
    (caption,) = [one.value for one in at.caption if "gpt2" in one.value]
    assert "openai\\-community/gpt2 \\(writing weights centred\\)" in caption


def test_every_site_has_its_words() -> None:
    assert set(SITE_PHRASES) == set(SITE_SUFFIXES) == {*SITES, *CROSS_SITES}
    assert site_phrase({"site": "blocks.2.hook_resid_post"}) == "the residual stream after layer 2"
    assert site_phrase({"site": "decoder.1.hook_mlp_out"}) == "the MLP output of layer 1 of the decoder"
