"""The shipped studies: every SAE that they name exists in the registry, at that hook, of that model; and each can be planned."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest

from dmcore.run.cli import main
from dmcore.run.estimates.estimate import Machine, estimate_study
from dmcore.run.estimates.words import bytes_text, seconds_text
from dmcore.sources.catalogue import filter_catalogue, find_saes, read_catalogue
from dmcore.specs import TextsSpec, load_study
from dmcore.store.store import Store

FOLDER = Path(__file__).parents[1] / "studies"
FILES = sorted(FOLDER.glob("*.toml"))
PAPER = {
    "16k": (11, 20, 36, 57, 58, 68, 138, 310, 393, 408, 427),
    "32k": (11, 55, 57, 334, 344, 357),
    "65k": (11, 54, 55, 292, 298, 309),
    "131k": (10, 11, 12, 19, 34, 51, 53, 54, 62, 114, 221, 269, 276, 288),
    "262k": (10, 11, 13, 49, 50, 64, 249, 259, 276),
    "524k": (10, 24, 46, 48, 78, 229, 241, 298),
    "1m": (11, 19, 34, 57, 101, 193),
}
"""L0 of the SAEs that the authors' code names for layer 20 of Gemma 2 9B."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def frame(store: Store) -> pl.DataFrame:
    return read_catalogue(store.root)


