"""A study in which every text that somebody else could have written is an attack: titles, names, tokens, answers, errors."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from dmcore.run.jobs.queue import Queue
from dmcore.store.published import open_published
from tests.pages import fake_parts, fake_reduction, fake_results, fake_scaling, fake_structure, test_map_views
from tests.pages.fake_controls import write_fake_controls
from tests.pages.fake_detection import scores, write_fake_detection

PAYLOADS = (
    "<script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "![beacon](http://a.example/y.png)",
    "[link](javascript:window.hacked=1) <javascript:window.hacked=1> http://a.example/auto",
    "$QQQ$ $$\\href{javascript:window.hacked=1}{QQQ}$$",
    "**QQQ** _QQQ_ `QQQ` ~~QQQ~~ :red[QQQ] :material/delete: :rocket:",
    "&lt;b&gt;QQQ&#60;/b&#62; <b>QQQ</b>",
    "\u202eevil\u202c\u2066x\u2069",
    "a\u200bb\u2060c\ufeff\u00ad",
    "a\x00b\x1b[31mc\x07\x9b31m",
    "\n# QQQ\n\n- QQQ\n\n    QQQ\n",
    "L" * 3000,
    "'\"><svg onload=window.hacked=1><iframe src=http://a.example></iframe>",
    '${window.hacked=1} {{7*7}} %s {0} =HYPERLINK("http://a.example")',
    "<style>*{background:url(http://a.example/s)}</style><a href=http://a.example>QQQ</a>",
)
ALL = " ".join(PAYLOADS)
RAW = "\u202e\u202c\u2066\u2069\u200b\u2060\ufeff\u00ad\x00\x1b\x07\x9b"
"""Characters that must reach neither page nor terminal."""
HAS = 7
"""Which SAE of the made-up study has results of every kind."""
STUDY = "hostile"


def write_hostile_cache(root: Path) -> dict[str, str]:
    """Fill a cache folder; returns the link parameters of the SAE with all results."""
    with pytest.MonkeyPatch.context() as patch:
        plain = fake_results.fake_published(HAS + 2)
        names = [f"{name}{PAYLOADS[k % len(PAYLOADS)]}" for k, name in enumerate(plain.records["sae"])]
        evil = fake_results.FakePublished(plain.records.with_columns(sae=pl.Series(names)), plain.summaries)
        patch.setattr(fake_results, "fake_published", lambda n_saes=None: evil)
        for module in (fake_parts, fake_reduction, fake_structure):
            patch.setattr(module, "HOSTILE", PAYLOADS)
        fake_results.write_fake_study(
            root, "demo", title=ALL, model=f"evil/{ALL}", label=f"topk {PAYLOADS[1]} {PAYLOADS[7]}"
        )
        record = open_published("demo", _store(root)).records.row(HAS, named=True)
        key = record["summary_key"]
        fake_scaling.write_fake_scaling(root, texts=PAYLOADS)
        patch.setattr(fake_parts, "base_key", lambda root: key)
        fake_parts.write_fake_parts(root)
        fake_structure.write_fake_structure(root, key)
        fake_reduction.write_fake_reduction(root, key)
        fake_reduction.write_fake_downstream(root, key)
        write_fake_controls(root, key)
        said = [PAYLOADS[k % len(PAYLOADS)] for k in range(len(scores(0.7, 0)))]
        write_fake_detection(root, key, f"llm {PAYLOADS[0]}", scores(0.7, 0).with_columns(explanation=pl.Series(said)))
        patch.setattr(test_map_views, "record_of", lambda root, name="": record)
        patch.setattr(test_map_views, "TEXTS", [PAYLOADS[0], PAYLOADS[7], test_map_views.ALL_TEXTS])
        test_map_views.write_shrinkage(root)
        test_map_views.write_transfer(root, "domain")
    _write_job(root)
    return {"study": "demo", "stream": record["stream"], "layer": str(record["layer"]), "width": str(record["d_sae"])}


def _store(root: Path) -> object:
    from dmcore.store.store import Store

    return Store(root)


def _write_job(root: Path) -> None:
    """A study file and a job of it that has failed, with what it says in its log."""
    folder = root / "studies"
    folder.mkdir()
    path = folder / f"{STUDY}.toml"
    # JSON's escapes are TOML's, but for what TOML has no need to escape.
    title, model, texts, sae = (json.dumps(text) for text in (ALL, f"m {ALL[:200]}", PAYLOADS[0], PAYLOADS[7]))
    path.write_text(
        f'schema = 1\nname = "{STUDY}"\ntitle = {title}\n[model]\npath = {model}\n[texts]\npath = {texts}\n'
        f'[[saes]]\nhook = "blocks.0.hook_resid_post"\npath = {sae}\n',
        encoding="utf-8",
    )
    queue = Queue(root)
    job = queue.submit("sweep", path, "cpu", asked_by=f"{PAYLOADS[1]}{PAYLOADS[7]}")
    taken = queue.take("cpu")
    assert taken is not None and taken.id == job.id
    queue.finish(taken, "failed", f"It went wrong: {ALL}")
    queue.log_path(job.id).write_text(ALL, encoding="utf-8")
