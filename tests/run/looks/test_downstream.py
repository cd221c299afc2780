"""What the parts of an error cost: the numbers of a plain run on Hugging Face's model, resumed, refused in sentences."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

import dmcore.analysis.downstream as analysis
from dmcore.errors import Cancelled, DataError, SpecError, StoreError
from dmcore.math.recovered import loss_recovered
from dmcore.progress import Reporter
from dmcore.results import Downstream, DownstreamSettings
from dmcore.results.downstream import DOSES, DOWNSTREAM_TABLES, KIND_VARIANTS, PARTS, TOKEN_VARIANTS, VARIANTS
from dmcore.run.cli import main
from dmcore.run.looks.inspect import Inspector
from dmcore.run.pipeline import Pipeline
from dmcore.run.plan import make_plan
from dmcore.sources.custom_saes import CustomSae
from dmcore.specs import Study, load_study
from dmcore.store.manifest import MANIFEST
from dmcore.store.published import SUMMARY, open_published
from dmcore.store.store import Store
from tests.builders import D_MODEL, HOOKS, LENGTH, N_CONTEXTS, WIDTH, build_sae, build_study
from tests.model_builders import save_model

SKIP = 4
N_SCORED = LENGTH - SKIP - 1
RESIDUAL = f"saes/{HOOKS[0]}/topk"
SOME = DownstreamSettings(contexts=12, dose_contexts=5)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load_study(build_study(tmp_path_factory.mktemp("study"), architectures=("topk",)))


@pytest.fixture(scope="module")
def store(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("cache"))
    assert not Pipeline(store).sweep(study, scale=False).failures
    return store


@pytest.fixture(scope="module")
def found(study: Study, store: Store) -> Downstream:
    return Inspector(Pipeline(store), study).downstream(RESIDUAL)


def plain_parts(study: Study, store: Store) -> dict[str, np.ndarray]:
    """(n_contexts, length, d_model) x, Sae(x) and the linear error out of fold, by SAELens and numpy's least squares."""
    plan = make_plan(study, store)
    from dmcore.sources.models import load_model

    tokens = torch.from_numpy(np.array(plan.contexts.tokens).astype(np.int64))
    x = load_model(study, "cpu").run(tokens, [HOOKS[0]], with_loss=False).acts[HOOKS[0]]
    sae = build_sae("topk", HOOKS[0])
    with torch.no_grad():
        recon = sae.decode(sae.encode(x.flatten(0, 1))).reshape(x.shape)
    given, error = x.double().numpy(), (x - recon).double().numpy()
    linear = np.zeros_like(given)
    for fold in range(plan.partition.n_folds):
        held = plan.partition.folds == fold
        train = given[~held][:, SKIP:].reshape(-1, D_MODEL)
        with_one = np.concatenate([train, np.ones((len(train), 1))], 1)
        weights = np.linalg.lstsq(with_one, error[~held][:, SKIP:].reshape(-1, D_MODEL), rcond=None)[0]
        linear[held] = given[held] @ weights[:-1] + weights[-1]
    return {"x": given, "recon": recon.double().numpy(), "linear": linear, "tokens": tokens.numpy()}


def plain_logits(study: Study, tokens: np.ndarray, vectors: np.ndarray | None) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    hf: Any = AutoModelForCausalLM.from_pretrained(study.resolve("model"), attn_implementation="eager").eval()

    def put(_m: Any, _g: Any, out: Any) -> Any:
        value = (out[0] if isinstance(out, tuple) else out).clone()
        value[:, SKIP:] = torch.tensor(vectors[:, SKIP:]).to(value)
        return (value, *out[1:]) if isinstance(out, tuple) else value

    if vectors is not None:
        hf.model.layers[1].register_forward_hook(put)
    with torch.no_grad():
        return hf(torch.from_numpy(tokens), use_cache=False).logits


def losses(logits: torch.Tensor, tokens: np.ndarray) -> np.ndarray:
    targets = torch.from_numpy(tokens)[:, 1:]
    found = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), targets, reduction="none")
    return found[:, SKIP:].double().numpy()


