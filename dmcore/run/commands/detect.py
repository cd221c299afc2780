"""`detect`: how well single latents can be told from the text: by simple patterns, or explained by a language model."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from dmcore.errors import DarkMatterError, SpecError, StoreError
from dmcore.progress import Reporter, terminal_sink
from dmcore.results.detection import N_LATENTS
from dmcore.run.commands.detect_words import detection_lines, parts_lines, plan_lines
from dmcore.run.commands.shared import device_named, resolve_study, say
from dmcore.store.store import Store

if TYPE_CHECKING:
    from dmcore.explain.cost import Prices
    from dmcore.results import Detection
    from dmcore.run.looks.detection import Asked, Detector
    from dmcore.run.looks.inspect import Inspector


def register(commands: Any) -> None:
    """Add the command."""
    detect = commands.add_parser(
        "detect",
        help="how well single latents can be told from the text",
        description="Draw random latents of an SAE, explain each from texts where it is active, and score the explanation on "
        "other texts: over deciles of its activation, and where it is silent. By simple patterns of the text, or with "
        "--endpoint by a language model, which is asked only after it has been said how often and --yes was given.",
    )
    detect.add_argument("study", help="a study file, or: demo")
    detect.add_argument("sae", nargs="?", default="", help="an SAE of the study, or the end of its name")
    detect.add_argument("--part", default="", help="of the SAE on this part of the error: x, error, linear, nonlinear")
    detect.add_argument("--seed", type=int, default=0, help="with --part: which seed (0)")
    detect.add_argument("--parts", action="store_true", help="of all SAEs on parts of the error, of all seeds")
    detect.add_argument("--latents", type=int, default=N_LATENTS, help=f"random latents of each SAE ({N_LATENTS:,})")
    detect.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    detect.add_argument("--json", action="store_true", help="print JSON")
    asked = detect.add_argument_group("a language model, behind an endpoint that speaks OpenAI's protocol")
    asked.add_argument("--endpoint", default="", metavar="URL", help="such as http://localhost:8000/v1")
    asked.add_argument("--model", default="", help="as the endpoint calls it")
    asked.add_argument(
        "--key-variable",
        default=None,
        metavar="VAR",
        help="environment variable that has the key; without it none is sent",
    )
    asked.add_argument("--prices", default="", metavar="IN,OUT", help="of a million tokens of prompts and of answers")
    asked.add_argument("--plan", action="store_true", help="say what would be asked, and ask nothing")
    asked.add_argument("--yes", action="store_true", help="ask without a further question")
    asked.add_argument("--concurrency", type=int, default=4, help="most requests at a time (4)")
    asked.add_argument("--timeout", type=float, default=120.0, help="seconds for an answer (120)")
    asked.add_argument("--retries", type=int, default=5, help="most times that a request is made again (5)")
    asked.add_argument("--max-tokens", type=int, default=500, help="most tokens of an answer (500); 0 sends no limit")
    asked.add_argument(
        "--extra",
        default="{}",
        metavar="JSON",
        help='further fields of each request, e.g. {"max_completion_tokens": 2000}',
    )
    asked.add_argument("--no-temperature", action="store_true", help="for models that allow none to be set")
    asked.add_argument(
        "--allow-plain-http", action="store_true", help="send the key over http to another machine, unencrypted"
    )
    detect.set_defaults(run=_detect)


def _detect(arguments: argparse.Namespace) -> int:
    from dmcore.run.looks.inspect import Inspector
    from dmcore.run.pipeline import Pipeline

    study = resolve_study(arguments.study)
    _check(arguments)
    store, stop = Store(), threading.Event()
    asked, prices = _asked(arguments, store, stop), prices_of(arguments.prices)
    pipeline = Pipeline(store, device_named(arguments.device), Reporter(terminal_sink(), stop.is_set))
    detectors = _detectors(Inspector(pipeline, study), arguments, asked)
    if asked is not None and not _may_ask(detectors, arguments, prices):
        return 0
    try:
        found = [detector.make() for detector in detectors]
    except BaseException as error:
        stop.set()  # requests that wait for another try are given up
        if asked is not None and isinstance(error, KeyboardInterrupt):
            _leave_at_once_next_time()
        raise
    _show(found, detectors, as_json=arguments.json)
    return 0


def _leave_at_once_next_time() -> None:
    """Python does not end before its threads do; a kill in the meantime costs no more than the answers under way."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.stderr.write("\nWaiting for the answers that are under way, to keep them; Ctrl-C again leaves at once.\n")


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what does not go together, before anything is opened."""
    if not (arguments.sae or arguments.part or arguments.parts):
        raise StoreError("Say which SAE: a name, --part for one on a part of the error, or --parts for all of those.")
    if arguments.parts and arguments.part:
        raise SpecError("--part is one of --parts: give either.")
    if arguments.latents < 1:
        raise SpecError("--latents must be at least 1.")
    if bool(arguments.endpoint) != bool(arguments.model):
        raise SpecError("A language model needs both --endpoint and --model; leave out both to score by patterns.")
    if not arguments.endpoint and (arguments.plan or arguments.key_variable or arguments.prices):
        raise SpecError("--plan, --prices and --key-variable are of a language model: give --endpoint and --model too.")
    variable = arguments.key_variable
    if variable and not arguments.plan and not os.environ.get(variable, "").strip():
        raise SpecError(f"There is no key: set {variable} in the environment.")


def _asked(arguments: argparse.Namespace, store: Store, stop: threading.Event) -> Asked | None:
    if not arguments.endpoint:
        return None
    from dmcore.explain.endpoint import EndpointSettings, OpenAIEndpoint
    from dmcore.run.looks.detection import Asked

    settings = EndpointSettings(
        arguments.endpoint,
        arguments.model,
        key_variable=arguments.key_variable,
        timeout=arguments.timeout,
        concurrency=arguments.concurrency,
        retries=arguments.retries,
        temperature=None if arguments.no_temperature else 0.0,
        max_tokens=arguments.max_tokens or None,
        extra=_extra(arguments.extra),
        allow_plain_http=arguments.allow_plain_http,
    )
    return Asked(OpenAIEndpoint(settings, store.root, should_cancel=stop.is_set))


def _extra(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise SpecError('--extra must be a JSON object such as {"top_p": 0.9}.')
    return found


def prices_of(text: str) -> Prices | None:
    """`0.5,1.5` as prices; None where there are none.

    Raises:
        SpecError: they are not two numbers.
    """
    from dmcore.explain.cost import Prices

    if not text:
        return None
    try:
        prompt, answer = (float(part) for part in text.split(","))
    except ValueError:
        prompt = answer = -1.0
    if not (0 <= prompt < float("inf") and 0 <= answer < float("inf")):
        raise SpecError("--prices must be two numbers such as 0.5,1.5: of a million tokens of prompts, and of answers.")
    return Prices(prompt, answer)


def _detectors(inspector: Inspector, arguments: argparse.Namespace, asked: Asked | None) -> list[Detector]:
    """Of the SAE that is named, then of those on parts."""
    whose = []
    if arguments.sae or arguments.part:
        whose.append(inspector.whose(arguments.sae, arguments.part, arguments.seed))
    if arguments.parts:
        whose += inspector.on_parts()
    return [inspector.detector(one, asked=asked, n_latents=arguments.latents) for one in whose]


def _may_ask(detectors: list[Detector], arguments: argparse.Namespace, prices: Prices | None) -> bool:
    """Say what would be asked; whether to go on.

    Raises:
        DarkMatterError: there is something to ask, and nobody here to allow it.
    """
    plans = [detector.calls(prices) for detector in detectors]
    calls = sum(plan.calls for plan in plans)
    if arguments.plan and arguments.json:
        say(json.dumps([{"sae": d.name, **plan.__dict__} for d, plan in zip(detectors, plans, strict=True)], indent=1))
        return False
    # What is printed as JSON stays JSON.
    (sys.stderr.write if arguments.json else sys.stdout.write)("\n".join(plan_lines(plans, arguments.model)) + "\n")
    if arguments.plan:
        return False
    if arguments.yes or not calls:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise DarkMatterError(f"Nothing was asked: add --yes to make up to {calls:,} calls, or --latents for fewer.")
    sys.stderr.write("Ask? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in {"y", "yes"}:
        return True
    sys.stderr.write("Nothing was asked.\n")
    return False


def _show(found: list[Detection], detectors: list[Detector], *, as_json: bool) -> None:
    if as_json:
        records = [one.record() for one in found]
        say(json.dumps(records[0] if len(records) == 1 else records, indent=1))
        return
    for one, detector in zip(found, detectors, strict=True):
        say("\n".join(detection_lines(one, detector.name)))
    on_parts = [one for one in found if one.about["part"] is not None]
    if len(on_parts) > 1:
        say("\n".join(parts_lines(on_parts)))
