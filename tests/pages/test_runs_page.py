"""The Runs page without a browser: build a study, start, watch, stop, go on with it, and free the disk it takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dmcore.errors import SpecError
from dmcore.places import DEMO
from dmcore.progress import Progress
from dmcore.run.cli import main
from dmcore.run.jobs.disk import delete_holdings, holdings, in_use
from dmcore.run.jobs.job import Job
from dmcore.run.jobs.queue import Queue
from dmcore.specs import TextsSpec, load_study
from dmcore.store.store import Store
from dmcore.ui import actions, reads
from dmcore.ui.builder_saes import sae_folders
from dmcore.ui.job_panel import numbers_of
from dmcore.ui.study_start import study_files
from dmcore.words.names import ago_text
from tests.pages.fake_results import write_fake_study
from tests.run.jobs.test_queue import write_study

ROOT = Path(__file__).parents[2]
GEMMA = "google/gemma-2-2b"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and no worker that would be started."""
    root = tmp_path / "cache"
    monkeypatch.setenv("DMCORE_CACHE", str(root))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("dmcore.run.jobs.worker.ensure_worker", lambda root, device="auto": False)
    reads.forget()
    yield root
    reads.forget()


def open_runs(show: str = "", **params: str) -> AppTest:
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    at.switch_page("pages/runs.py")
    for key, value in {**({"show": show} if show else {}), **params}.items():
        at.query_params[key] = value
    return checked(at.run())


def checked(at: AppTest) -> AppTest:
    assert [e.value for e in at.exception] == []
    return at


def words(at: AppTest) -> str:
    parts = [*at.title, *at.markdown, *at.caption, *at.info, *at.text, *at.warning, *at.error, *at.code, *at.success]
    return "\n".join(str(part.value) for part in parts).replace("\\", "")


def press(at: AppTest, key: str) -> AppTest:
    return checked(at.button(key=key).click().run())


def keys(at: AppTest) -> set[str]:
    return {button.key for button in at.button if button.key}


def running_job(tmp_path: Path, name: str = "tiny", **study: Any) -> tuple[Queue, Job]:
    queue = Queue(tmp_path / "cache")
    queue.submit("sweep", write_study(tmp_path, name, **study), "cpu")
    return queue, queue.take("cpu")


def test_with_an_empty_cache_the_page_offers_studies_and_says_that_nothing_runs(cache: Path) -> None:
    at = open_runs()
    assert "Nothing is running" in words(at)
    assert "A small Python-code model and its SAEs" in words(at)
    assert any(key.startswith("start.sweep.") for key in keys(at))
    assert not (cache / "jobs" / "queue.sqlite").exists()
    for show in ("New study", "Disk"):
        assert not open_runs(show).error


def test_a_study_is_started_with_one_click_and_a_second_session_shares_the_job(cache: Path) -> None:
    key = f"start.sweep.{DEMO}"
    sessions = [open_runs(), open_runs()]
    for at in sessions:
        press(at, key)
    jobs = Queue(cache).jobs()
    assert [(job.study, job.state) for job in jobs] == [("demo", "waiting")]
    assert sessions[0].button(key=key).disabled
    assert "The worker is starting" in words(sessions[1])


def test_a_running_job_shows_stage_amount_rate_time_memory_and_its_log(cache: Path, tmp_path: Path) -> None:
    queue, job = running_job(tmp_path)
    with_lock(queue, lambda: queue.report(
        job, Progress("encode saes/topk_1024", 1200, 7200, "tokens", 400.0, 15.0),
        saes_done=2, saes_total=15, memory=3 * 2**30, gpu_memory=2**30,
    ))  # fmt: skip
    queue.log_path(job.id).write_text("10:00:00 encode <script>alert(1)</script>\n")
    with WorkerAlive(queue):
        at = open_runs(job=job.id)
        text = words(at)
    for part in ("Running", "1,200 of 7,200 tokens", "400 tokens/s", "15 s left in this stage", "2 of 15 SAEs", "3 GiB",
                 "GPU memory 1 GiB"):  # fmt: skip
        assert part in text, part
    assert "<script>" in at.code[0].value  # as code, which shows it; never as Markdown
    assert "<script>" not in "".join(str(m.value) for m in (*at.markdown, *at.caption))
    assert f"cancel.{job.id}" in keys(at)