def test_every_number_is_that_of_a_plain_run_on_hugging_faces_model(
    study: Study, store: Store, found: Downstream
) -> None:
    plain = plain_parts(study, store)
    x, recon, linear, tokens = (plain[name] for name in ("x", "recon", "linear", "tokens"))
    mean = np.broadcast_to(x[:, SKIP:].reshape(-1, D_MODEL).mean(0), x.shape)
    put = {"clean": None, "sae": recon, "sae_linear": recon + linear, "sae_nonlinear": x - linear}
    put |= {"zero": np.zeros_like(x), "mean": mean}
    logits = {name: plain_logits(study, tokens, vectors) for name, vectors in put.items()}
    ce = {name: losses(found, tokens) for name, found in logits.items()}
    top = {name: found[:, SKIP:-1].argmax(-1) for name, found in logits.items()}
    log_p = logits["clean"][:, SKIP:-1].log_softmax(-1)
    for name in put:
        row = found.variant(name)
        assert row["n_tokens"] == N_CONTEXTS * N_SCORED
        assert row["ce"] == pytest.approx(ce[name].mean(), abs=1e-5), name
        assert row["delta"] == pytest.approx(ce[name].mean() - ce["clean"].mean(), abs=1e-5)
        kl = (log_p.exp() * (log_p - logits[name][:, SKIP:-1].log_softmax(-1))).sum(-1).mean()
        assert row["kl"] == pytest.approx(float(kl), abs=1e-5), name
        assert row["top1"] == pytest.approx(float((top[name] == top["clean"]).float().mean()), abs=2e-3)
        right = top[name] == torch.from_numpy(tokens)[:, SKIP + 1 :]
        assert row["accuracy"] == pytest.approx(float(right.float().mean()), abs=2e-3)
    for part in PARTS:
        expected = loss_recovered(ce["clean"], ce[f"sae_{part}"], ce["sae"], seed=study.seed)
        row = found.part(part)
        if np.isfinite(expected):
            ends = (row["recovered"], row["recovered_low"], row["recovered_high"])
            assert ends == pytest.approx((expected, expected.low, expected.high), rel=1e-3)
        squares = {"linear": linear, "nonlinear": x - recon - linear, "error": x - recon}
        norms = {name: (v[:, SKIP:-1] ** 2).sum(-1) for name, v in squares.items()}
        assert row["norm_sq_share"] == pytest.approx(norms[part].sum() / norms["error"].sum(), rel=1e-4)
        assert row["norm_share"] == pytest.approx(np.sqrt(norms[part]).sum() / np.sqrt(norms["error"]).sum(), rel=1e-4)
    own = loss_recovered(ce["clean"], ce["sae"], ce["zero"], seed=study.seed)
    row = found.variant("sae")
    if np.isfinite(own):
        assert (row["recovered_zero"], row["recovered_zero_low"]) == pytest.approx((own, own.low), rel=1e-3)
    else:
        assert row["recovered_zero"] is None and "0 at this site" in str(found.remark("recovered_zero"))
    token = found["tokens"].sort("context", "position")
    assert len(token) == N_CONTEXTS * N_SCORED
    np.testing.assert_allclose(token["ce"], ce["clean"].reshape(-1), atol=1e-4)
    np.testing.assert_allclose(token["delta_sae"], (ce["sae"] - ce["clean"]).reshape(-1), rtol=2e-3, atol=1e-4)
    assert (token["target"].to_numpy() == tokens[:, SKIP + 1 :].reshape(-1)).all()
    assert (token["token"].to_numpy() == tokens[:, SKIP:-1].reshape(-1)).all()


def test_identities_hold(found: Downstream) -> None:
    clean = found.variant("clean")
    assert (clean["delta"], clean["kl"], clean["top1"]) == (0, 0, 1)
    assert found.about["exact_gap"] < 1e-5
    doses = found["doses"]
    assert len(doses) == 2 * (len(DOSES) + 2) and found.about["dose_contexts"] == N_CONTEXTS
    for part in PARTS:
        rows = {row["dose"]: row for row in doses.filter(pl.col("part") == part).to_dicts()}
        assert list(rows) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.5]
        assert rows[0.0]["ce"] == found.variant("sae")["ce"], "all contexts have doses here"
        assert rows[1.0]["ce"] == found.variant(f"sae_{part}")["ce"]
        assert rows[0.5]["ce"] not in {rows[0.0]["ce"], rows[1.0]["ce"]}
    kinds = found["kinds"]
    for variant in KIND_VARIANTS:
        own = kinds.filter(pl.col("variant") == variant)
        n, right = own["n_tokens"], found.variant(variant)
        assert n.sum() == right["n_tokens"]
        assert (own["accuracy"] * n).sum() / n.sum() == pytest.approx(right["accuracy"])
        assert (own["delta"] * n).sum() / n.sum() == pytest.approx(right["delta"], abs=1e-9)
    sums = found["sums"].filter((pl.col("panel") == "all") & (pl.col("variant") == "sae"))
    assert sums["ce"].sum() / sums["n_tokens"].sum() == pytest.approx(found.variant("sae")["ce"])
    for name, schema in DOWNSTREAM_TABLES.items():
        assert dict(found[name].schema) == schema, name
    one = found.of_context(3)
    assert one["position"].to_list() == list(range(SKIP, LENGTH - 1))
    assert {f"delta_{v}" for v in TOKEN_VARIANTS} < set(one.columns)
    assert set(one["target"]) <= set(found.texts)


