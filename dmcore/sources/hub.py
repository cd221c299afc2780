"""The Hugging Face hub: which commit a name means, the token, and its failures as sentences that name the remedy.

A token is read from the environment for each request, and is kept nowhere: not in files, keys, manifests or messages.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from dmcore.errors import SpecError

T = TypeVar("T")
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
COMMIT = re.compile(r"[0-9a-f]{40}")
SECONDS_FOR_AN_ANSWER = 5.0
"""After so long without an answer the hub counts as out of reach."""
SECONDS_KNOWN = {"answers": 60.0, "busy": 5.0, "silent": 5.0}
"""For so long it is not asked again whether it answers."""
BUSY = (429, 502, 503, 504)
"""Answers of a hub that may give what is asked for later; a mirror may have others at its root, and give all the same."""
_OUT_OF_REACH = {
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "ConnectionError",
    "NetworkError",
    "TimeoutException",
    "TimeoutError",
}


_BROKEN_OFF = {"RemoteProtocolError", "IncompleteRead", "ChunkedEncodingError", "ClientPayloadError"}
_turn = threading.Lock()
_known: dict[str, float] = {}
"""What the hub was last seen to do, and when."""
_asking, _silenced = [0], [0]
"""How many downloads are under way; whether the hub's libraries are held offline."""


def token() -> str | bool:
    """The token of the environment, or False: then none is sent, not even one that was stored by another program."""
    return next((os.environ[name] for name in TOKEN_VARIABLES if os.environ.get(name)), False)


def file_of_commit(repository: str, name: str, revision: str) -> Path | None:
    """A model's file in the local cache of the hub; never asks the hub."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repository, name, revision=revision)
    except ValueError as error:  # the id is not one
        raise SpecError(explain(error, "model", repository)) from error
    return Path(found) if isinstance(found, str) else None


def resolve_commit(repository: str, revision: str) -> str | None:
    """The commit that a model's branch or tag means; None if the hub cannot be reached and nothing is cached.

    What the local cache says comes first, so that one machine gives one answer for as long as it keeps its cache; a model
    that is not there is asked for once, and its `config.json` fetched.

    Raises:
        SpecError: the hub says that there is no such model, or that it is gated.
    """
    if COMMIT.fullmatch(revision):
        return revision
    cached = file_of_commit(repository, "config.json", revision)
    if cached is not None:
        return cached.parent.name
    from huggingface_hub import HfApi, hf_hub_download

    try:
        # Asked first because it gives up at once where there is no network; a download tries for 23 s.
        HfApi(token=token()).model_info(repository, revision=revision, timeout=SECONDS_FOR_AN_ANSWER)
        return Path(hf_hub_download(repository, "config.json", revision=revision, token=token())).parent.name
    except Exception as error:
        if _kinds(error) & _OUT_OF_REACH or _is_busy(error):
            return None
        raise SpecError(explain(error, "model", repository)) from error


def loading_options(repository: str, revision: str) -> dict[str, Any]:
    """What `from_pretrained` is given for a model of the hub: the very commit that its key names, and the token."""
    return {"revision": resolve_commit(repository, revision) or revision, "token": token()}


def without_waiting(load: Callable[[], T], *, local: bool = False) -> T:
    """What a library of the hub loads; where the hub does not answer, from its cache, without asking.

    `local`: it reads a folder of this machine and asks the hub for nothing, so neither does this.

    Without it each file that is asked for, also those that a model need not have, is tried for 23 s, and what is whole in the
    cache counts as out of reach. A hub that is only too busy is asked after all for what is not there.
    """
    state = "answers" if local or _silenced[0] else _state()
    if state == "answers":
        return load()
    try:
        with _offline():
            return load()
    except Exception as error:
        if state == "silent" or not _kinds(error) & _OUT_OF_REACH:
            raise
    return load()


@contextmanager
def asking() -> Iterator[None]:
    """For as long as this lasts, nobody takes the hub for silent: something is being downloaded."""
    with _turn:
        _asking[0] += 1
    try:
        yield
    finally:
        with _turn:
            _asking[0] -= 1


@contextmanager
def _offline() -> Iterator[None]:
    """The hub's libraries do not ask it, unless a download is under way, or they are told so by the environment."""
    from huggingface_hub import constants

    with _turn:
        mine = not _asking[0] and not constants.is_offline_mode()
        if mine:
            constants.HF_HUB_OFFLINE = True
            _silenced[0] += 1
    try:
        yield
    finally:
        if mine:
            with _turn:
                _silenced[0] -= 1
                constants.HF_HUB_OFFLINE = False


