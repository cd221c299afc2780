"""The catalogue: what is read from names agrees with SAELens's own readers, and what is unknown stays unknown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from dmcore.errors import SpecError
from dmcore.sources import catalogue
from dmcore.sources.catalogue import (
    CATALOGUE,
    check_release,
    filter_catalogue,
    find_saes,
    nearest_releases,
    read_catalogue,
    why_unusable,
)
from dmcore.sources.catalogue_facts import facts
from dmcore.specs import parse_hook, stream_of

PAPER = {
    "16k": (11, 20, 36, 58, 68, 138, 310, 408),
    "1m": (11, 19, 34, 57, 101, 193),
}
"""Of those that the paper used, the ones that the registry lists."""


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    root = tmp_path_factory.mktemp("cache")
    first = read_catalogue(root)
    assert first.equals(read_catalogue(root))  # from the stored table
    assert [path.suffix for path in (root / "catalogue").iterdir()] == [".parquet"]
    return first


@pytest.mark.parametrize(
    ("release", "n"),
    [
        ("gemma-scope-9b-pt-res", 536),
        ("gemma-scope-9b-pt-res-canonical", 90),
        ("gemma-scope-2b-pt-res", 316),
        ("gemma-scope-2b-pt-res-canonical", 58),
        ("gpt2-small-res-jb", 13),
        *((f"llama_scope_lx{site}_{factor}x", 32) for site in "rma" for factor in (8, 32)),
    ],
)
def test_releases_have_the_saes_that_were_published(frame: pl.DataFrame, release: str, n: int) -> None:
    assert filter_catalogue(frame, release).height == n


def test_the_table_has_its_columns_and_whole_names(frame: pl.DataFrame) -> None:
    assert dict(frame.schema) == CATALOGUE
    assert frame.height == 13_857
    assert frame.select("release", "id").is_unique().all()
    assert not frame["model"].is_null().any()


@pytest.mark.parametrize("width", PAPER)
def test_the_papers_saes_exist_with_their_l0(frame: pl.DataFrame, width: str) -> None:
    names = [("gemma-scope-9b-pt-res", f"layer_20/width_{width}/average_l0_{l0}") for l0 in PAPER[width]]
    rows = find_saes(frame, names)
    assert rows["id"].to_list() == [name for _, name in names]
    assert rows["l0"].to_list() == list(PAPER[width])
    assert set(rows["hook"]) == {"blocks.20.hook_resid_post"}
    assert set(rows["d_sae"]) == {{"16k": 16_384, "1m": 1_048_576}[width]}


def test_canonical_ids_get_their_l0_from_their_path(frame: pl.DataFrame) -> None:
    canonical = filter_catalogue(frame, "gemma-scope-2b-pt-res-canonical")
    assert not canonical["l0"].is_null().any()
    row = canonical.filter(pl.col("id") == "layer_0/width_16k/canonical").row(0, named=True)
    assert (row["l0"], row["path"]) == (105.0, "layer_0/width_16k/average_l0_105")


def test_an_expected_l0_of_nought_is_unknown_unless_the_path_says_it() -> None:
    entry = {"conversion_func": "gemma_2", "model": "gemma-2-2b", "repo_id": "google/gemma-scope-2b-pt-res"}
    release = "gemma-scope-2b-pt-res"
    told = facts(release, entry, {"id": "x", "path": "layer_3/width_16k/average_l0_9", "l0": 0.0})
    untold = facts(release, entry, {"id": "x", "path": "layer_3/width_16k/other", "l0": 0.0})
    assert (told["l0"], untold["l0"]) == (9.0, None)
    assert facts(release, entry, {"id": "x", "path": "layer_3/width_16k/other", "l0": 7})["l0"] == 7.0
    assert facts(release, entry, {"id": "x", "path": "layer_3/width_16k/other"})["l0"] is None


def test_no_l0_in_the_table_is_nought(frame: pl.DataFrame) -> None:
    assert not (frame["l0"] <= 0).any()
    assert frame.filter(pl.col("release") == "gpt2-small-attn-out-v5-32k")["l0"].is_null().all()


def test_gemma_scope_agrees_with_saelens_own_reader(frame: pl.DataFrame) -> None:
    from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_CONFIG_GETTERS as GETTERS

    rows = frame.filter((pl.col("conversion_func") == "gemma_2") & (pl.col("kind") == "sae"))
    checked = 0
    for row in rows.gather_every(7).iter_rows(named=True):
        config = GETTERS["gemma_2"](row["repo_id"], row["path"], "cpu")
        if row["hook"] is None:
            assert config["hook_name"] == "hook_embed"
            continue
        assert config["hook_name"] == row["hook"]
        assert (config["d_in"], config["d_sae"], config["architecture"]) == (
            row["d_in"],
            row["d_sae"],
            row["architecture"],
        )
        assert row["model"] == f"google/{config['model_name']}"
        checked += 1
    assert checked > 300


@pytest.mark.parametrize("loader", ["qwen_scope", "goodfire", "deepseek_r1"])
def test_readers_that_need_no_network_agree(frame: pl.DataFrame, loader: str) -> None:
    from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_CONFIG_GETTERS as GETTERS

    for row in frame.filter(pl.col("conversion_func") == loader).iter_rows(named=True):
        config = GETTERS[loader](row["repo_id"], row["path"], "cpu")
        for ours, theirs in (("hook", "hook_name"), ("d_in", "d_in"), ("d_sae", "d_sae"), ("model", "model_name")):
            assert row[ours] == config[theirs], (row["release"], row["id"], ours)
        assert row["architecture"] == config["architecture"]


def test_hooks_are_ours_and_agree_with_layer_site_and_stream(frame: pl.DataFrame) -> None:
    for row in frame.filter(pl.col("hook").is_not_null()).unique("hook").iter_rows(named=True):
        assert parse_hook(row["hook"]) == (row["layer"], row["site"])
        assert stream_of(row["hook"]) == row["stream"]


def test_most_saes_have_a_site_a_width_and_an_l0(frame: pl.DataFrame) -> None:
    saes = frame.filter(pl.col("kind") == "sae")
    known = {c: 1 - saes[c].null_count() / saes.height for c in ("hook", "d_sae", "l0", "architecture")}
    assert known["hook"] > 0.999
    assert known["d_sae"] > 0.99
    assert known["l0"] > 0.89
    assert known["architecture"] > 0.99


def test_transcoders_have_no_hook_and_say_why(frame: pl.DataFrame) -> None:
    others = frame.filter(pl.col("kind") != "sae")
    assert others["hook"].is_null().all()
    assert "predicts another site" in why_unusable(others.row(0, named=True))
    embedding = frame.filter((pl.col("kind") == "sae") & pl.col("hook").is_null()).row(0, named=True)
    assert "embeddings" in why_unusable(embedding)
    assert not why_unusable(filter_catalogue(frame, "gpt2-small-res-jb").row(0, named=True))


def test_a_release_says_which_processing_its_saes_want(frame: pl.DataFrame) -> None:
    assert set(filter_catalogue(frame, "gpt2-small-res-jb")["processing"]) == {"center_writing_weights"}
    assert set(filter_catalogue(frame, "gemma-scope-9b-pt-res")["processing"]) == {""}


def test_the_instruction_tuned_model_is_named_although_the_registry_does_not(frame: pl.DataFrame) -> None:
    row = filter_catalogue(frame, "gemma-scope-9b-it-res").row(0, named=True)
    assert (row["model_name"], row["model"]) == ("gemma-2-9b", "google/gemma-2-9b-it")


def test_filters_narrow_by_every_field(frame: pl.DataFrame) -> None:
    found = filter_catalogue(
        frame, model="GEMMA-2-9b", layer=20, width=16_384, site="residual", architecture="jumprelu"
    )
    assert set(found["release"]) == {"gemma-scope-9b-pt-res", "gemma-scope-9b-pt-res-canonical"}
    assert filter_catalogue(frame, model="gpt2-small").equals(filter_catalogue(frame, model="openai-community/gpt2"))
    assert filter_catalogue(frame, model="google/gemma-2-9b", site="hook_mlp_out")["stream"].unique().to_list() == [
        "mlp"
    ]
    assert filter_catalogue(frame, text="LXR_8x l31r")["id"].to_list() == ["l31r_8x"]
    assert not filter_catalogue(frame, text="average_l0_(").height  # text is text, not a pattern
    known = filter_catalogue(frame, l0=(40, 60))["l0"]
    assert (known.min(), known.max(), known.null_count()) == (40, 60, 0)
    assert filter_catalogue(frame).equals(frame)


def test_an_unknown_release_names_the_nearest(frame: pl.DataFrame) -> None:
    assert "gemma-scope-9b-pt-res" in nearest_releases(frame, "gemma-scope-9b-res")
    with pytest.raises(SpecError, match="did you mean .*gpt2-small-res-jb"):
        check_release(frame, "gpt2-small-resjb")
    with pytest.raises(SpecError, match="--releases"):
        check_release(frame, "zzzz")
    check_release(frame, "gpt2-small-res-jb")


def test_what_is_on_disk_is_found_in_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert not read_catalogue(tmp_path)["on_disk"].any()
    snapshot = tmp_path / "hf" / "hub" / "models--google--gemma-scope-9b-pt-res" / "snapshots" / "abc"
    for name, file in (("11", "params.npz"), ("20", "README.md"), ("57", "gone.npz")):
        folder = snapshot / f"layer_20/width_16k/average_l0_{name}"
        folder.mkdir(parents=True)
        if name == "57":
            (folder / file).symlink_to(tmp_path / "deleted")
        else:
            (folder / file).write_bytes(b"x")
    there = filter_catalogue(read_catalogue(tmp_path), on_disk=True)
    assert set(there["path"]) == {"layer_20/width_16k/average_l0_11"}
    # A single file, by its own path.
    file = tmp_path / "hub" / "models--Qwen--SAE-Res-Qwen3-1.7B-Base-W32K-L0_50" / "snapshots" / "c" / "layer0.sae.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert filter_catalogue(read_catalogue(tmp_path), on_disk=True)["id"].to_list() == ["layer0"]


def test_a_damaged_or_unwritable_store_only_costs_time(tmp_path: Path, frame: pl.DataFrame) -> None:
    read_catalogue(tmp_path)
    stored = next((tmp_path / "catalogue").iterdir())
    stored.write_bytes(b"not parquet")
    assert read_catalogue(tmp_path).drop("on_disk").equals(frame.drop("on_disk"))
    assert pl.read_parquet(stored).height == frame.height
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert read_catalogue(blocked).height == frame.height


def test_a_registry_of_another_shape_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "pretrained_saes.yaml"
    broken.write_text("release: [1, 2]")
    monkeypatch.setattr(catalogue, "registry_path", lambda: broken)
    with pytest.raises(SpecError, match="cannot be read"):
        read_catalogue(tmp_path)


def test_reading_the_catalogue_imports_neither_torch_nor_saelens(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from dmcore.sources.catalogue import read_catalogue;"
        f"read_catalogue(Path({str(tmp_path)!r}));"
        "heavy = {'torch', 'sae_lens', 'huggingface_hub', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