def test_the_metrics_beside_it_are_those_of_the_record_as_it_is_now(study: Study, store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.root, tmp_path / "cache")
    own = Store(tmp_path / "cache")
    inspector = Inspector(Pipeline(own), study)
    inspector.downstream(RESIDUAL, SOME)
    plan = inspector.sae(RESIDUAL)
    summary = own.find(SUMMARY, plan.summary_key)
    assert summary is not None

    def made_anew(folder: Path) -> None:
        shutil.copytree(summary.path, folder, dirs_exist_ok=True)
        (folder / MANIFEST).unlink()
        record = json.loads((folder / "record.json").read_text())
        (folder / "record.json").write_text(json.dumps({**record, "r2_error_low": 0.125}))

    before = shutil.copytree(summary.path, tmp_path / "summary")
    spec, summary = summary.manifest.spec, replace(summary, path=before)
    own.replace(SUMMARY, spec, made_anew)
    published = open_published("tiny", own).downstream(plan.summary_key)
    assert published is not None
    for shown in (inspector.downstream(RESIDUAL, SOME), published):
        assert shown.about["r2_error_low"] == 0.125
        assert shown.about["r2_error"] == inspector.downstream(RESIDUAL, SOME).about["r2_error"]


def test_a_table_that_there_is_not_is_named_as_such(found: Downstream) -> None:
    with pytest.raises(DataError, match="There is no table 'foo': there are variants, "):
        found["foo"]


def test_it_is_made_once_and_found_by_its_summary(study: Study, store: Store, found: Downstream) -> None:
    inspector = Inspector(Pipeline(store), study)
    assert inspector.downstream(RESIDUAL).folder == found.folder
    some = inspector.downstream(RESIDUAL, SOME)
    assert some.folder != found.folder
    assert (some.about["n_contexts"], some.about["dose_contexts"]) == (12, 5)
    published = open_published("tiny", store)
    keys = dict(zip(published.records["sae"], published.records["summary_key"], strict=True))
    there = published.downstream(keys[RESIDUAL])
    assert there is not None and there.folder == found.folder, "that of the most contexts"
    assert published.downstream(keys[f"saes/{HOOKS[1]}/topk"]) is None
    assert there.about["fvu"] == published.records.filter(pl.col("sae") == RESIDUAL)["fvu"][0]
    none = inspector.downstream(RESIDUAL, DownstreamSettings(contexts=2, dose_contexts=0))
    assert none["doses"].is_empty() and none.about["exact_gap"] is None and none.about["n_contexts"] == 2


def test_a_run_that_was_cut_off_goes_on_and_gives_the_same(
    study: Study, store: Store, found: Downstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(store.root, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / "downstream")
    other = Store(tmp_path / "cache")
    monkeypatch.setattr("dmcore.analysis.activations.chunks_of.__defaults__", (10 * LENGTH,))
    ran: list[int] = []
    plain = analysis._run

    def counted(work: Any, vectors: Any, contexts: list[int], stage: Any, first: int, last: int) -> Any:
        ran.extend(vectors.chunk.first_context + c for c in contexts[first:last])
        return plain(work, vectors, contexts, stage, first, last)

    monkeypatch.setattr(analysis, "_run", counted)
    stop = Reporter(should_cancel=lambda: len(ran) > 18)
    with pytest.raises(Cancelled):
        Inspector(Pipeline(other, reporter=stop), study).downstream(RESIDUAL)
    assert 18 < len(ran) < N_CONTEXTS
    ran.clear()
    again = Inspector(Pipeline(other), study).downstream(RESIDUAL)
    assert ran == list(range(10, N_CONTEXTS)), "the first chunk is not run again"
    assert not list(again.folder.glob("state*"))
    for name in ("variants", "parts", "kinds", "tokens"):
        mine, theirs = (one[name] for one in (again, found))
        shuffled = pl.col("variant") != "sae_shuffled"  # another chunk, other tokens to take errors from
        if name == "variants":
            mine, theirs = mine.filter(shuffled), theirs.filter(shuffled)
        assert_frame_equal(mine, theirs, rel_tol=1e-4, abs_tol=1e-4)


def test_every_kind_of_site_can_be_spliced(study: Study, store: Store) -> None:
    inspector = Inspector(Pipeline(store), study)
    for hook in HOOKS[1:]:
        found = inspector.downstream(f"saes/{hook}/topk", SOME)
        assert found.about["exact_gap"] < 1e-5 and found.variant("sae")["kl"] > 0
        assert found.about["d_sae"] == WIDTH


def test_an_exact_sae_has_no_cost_and_no_shares(tmp_path: Path) -> None:
    class Same:
        d_in, d_sae = D_MODEL, 2 * D_MODEL

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x.clamp_min(0), (-x).clamp_min(0)], 1)

        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return codes[:, :D_MODEL] - codes[:, D_MODEL:]

    path = build_study(tmp_path / "study", architectures=("topk",))
    text = path.read_text().split("[[saes]]")[0]
    path.write_text(text + f'[[saes]]\nhook = "{HOOKS[0]}"\ncustom = "same"\ncheck = false\n')
    study, pipeline = (
        load_study(path),
        Pipeline(Store(tmp_path / "cache"), custom={"same": CustomSae(Same(), version="1")}),
    )
    assert not pipeline.sweep(study, scale=False).failures
    found = Inspector(pipeline, study).downstream("same")
    row = found.variant("sae")
    assert abs(row["delta"]) < 1e-6 and row["recovered_sae"] is None and row["top1"] == 1
    assert "Sae(x) at this site raises the loss by nothing" in str(found.remark("recovered_sae"))
    assert found.part("linear")["recovered"] is None