def test_the_studies_that_were_promised_are_there() -> None:
    names = {path.stem for path in FILES}
    assert names == {
        "gemma-2-9b-layer-20", "gemma-2-9b-layer-20-all", "gemma-2-9b-all-layers", "gemma-2-2b-all-layers",
        "gemma-2-2b-layer-12", "llama-3.1-8b", "gpt2-small", "llama-2-70b",
    }  # fmt: skip
    listed = (FOLDER / "README.md").read_text()
    for path in FILES:
        assert re.search(rf"`{re.escape(path.name)}` \|[^|]+\| {len(load_study(path).saes)} \|", listed), path.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_sae_exists_at_its_hook_in_its_model(path: Path, frame: pl.DataFrame) -> None:
    study = load_study(path)
    named = [sae for sae in study.saes if sae.release]
    rows = find_saes(frame, [(sae.release, sae.id) for sae in named])
    assert rows.select("release", "id").rows() == [(sae.release, sae.id) for sae in named]
    assert rows["hook"].to_list() == [sae.hook for sae in named]
    assert rows["layer"].to_list() == [sae.layer for sae in named]
    assert set(rows["model"]) <= {study.model.id}
    assert set(rows["processing"]) <= {",".join(study.model.processing)}
    assert set(rows["kind"]) <= {"sae"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_study_says_what_it_is_and_has_the_papers_texts(path: Path) -> None:
    assert path.read_text().startswith("# ")
    study = load_study(path)
    assert study.name == path.stem.replace(".", "-")
    assert study.texts == TextsSpec(
        dataset="monology/pile-uncopyrighted", split="train", domain="meta.pile_set_name", n_contexts=300,
        context_length=1024, short_documents="skip", shuffle_buffer=10_000, seed=42,
        bos="always" if path.stem == "gpt2-small" else "tokenizer",  # GPT-2's tokenizer adds none; its SAEs expect one
    )  # fmt: skip
    assert study.settings.skip_positions == 200
    assert study.model.dtype == ("float32" if path.stem == "gpt2-small" else "bfloat16")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_study_can_be_planned_offline(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = estimate_study(load_study(path), store)
    assert all(sae.width_known for sae in found.saes)
    assert 0 < found.activation_bytes < 200 * 2**30
    monkeypatch.setenv("DMCORE_CACHE", str(store.root))
    assert main(["plan", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["study"] == load_study(path).name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_cost_that_a_study_states_is_that_of_its_plan(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(store.root / "hub"))  # nothing has been downloaded
    study = load_study(path)
    found = estimate_study(study, store, Machine(devices=4 if study.model.device_map else 1))
    assert found.fits or found.device == "cpu"  # the CPU's memory is this machine's
    (line,) = re.findall(r"^# Cost, by `plan`: (.+)$", path.read_text(), re.MULTILINE)
    needed = (found.download_bytes, found.disk_bytes, found.memory_per_device)
    assert [f"{bytes_text(n)} " in line for n in needed] == [True] * 3, line
    assert line.endswith(f"about {seconds_text(found.seconds)}.")


def test_the_layer_20_studies_have_the_papers_saes(frame: pl.DataFrame) -> None:
    paper = [f"layer_20/width_{width}/average_l0_{l0}" for width, l0s in PAPER.items() for l0 in l0s]
    every = load_study(FOLDER / "gemma-2-9b-layer-20-all.toml")
    assert len(every.saes) == len(paper) == 60
    assert [sae.id or sae.path.split("gemma-scope-9b-pt-res/")[1] for sae in every.saes] == paper
    listed = load_study(FOLDER / "gemma-2-9b-layer-20.toml")
    assert listed.saes == tuple(sae for sae in every.saes if sae.release)
    # All that the registry has at this layer are the paper's, and a folder is named only where the registry has nothing.
    known = filter_catalogue(frame, "gemma-scope-9b-pt-res", layer=20)["id"].to_list()
    assert {sae.id for sae in listed.saes} == set(known)


@pytest.mark.parametrize(
    ("name", "n_layers", "widths", "canonical"),
    [
        ("gemma-2-9b-all-layers", 42, [16_384, 131_072], "gemma-scope-9b-pt-res-canonical"),
        ("gemma-2-2b-all-layers", 26, [16_384, 65_536], "gemma-scope-2b-pt-res-canonical"),
    ],
)
def test_all_layers_means_every_layer_at_both_widths(
    frame: pl.DataFrame, name: str, n_layers: int, widths: list[int], canonical: str
) -> None:
    study = load_study(FOLDER / f"{name}.toml")
    rows = find_saes(frame, [(sae.release, sae.id) for sae in study.saes])
    assert sorted(rows.select("layer", "d_sae").rows()) == [(n, w) for n in range(n_layers) for w in widths]
    paths = filter_catalogue(frame, canonical).filter(pl.col("d_sae").is_in(widths))["path"]
    assert set(rows["path"]) == set(paths)
    # What the study says of them: of each layer and width, the L0 nearest to 100.
    every = filter_catalogue(frame, canonical.removesuffix("-canonical")).filter(pl.col("hook").is_not_null())
    every = every.with_columns(off=(pl.col("l0") - 100).abs())
    least = every.group_by("layer", "d_sae").agg(pl.col("off").min())
    assert rows.join(least, on=["layer", "d_sae"]).filter((pl.col("l0") - 100).abs() > pl.col("off")).is_empty()


def test_the_2b_study_has_every_sae_of_its_layer(frame: pl.DataFrame) -> None:
    study = load_study(FOLDER / "gemma-2-2b-layer-12.toml")
    assert {sae.id for sae in study.saes} == set(filter_catalogue(frame, "gemma-scope-2b-pt-res", layer=12)["id"])


def test_the_70b_study_trains_on_texts_that_it_does_not_measure_on() -> None:
    study = load_study(FOLDER / "llama-2-70b.toml")
    assert study.model.device_map == "auto"
    assert study.train is not None
    assert study.saes == study.train.saes()
    assert len({sae.hook for sae in study.saes}) == 1
    texts = study.train.texts
    assert texts is not None
    assert texts.skip_contexts == study.texts.n_contexts
    same = ("dataset", "split", "seed", "shuffle_buffer", "short_documents", "context_length")
    assert [getattr(texts, name) for name in same] == [getattr(study.texts, name) for name in same]
    # As many as the tokens need once the first positions are left out, and 64 to be held out.
    used = texts.context_length - study.settings.skip_positions
    assert texts.n_contexts == -(-study.train.tokens // used) + 64