class WorkerAlive:
    """Hold the lane as a living worker does."""

    def __init__(self, queue: Queue) -> None:
        from dmcore.run.jobs.files import lane_lock

        self._lock = lane_lock(queue.root, "cpu", "worker", 1)

    def __enter__(self) -> None:
        assert self._lock.__enter__()

    def __exit__(self, *error: object) -> None:
        self._lock.__exit__(None, None, None)


def with_lock(queue: Queue, act: Any) -> None:
    with WorkerAlive(queue):
        act()


def test_cancel_is_one_click_and_what_was_cancelled_can_be_resumed_and_removed(cache: Path, tmp_path: Path) -> None:
    queue, job = running_job(tmp_path)
    with WorkerAlive(queue):
        at = open_runs()
        press(at, f"cancel.{job.id}")
        assert queue.job(job.id).cancel
        assert at.button(key=f"cancel.{job.id}").label == "Stopping"
        queue.finish(job, "cancelled")
    at = open_runs()
    assert "what it had finished is kept" in words(at)
    press(at, f"resume.{job.id}")
    assert queue.job(job.id).state == "waiting"
    press(at, f"cancel.{job.id}")
    assert queue.job(job.id).state == "cancelled"
    press(at, f"remove.{job.id}")
    assert queue.jobs() == []
    assert "Nothing is running" in words(at)


def test_a_job_whose_worker_died_is_interrupted_when_somebody_looks_and_can_be_taken_again(
    cache: Path, tmp_path: Path
) -> None:
    queue, job = running_job(tmp_path)
    assert "goes on where it was interrupted" in words(open_runs())
    assert (queue.job(job.id).state, queue.job(job.id).attempt) == ("interrupted", 2)
    assert queue.take("cpu") is not None, "the next worker goes on with it"


def test_a_job_that_ends_while_the_page_is_drawn_is_drawn_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dmcore.ui import job_panel

    queue, job = running_job(tmp_path)
    draw = job_panel._draw_active

    def draw_and_end(queue: Queue, job: Job, jobs: list[Job]) -> None:
        draw(queue, job, jobs)
        queue.finish(job, "cancelled")

    with WorkerAlive(queue):
        monkeypatch.setattr(job_panel, "_draw_active", draw_and_end)
        assert f"resume.{job.id}" not in keys(open_runs())
        assert queue.job(job.id).state == "cancelled"
        assert f"resume.{job.id}" in keys(open_runs())