def _state() -> str:
    """Whether the hub `answers`, is `busy` or `silent`; what was seen a moment ago holds for `SECONDS_KNOWN`."""
    from huggingface_hub import constants, get_session

    now = time.monotonic()
    for state, seen in _known.items():
        if now - seen < SECONDS_KNOWN[state]:
            return state
    if constants.is_offline_mode():
        return "answers"  # it is not asked anyway
    _known.clear()
    try:
        status = get_session().head(constants.ENDPOINT, timeout=SECONDS_FOR_AN_ANSWER).status_code
        state = "busy" if status in BUSY else "answers"
    except Exception:  # of the network, its library, or the address: it cannot be asked for anything
        state = "silent"
    _known[state] = time.monotonic()
    return state


def explain(error: BaseException, kind: str, name: str) -> str:
    """One sentence for a failure to load a `kind` (`model`, `data set`, `SAE`) called `name`, with the remedy."""
    kinds, text = _kinds(error), _text(error)
    status = _status(error)
    if "GatedRepoError" in kinds or re.search(r"gated (repo|dataset)", text, re.IGNORECASE):
        return (
            f"The {kind} {name} is gated: accept its licence on its page (huggingface.co/"
            f"{'datasets/' if kind == 'data set' else ''}{name}), then set HF_TOKEN in the environment."
        )
    if "RevisionNotFoundError" in kinds:
        return f"The {kind} {name} has no such revision: check revision in the study."
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError", "HFValidationError"} or status in {401, 403, 404}:
        return (
            f"There is no {kind} {name} on the hub, or it is private: check its id; for a private one set HF_TOKEN in "
            "the environment."
        )
    if kinds & _BROKEN_OFF:
        return f"The download of the {kind} {name} broke off: run it again, what has come whole is kept."
    if kinds & _OUT_OF_REACH or "couldn't connect" in text.lower() or "couldn't reach" in text.lower():
        return (
            f"The {kind} {name} is not in the local cache and the hub cannot be reached: check the network (and that "
            "HF_HUB_OFFLINE is not set), or give a local path."
        )
    if "out of memory" in text.lower() or "can't allocate memory" in text.lower() or "MemoryError" in kinds:
        return (
            f'The {kind} {name} does not fit in memory: give dtype = "bfloat16", or device_map = "auto" to spread it '
            "over the devices that there are."
        )
    if _is_busy(error):
        return f"The hub does not give the {kind} {name} at present (status {status}): try again in some minutes."
    if re.search(r"file named \S*safetensors", text):
        return (
            f"The {kind} {name} has no weights as .safetensors, which alone are read because other formats can run code: "
            "convert them, or choose a revision that has them."
        )
    said = " ".join(text.split()) or type(error).__name__
    return f"Cannot load the {kind} {name} ({said[:200].rstrip('. ')}): check the path or id."


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    return chain


def _kinds(error: BaseException) -> set[str]:
    """Names of the classes of an error and of those that it came from: transformers wraps the hub's in an OSError."""
    return {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}


def _status(error: BaseException) -> int | None:
    for one in _chain(error):
        response: Any = getattr(one, "response", None)
        if getattr(response, "status_code", None) is not None:
            return response.status_code
    return None


def _is_busy(error: BaseException) -> bool:
    status = _status(error)
    return status is not None and (status == 429 or status >= 500)


def _text(error: BaseException) -> str:
    """The messages, without anything that looks like a token."""
    text = " ".join(str(one) for one in _chain(error)) if len(_chain(error)) > 1 else str(error)
    for variable in TOKEN_VARIABLES:
        if os.environ.get(variable):
            text = text.replace(os.environ[variable], "***")
    return re.sub(r"hf_[A-Za-z0-9]{8,}", "***", text)
