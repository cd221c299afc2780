"""`doctor`: whether a host is fit for dmcore, check by check, each with one sentence of what to do. Fast, and without torch.

What may be slow or hang (the driver, the hub) is asked at the same time, each with a limit of its own; a check that breaks
says so and does not end the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dmcore.errors import DarkMatterError
from dmcore.progress import format_seconds
from dmcore.run.host import doctor_disk, doctor_host, doctor_network, facts
from dmcore.run.host.checks import FAIL, OK, WARN, Check
from dmcore.run.jobs.heartbeat import ENDED, LATE_SECONDS, read_beats
from dmcore.run.jobs.job import has_gpu
from dmcore.specs import Study
from dmcore.store.store import default_root


def examine(study: Study | None = None, root: Path | None = None) -> list[Check]:
    """All checks, in the order in which they should be mended; `study`: what it would take is held against the host."""
    root = root or default_root()
    needs, told = _needs(study)
    with ThreadPoolExecutor(max_workers=4) as pool:
        asked = {
            "gpus": pool.submit(facts.gpus),
            "driver": pool.submit(facts.driver_cuda),
            "hub": pool.submit(_guarded, "hub", doctor_network.hub_check),
            "disk": pool.submit(_guarded, "cache", lambda: doctor_disk.disk_checks(root, needs["disk"])),
        }
        pins, brought = facts.pins("requirements.txt"), facts.pins("constraints.txt")
        found = doctor_host.installed(pins, brought)
        gpus, driver = asked["gpus"].result(), asked["driver"].result()
        server = doctor_network.server_settings()
        on_gpu = bool(gpus)
        steps: list[tuple[str, Callable[[], Check | Sequence[Check]]]] = [
            ("python", doctor_host.python_check),
            ("packages", lambda: doctor_host.packages_check(pins, brought, found)),
            (
                "torch",
                lambda: doctor_host.torch_check(
                    facts.version_of("torch"), facts.torch_cuda(), driver, gpus, device_file=has_gpu()
                ),
            ),
            ("GPU memory", lambda: doctor_host.gpu_memory_check(gpus, needs["device"] if on_gpu else 0)),
            ("memory", lambda: doctor_host.memory_check(facts.memory(), 0 if on_gpu else needs["device"])),
            ("cache", lambda: asked["disk"].result()),
            ("worker", lambda: worker_check(root)),
            ("hub", lambda: asked["hub"].result()),
            ("port", lambda: doctor_network.port_check(server)),
            ("address", lambda: doctor_network.address_check(server)),
        ]
        checks = [check for name, step in steps for check in _guarded(name, step)]
    return [*checks, *told]


def _guarded(name: str, step: Callable[[], Check | Sequence[Check]]) -> list[Check]:
    """What a step finds; a step that breaks is a finding of its own."""
    try:
        found = step()
    except Exception as error:
        said = f"It could not be checked ({type(error).__name__}: {str(error)[:120]})."
        return [Check(name, WARN, said, "Check it by hand; docs/lab-server.md says how it should be.")]
    return [found] if isinstance(found, Check) else list(found)


def _needs(study: Study | None) -> tuple[dict[str, int], list[Check]]:
    """Bytes of disk and of device memory that a study takes; and a check where that cannot be said."""
    nothing = {"disk": 0, "device": 0}
    if study is None:
        return nothing, []
    try:
        from dmcore.run.estimates.estimate import Machine, estimate_study

        estimate = estimate_study(study, machine=Machine("cpu"))
    except (DarkMatterError, ImportError) as error:
        return nothing, [
            Check("study", WARN, f"What {study.name} takes cannot be said: {error}", "Watch its first job.")
        ]
    device = max(estimate.model_memory_bytes, estimate.sae_memory_bytes, estimate.training_memory_bytes)
    needs = {"disk": estimate.disk_bytes + estimate.download_bytes, "device": device}
    said = f"{study.name} is readable; `python -m dmcore plan` says what it takes."
    return needs, [Check("study", OK, said)]


def worker_check(root: Path, now: float | None = None) -> Check:
    """Whether a worker is there."""
    now = time.time() if now is None else now
    beats = [beat for beat in read_beats(root).values() if beat.state != ENDED]
    living = [beat for beat in beats if beat.age(now) < LATE_SECONDS]
    if living:
        said = ", ".join(f"{beat.lane} (process {beat.pid} on {beat.host}), {beat.state}" for beat in living)
        return Check("worker", OK, f"{said}.")
    if beats:
        beat = beats[0]
        said = f"The worker of {beat.lane} has said nothing for {format_seconds(beat.age(now))}."
        remedy = "If it should run, start it: `python -m dmcore worker`; the next one goes on with its job."
        return Check("worker", FAIL if beat.here and beat.lives else WARN, said, remedy)
    return Check(
        "worker", OK, "None is running; the app and `python -m dmcore jobs submit` start one when it is needed."
    )