@pytest.mark.parametrize("look", [1, 2, 3])
def test_each_job_is_on_one_list_whatever_becomes_of_it_while_the_page_is_drawn(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    """Before any look at the queue one goes from waiting to running, one ends, and one that had failed is retried."""
    from dmcore.ui import job_panel

    queue, ends = running_job(tmp_path)
    failed = queue.submit("sweep", write_study(tmp_path, "again"), "cuda:1")
    queue.finish(queue.take("cuda-1"), "failed", "x")
    waits = queue.submit("sweep", write_study(tmp_path, "waits"), "cpu")
    really, looks = Queue.jobs, []

    def jobs(self: Queue) -> list[Job]:
        looks.append(self)
        if len(looks) == look:
            queue.finish(ends, "cancelled")
            queue.take("cpu")
            queue.retry(failed.id)
        return really(self)

    monkeypatch.setattr(job_panel.worker, "attend", lambda queue: None)
    monkeypatch.setattr(Queue, "jobs", jobs)
    drawn = keys(open_runs())
    assert len(looks) >= 2
    for job in (ends, failed, waits):
        lists = [key for key in (f"cancel.{job.id}", f"remove.{job.id}") if key in drawn]
        assert len(lists) == 1, (job.study, lists)


def places(at: AppTest) -> dict[str, list[int]]:
    """Where the tabs and the frame of each job are, as numbers down the tree."""
    found: dict[str, list[int]] = {}

    def walk(node: Any, path: list[int]) -> None:
        for number, child in node.children.items():
            here = [*path, number]
            if child.type == "tab_container" or getattr(getattr(child, "proto", None), "id", "").find("job-") >= 0:
                found[f"{child.type} {getattr(child.proto, 'id', '')}"] = here
            if hasattr(child, "children"):
                walk(child, here)

    walk(at.main, [])
    return found


def test_what_is_said_above_the_jobs_moves_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dmcore.errors import DarkMatterError
    from dmcore.ui import job_panel

    def no_worker(queue: Queue) -> None:
        raise DarkMatterError("The worker cannot be started.")

    queue, _ = running_job(tmp_path)
    with WorkerAlive(queue):
        at = open_runs()
        before = places(at)
        assert len(before) >= 2
        at.session_state["jobs.error"] = "It cannot be done."
        monkeypatch.setattr(job_panel.worker, "attend", no_worker)
        monkeypatch.setattr("dmcore.store.disk.is_writable", lambda root: False)
        checked(at.run())
        assert "It cannot be done." in words(at)
        assert "cannot be started" in words(at)
        assert places(at) == before


def test_a_cache_in_the_clone_offers_each_study_once() -> None:
    files = study_files(Queue(ROOT))
    assert len(files) == len(set(files)) > 2


def test_a_failed_job_shows_its_sentence_as_text_and_can_be_retried(cache: Path, tmp_path: Path) -> None:
    queue, job = running_job(tmp_path)
    queue.finish(job, "failed", "The model <b>m</b> ![x](http://a.example) is missing: check the path.")
    at = open_runs()
    assert "<b>m</b>" in words(at)
    assert "![x](http" not in at.error[0].value
    press(at, f"retry.{job.id}")
    assert queue.job(job.id).state == "waiting"


def test_done_with_a_warning_keeps_its_results_and_offers_a_retry(cache: Path, tmp_path: Path) -> None:
    queue, job = running_job(tmp_path)
    queue.report(job, None, saes_done=1, saes_total=2)
    queue.finish(job, "done", "1 of 2 SAEs has no result (a). It reads 7 dimensions.")
    at = open_runs()
    assert "1 of 2 SAEs has no result" in at.warning[0].value
    assert f"retry.{job.id}" in keys(at)
    assert "1 of 2 SAEs have results" in words(at)


def test_a_retry_that_cannot_be_done_says_why(cache: Path, tmp_path: Path) -> None:
    queue, job = running_job(tmp_path)
    queue.finish(job, "failed", "x")
    Path(job.path).unlink()
    at = press(open_runs(), f"retry.{job.id}")
    assert "Cannot read the study" in words(at)


@pytest.mark.parametrize("job", ["../../etc/passwd", "<script>alert(1)</script>", "0" * 12, "9" * 400])
def test_hostile_links_open_nothing_and_are_not_echoed(cache: Path, tmp_path: Path, job: str) -> None:
    running_job(tmp_path)
    at = open_runs("<b>no tab</b>", job=job)
    assert not at.code
    assert job not in words(at)
    assert "no tab" not in words(at)


def test_a_studys_own_words_are_never_markdown(cache: Path, tmp_path: Path) -> None:
    path = write_study(tmp_path)
    path.write_text(path.read_text().replace("The tiny study", "![x](http://a.example/y) <b>"))
    queue = Queue(cache)
    queue.submit("sweep", path, "cpu")
    at = open_runs()
    shown = "".join(str(m.value) for m in at.markdown)
    assert "![x]" not in shown
    assert "`http://a.example/y)`" in shown, "an address is code, which is no link"


def choose_gemma_layer_12(at: AppTest) -> AppTest:
    """What a researcher does: model, release, layer, widths; add all; name."""
    checked(at.selectbox(key="builder.model").select_index(model_index(at)).run())
    checked(at.selectbox(key="builder.release").select("gemma-scope-2b-pt-res").run())
    checked(at.multiselect(key="builder.filter.layer").select(12).run())
    checked(at.multiselect(key="builder.filter.d_sae").select(16384).run())
    press(at, "builder.add")
    return checked(at.text_input(key="builder.name").set_value("gemma-2-2b-12").run())


def model_index(at: AppTest) -> int:
    return next(i for i, text in enumerate(at.selectbox(key="builder.model").options) if text.startswith(f"{GEMMA} ("))


def test_gemma_2_2b_layer_12_is_put_together_planned_and_started_from_this_page_alone(cache: Path) -> None:
    at = open_runs("New study")
    assert "Still missing: a model, an SAE and a name." in words(at)
    choose_gemma_layer_12(at)
    text = words(at)
    assert "No Hugging Face token was found" in text
    for part in ("Memory per device", "Disk", "Time", "To download", "300 contexts of 1,024 tokens"):
        assert part in text, part
    assert not (cache / "studies").exists()
    press(at, "builder.start")
    study = load_study(cache / "studies" / "gemma-2-2b-12.toml")
    assert (study.model.id, study.model.dtype, study.texts.dataset) == (
        GEMMA,
        "bfloat16",
        "monology/pile-uncopyrighted",
    )
    assert {(sae.release, sae.hook) for sae in study.saes} == {("gemma-scope-2b-pt-res", "blocks.12.hook_resid_post")}
    assert len(study.saes) >= 5
    assert [(job.study, job.state) for job in Queue(cache).jobs()] == [("gemma-2-2b-12", "waiting")]
    assert "Waiting" in words(at)  # the Jobs tab is open now
    assert list((cache / "studies").glob(".*")) == []


def test_contexts_begin_as_the_tokenizer_begins_them_or_with_a_bos_that_is_asked_for(cache: Path) -> None:
    at = choose_gemma_layer_12(open_runs("New study"))
    assert at.checkbox(key="builder.bos").value is False, "as in a study file that says nothing"
    press(at, "builder.save")
    path = cache / "studies" / "gemma-2-2b-12.toml"
    assert load_study(path).texts.bos == TextsSpec(files="x").bos == "tokenizer"
    assert "bos" not in path.read_text()
    checked(at.text_input(key="builder.name").set_value("with-bos").run())
    checked(at.checkbox(key="builder.bos").check().run())
    press(at, "builder.save")
    assert load_study(cache / "studies" / "with-bos.toml").texts.bos == "always"
    checked(at.segmented_control(key="builder.texts-source").set_value("Files on this machine").run())
    assert at.checkbox(key="builder.bos").value is True, "it is kept"


def test_another_study_is_never_overwritten(cache: Path) -> None:
    path = write_study(cache / "studies", "gemma-2-2b-12")
    before = path.read_text()
    at = choose_gemma_layer_12(open_runs("New study"))
    assert "There is another study called gemma-2-2b-12" in words(at)
    assert "builder.start" not in keys(at)
    checked(at.text_input(key="builder.name").set_value("../../evil").run())
    assert "The name may have letters" in words(at)
    checked(at.text_input(key="builder.name").set_value("demo").run())
    write_fake_study(cache, "demo", n_saes=1)
    reads.forget()
    checked(at.run())
    assert "results of another study called demo" in words(at)
    assert path.read_text() == before


def test_a_study_that_comes_with_the_app_keeps_its_name(cache: Path) -> None:
    at = choose_gemma_layer_12(open_runs("New study"))
    checked(at.text_input(key="builder.name").set_value("gpt2-small").run())
    assert "A study called gpt2-small comes with the app: choose another name." in words(at)
    assert "builder.start" not in keys(at)


def test_a_study_that_was_put_together_here_can_be_deleted_while_no_job_is_at_it(cache: Path) -> None:
    path = write_study(cache / "studies", "tiny")
    at = open_runs()
    assert [key for key in keys(at) if key.startswith("delete.")] == [f"delete.{path}"], "those of the app cannot"
    press(at, f"start.sweep.{path}")
    press(at, f"delete.{path}")
    assert "A job is at work on tiny: cancel it first." in words(at)
    assert path.is_file()
    job = Queue(cache).jobs()[0]
    press(at, f"cancel.{job.id}")
    press(at, f"delete.{path}")
    assert not path.exists() and f"start.sweep.{path}" not in keys(at)
    with pytest.raises(SpecError, match="not the name of a study"):
        actions.delete_study(cache / "studies", "../outside")


def test_the_demo_offers_no_training_whose_texts_are_not_there(cache: Path) -> None:
    at = open_runs()
    (button,) = [b for b in at.button if b.key == f"start.train-saes.{DEMO}"]
    assert button.disabled and "texts that it trains on are not on this machine" in button.help
    (sweep,) = [b for b in at.button if b.key == f"start.sweep.{DEMO}"]
    assert not sweep.disabled


def test_a_study_that_cannot_run_is_not_started_from_its_plan(cache: Path, tmp_path: Path) -> None:
    artifacts, texts = ROOT / "dmcore" / "demo" / "artifacts", tmp_path / "corpus.txt"
    texts.write_text("word " * 1_000)
    at = open_runs("New study")
    checked(at.segmented_control(key="builder.model-source").set_value("A folder on this machine").run())
    checked(at.text_input(key="builder.model-folder").set_value(str(artifacts / "model")).run())
    checked(at.segmented_control(key="builder.sae-source").set_value("Folders on this machine").run())
    checked(at.text_input(key="builder.sae-folder").set_value(str(artifacts / "saes")).run())
    checked(at.segmented_control(key="builder.texts-source").set_value("Files on this machine").run())
    checked(at.text_input(key="builder.files").set_value(str(texts)).run())
    checked(at.text_input(key="builder.name").set_value("local").run())
    assert "corpus.txt holds 5,000 bytes, too few for 300 contexts of 1,024 tokens: lower n_contexts" in words(at)
    assert "It cannot run as it is." in words(at)
    assert at.button(key="builder.start").disabled


def test_a_plan_that_needs_more_disk_than_is_free_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dmcore.ui import plan_panel

    monkeypatch.setattr(plan_panel.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    at = choose_gemma_layer_12(open_runs("New study"))
    assert "1 MiB of the disk are free: take fewer contexts" in words(at)
    monkeypatch.setattr(plan_panel.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**50))
    assert "take fewer contexts" not in words(checked(at.run()))


def test_the_plan_is_of_the_machine_that_would_do_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dmcore.ui import plan_panel

    monkeypatch.setattr(plan_panel, "lane_of", lambda device: "cpu")
    assert plan_panel.this_machine().device == "cpu"
    monkeypatch.setattr(plan_panel, "lane_of", lambda device: "cuda-0")
    monkeypatch.setattr(plan_panel, "GPUS", tmp_path)
    monkeypatch.setattr(plan_panel, "gpu_here", lambda: None)
    assert plan_panel.this_machine().device == "auto"
    for model, device in (("NVIDIA H100 80GB HBM3", "H100"), ("Another GPU", "GPU")):
        (tmp_path / "0000").mkdir(exist_ok=True)
        (tmp_path / "0000" / "information").write_text(f"Model: {model}\n")
        assert plan_panel.this_machine().device == device
    monkeypatch.setattr(plan_panel, "gpu_here", lambda: ("Another GPU", 12.0))
    assert plan_panel.this_machine().peak(1).memory_gib == 12.0


def test_what_the_catalogue_page_chose_comes_with_its_model(cache: Path) -> None:
    row = {"release": "gpt2-small-res-jb", "id": "blocks.8.hook_resid_pre", "hook": "blocks.8.hook_resid_pre",
           "model": "openai-community/gpt2", "processing": "center_writing_weights", "d_sae": 24576, "l0": None}  # fmt: skip
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    at.switch_page("pages/runs.py")
    at.query_params["show"] = "New study"
    at.session_state["builder.saes"] = [row, {"not": "a row"}]
    checked(at.run())
    assert "1 SAE chosen" in words(at)
    checked(at.text_input(key="builder.name").set_value("gpt2").run())
    press(at, "builder.save")
    study = load_study(cache / "studies" / "gpt2.toml")
    assert study.model.processing == ("center_writing_weights",)
    assert study.saes[0].id == "blocks.8.hook_resid_pre"
    assert Queue(cache).jobs() == []


def test_filters_show_what_another_page_has_chosen(cache: Path) -> None:
    def row(release: str, sae: str) -> dict[str, Any]:
        return {"release": release, "id": sae, "hook": "blocks.12.hook_resid_post", "model": GEMMA, "processing": ""}

    at = choose_gemma_layer_12(open_runs("New study"))
    checked(at.number_input(key="builder.l0.low").set_value(1e5).run())
    folder = "layer_12/width_16k"
    at.session_state["builder.saes"] = [row("gemma-scope-2b-pt-res", f"{folder}/average_l0_{n}") for n in (22, 41)]
    checked(at.run())
    assert at.selectbox(key="builder.release").value == "gemma-scope-2b-pt-res"
    values = [at.multiselect(key=f"builder.filter.{name}").value for name in ("stream", "layer", "d_sae")]
    assert values == [["residual"], [12], [16384]]
    assert at.number_input(key="builder.l0.low").value is None
    shown = at.dataframe[0].value
    assert 2 <= len(shown) < 20
    assert {f"{folder}/average_l0_22", f"{folder}/average_l0_41"} <= set(shown["id"])
    assert set(shown["architecture"]) == {"JumpReLU"}
    # What they do not share is not asked for; and the filters of one choice are no trap for another model.
    apart = [
        row("gemma-scope-2b-pt-res", f"{folder}/average_l0_22"),
        row("gemma-scope-2b-pt-mlp", "layer_3/width_16k/average_l0_21"),
    ]
    at.session_state["builder.saes"] = apart
    checked(at.run())
    assert at.selectbox(key="builder.release").value == "All releases"
    assert at.multiselect(key="builder.filter.layer").value == []
    names = at.selectbox(key="builder.model").options
    gpt2 = next(i for i, name in enumerate(names) if "openai-community/gpt2 (" in name)
    checked(at.selectbox(key="builder.model").select_index(gpt2).run())
    assert "No SAE of the catalogue matches" not in words(at)
    hand = {"release": "gpt2-small-res-jb", "id": "blocks.8.hook_resid_pre", "hook": "blocks.8.hook_resid_pre"}
    at.session_state["builder.saes"] = [
        {**hand, "model": "openai-community/gpt2", "processing": "center_writing_weights"}
    ]
    checked(at.run())
    assert list(at.dataframe[0].value["id"]) == ["blocks.8.hook_resid_pre"]
    gemma = next(i for i, name in enumerate(names) if f"{GEMMA} (" in name)
    checked(at.selectbox(key="builder.model").select_index(gemma).run())
    assert at.selectbox(key="builder.release").value == "All releases"


def test_each_tab_has_its_heading(cache: Path) -> None:
    titles = {"": "What is running?", "New study": "What should be studied?", "Disk": "What does the cache hold?"}
    for show, title in titles.items():
        assert [part.value for part in open_runs(show).title] == [title]
    assert open_runs("<b>no tab</b>").title[0].value == "What is running?"


def test_another_model_leaves_the_chosen_saes_out_and_says_so(cache: Path) -> None:
    at = choose_gemma_layer_12(open_runs("New study"))
    gpt2 = next(
        i for i, text in enumerate(at.selectbox(key="builder.model").options) if "openai-community/gpt2 (" in text
    )
    checked(at.selectbox(key="builder.model").select_index(gpt2).run())
    assert "belong to another model (google/gemma-2-2b)" in words(at)
    assert "Still missing: an SAE." in words(at)
    press(at, "builder.add")
    assert at.selectbox(key="builder.model").value == "openai-community/gpt2"  # adding does not change the model
    press(at, "builder.start")
    study = load_study(cache / "studies" / "gemma-2-2b-12.toml")
    assert study.model.id == "openai-community/gpt2"
    assert not any("gemma" in sae.release for sae in study.saes)


def test_a_local_model_with_saes_in_folders_makes_a_study(cache: Path) -> None:
    artifacts = ROOT / "dmcore" / "demo" / "artifacts"
    at = open_runs("New study")
    checked(at.segmented_control(key="builder.model-source").set_value("A folder on this machine").run())
    checked(at.text_input(key="builder.model-folder").set_value("relative/folder").run())
    assert "give the whole path" in words(at)
    checked(at.text_input(key="builder.model-folder").set_value(str(artifacts / "saes")).run())
    assert "There is no config.json in it" in words(at)
    checked(at.text_input(key="builder.model-folder").set_value(str(artifacts / "model")).run())
    checked(at.segmented_control(key="builder.sae-source").set_value("Folders on this machine").run())
    checked(at.text_input(key="builder.sae-folder").set_value(str(artifacts / "saes")).run())
    assert "42 SAEs found, 42 with a site" in words(at)
    checked(at.segmented_control(key="builder.texts-source").set_value("A folder of tokens").run())
    checked(at.text_input(key="builder.tokens").set_value(str(artifacts / "contexts")).run())
    checked(at.text_input(key="builder.name").set_value("local").run())
    press(at, "builder.save")
    study = load_study(cache / "studies" / "local.toml")
    assert study.resolve(study.model.path) == artifacts / "model"
    assert len(study.saes) == 42
    assert "Saved" in words(at)


def test_saes_in_folders_say_their_site_or_are_listed_without_one(tmp_path: Path) -> None:
    files = {
        "a/cfg.json": '{"hook_name": "blocks.1.hook_mlp_out"}',
        "b/cfg.json": '{"metadata": {"hook_name": "h"}}',
        "c/hyperparams.json": "no json",
        "d/params.npz": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    found = {path.name: hook for path, hook in sae_folders(tmp_path)}
    assert found == {"a": "blocks.1.hook_mlp_out", "b": "h", "c": "", "d": ""}


def test_the_disk_is_shown_by_study_and_stage_and_freed_as_announced(cache: Path, tmp_path: Path) -> None:
    write_fake_study(cache, "one", n_saes=2)
    write_fake_study(cache, "two", n_saes=3)
    at = open_runs("Disk")
    held = holdings(Store(cache))
    assert f"in {len(held)} entries" in words(at).replace("**", "")
    mine = sum(h.size for h in held if h.studies == {"two"} and h.stage == "summary")
    assert mine > 0
    checked(at.selectbox(key="disk.study").select("two").run())
    checked(at.multiselect(key="disk.stages").select("summary").run())
    assert "Pages will no longer show these results until the study is swept again: summary." in words(at)
    press(at, "disk.delete")
    assert "freed." in words(at)
    left = holdings(Store(cache))
    assert sum(h.size for h in held) - sum(h.size for h in left) == mine
    assert {h.entry.key for h in left} < {h.entry.key for h in held}


def test_what_a_job_may_need_is_not_deleted(cache: Path, tmp_path: Path) -> None:
    write_fake_study(cache, "tiny", n_saes=1)
    queue, _ = running_job(tmp_path)
    held = holdings(Store(cache))
    assert in_use(held, ["tiny"]) == held
    assert in_use(held, []) == []
    with WorkerAlive(queue):
        at = open_runs("Disk")
        checked(at.multiselect(key="disk.stages").select("summary").run())
        assert at.button(key="disk.delete").disabled
    with pytest.raises(ValueError, match="A job that waits or runs"):
        delete_holdings(Store(cache), held, ["tiny"])
    assert holdings(Store(cache)) == held


def test_entries_are_traced_to_their_study_through_everything_they_were_made_of(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make = lambda stage, spec: store.get_or_make(stage, spec, lambda folder: (folder / "x").write_text("x"))  # noqa: E731
    acts = make("activations", {"hook": "h"})
    codes = make("codes", {"activations": acts.key, "sae": "s"})
    orphan = make("activations", {"hook": "other"})
    child = make("pursuit", {"parts": [{"codes": codes.key}]})
    fake = write_fake_study(tmp_path, "one", n_saes=1)
    del fake
    owners = {h.entry.key: h.studies for h in holdings(store)}
    assert owners[orphan.key] == owners[codes.key] == owners[child.key] == frozenset()
    assert {studies for key, studies in owners.items() if key not in {acts.key, codes.key, orphan.key, child.key}} == {
        frozenset({"one"})
    }


def test_unfinished_work_can_be_deleted(cache: Path) -> None:
    draft = Store(cache).begin("activations", {"a": 1})
    (draft.path / "half").write_bytes(b"x" * 5000)
    at = open_runs("Disk")
    press(at, "disk.leftovers")
    assert draft.path.exists()  # somebody is making it
    draft.release()
    press(at, "disk.leftovers")
    assert not draft.path.exists()


def test_damaged_entries_are_told_until_they_are_deleted(cache: Path) -> None:
    entry = Store(cache).get_or_make("codes", {"a": 1}, lambda folder: (folder / "x").write_bytes(b"x" * 5000))
    assert "cache rm damaged" not in words(open_runs("Disk"))
    (entry.path / "x").write_bytes(b"y" * 5000)
    assert Store(cache).find("codes", entry.key) is None
    said = words(open_runs("Disk"))
    assert f"1 damaged entry was moved to {cache}/damaged" in said
    assert "cache rm damaged" in said
    assert main(["cache", "rm", "damaged"]) == 0
    assert "cache rm damaged" not in words(open_runs("Disk"))


def test_numbers_of_a_job_leave_out_what_is_not_known() -> None:
    job = SimpleNamespace(done=0, total=0, unit="", rate=0.0, seconds_left=None, saes_total=0, saes_done=0, memory=0,
                          gpu_memory=0, all_seconds_left=None, seconds=lambda now: None)  # fmt: skip
    assert numbers_of(job, 0.0) == []
    assert [ago_text(s) for s in (3, 300, 7200, 200_000)] == ["just now", "5 min ago", "2 h ago", "2 days ago"]


def test_a_study_whose_saes_are_not_trained_is_trained_first(cache: Path) -> None:
    folder = cache / "studies"
    folder.mkdir(parents=True)
    (folder / "own.toml").write_text(
        'schema = 1\nname = "own"\n[model]\npath = "m"\n[texts]\npath = "t"\n'
        '[train]\nhooks = ["blocks.0.hook_resid_post"]\nwidths = [32]\nl0s = [4]\n'
    )
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    at.switch_page("pages/runs.py")
    checked(at.run())
    key = f"{{}}.{folder / 'own.toml'}"
    assert at.button(key=key.format("start.sweep")).disabled
    assert not at.button(key=key.format("start.train-saes")).disabled
    (folder / "saes" / "blocks.0.hook_resid_post" / "topk_32_4").mkdir(parents=True)
    assert not checked(at.run()).button(key=key.format("start.sweep")).disabled