def test_the_command_prints_records_or_lines(
    study: Study, store: Store, found: Downstream, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DMCORE_CACHE", str(store.root))
    path = str(study.folder / "study.toml")
    assert main(["downstream", path, "--contexts", "12", "--dose-contexts", "5", "--json", "--device", "cpu"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["site"] for record in records] == list(HOOKS), "all SAEs when none is named"
    needed = {
        "site",
        "sae",
        "d_sae",
        "l0",
        "layer",
        "fvu",
        "r2_error_low",
        "norm_sq_share_linear",
        "per_norm_sq_linear",
    }
    for name in VARIANTS:
        needed |= {f"{column}_{name}{end}" for column in ("ce", "delta", "kl", "top1", "recovered_sae", "recovered_zero")
                   for end in ("", "_low", "_high")}  # fmt: skip
    assert all(needed <= set(record) for record in records)
    some = Inspector(Pipeline(store), study).downstream(RESIDUAL, SOME)
    assert records[0]["ce_sae_linear_high"] == some.variant("sae_linear")["ce_high"]
    assert main(["downstream", path, RESIDUAL, "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{RESIDUAL}: {N_CONTEXTS * N_SCORED:,} predictions in {N_CONTEXTS} contexts")
    assert "Sae(x) + linear error" in text and f"{found.variant('sae')['ce']:.4f}" in text
    for arguments, said in (
        (["topk_9"], "no SAE called topk_9"),
        (["--contexts", "-1"], "contexts is -1: give a whole"),
    ):
        assert main(["downstream", path, *arguments]) == 1
        assert said in capsys.readouterr().err


def test_what_cannot_be_run_is_said_in_a_sentence(
    study: Study, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="sweep the study first"):
        Inspector(Pipeline(Store(tmp_path)), study).downstream(RESIDUAL)
    shutil.copytree(store.root, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / "downstream")
    inspector = Inspector(Pipeline(Store(tmp_path / "cache")), study)
    plain = analysis.ChunkVectors.of

    def broken(self: Any, variant: str, contexts: list[int]) -> torch.Tensor:
        return plain(self, variant, contexts) / (0.0 if variant == "sae_linear" else 1.0)

    monkeypatch.setattr(analysis.ChunkVectors, "of", broken)
    with pytest.raises(DataError, match="hold NaN or infinity: check the SAE's weights"):
        inspector.downstream(RESIDUAL)


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    path = build_study(tmp_path, architectures=("topk",))
    shutil.rmtree(tmp_path / "model")
    save_model("bert", tmp_path / "model")
    study, pipeline = load_study(path), Pipeline(Store(tmp_path / "cache"))
    assert not pipeline.sweep(study, scale=False).failures
    with pytest.raises(SpecError, match="encoder, which predicts no next token"):
        Inspector(pipeline, study).downstream(RESIDUAL)


def test_one_scored_position_is_enough_and_none_is_a_sentence(tmp_path: Path) -> None:
    path = build_study(tmp_path, architectures=("topk",), ridge=1.0)
    pipeline = Pipeline(Store(tmp_path / "cache"))
    for skip, said in ((LENGTH - 2, ""), (LENGTH - 1, "leave no prediction to score")):
        path.write_text(path.read_text().replace(f"skip_positions = {SKIP}\n", f"skip_positions = {skip}\n"))
        path.write_text(path.read_text().replace(f"skip_positions = {LENGTH - 2}\n", f"skip_positions = {skip}\n"))
        study = load_study(path)
        assert not pipeline.sweep(study, scale=False).failures
        inspector = Inspector(pipeline, study)
        if said:
            with pytest.raises(SpecError, match=said):
                inspector.downstream(RESIDUAL)
        else:
            found = inspector.downstream(RESIDUAL)
            assert found.variant("sae")["n_tokens"] == N_CONTEXTS and len(found["tokens"]) == N_CONTEXTS
