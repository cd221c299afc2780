"""The Hugging Face hub: which commit a name means, the token, and its failures as sentences that name the remedy.

A token is read from the environment for each request, and is kept nowhere: not in files, keys, manifests or messages.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dmcore.errors import SpecError

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
COMMIT = re.compile(r"[0-9a-f]{40}")
SECONDS_FOR_AN_ANSWER = 5.0
"""After so long without an answer the hub counts as out of reach."""
SECONDS_KNOWN = 60.0
"""For so long it is not asked again whether it answers."""
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
"""`answers` and `silent`: when that was last seen."""
_waived = [0]
"""How many uses of `without_waiting` hold the hub's libraries offline."""


def token() -> str | bool:
    """The token of the environment, or False: then none is sent, not even one that was stored by another program."""
    return next((os.environ[name] for name in TOKEN_VARIABLES if os.environ.get(name)), False)


def cached_file(repository: str, name: str, revision: str) -> Path | None:
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
    cached = cached_file(repository, "config.json", revision)
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


@contextmanager
def without_waiting() -> Iterator[None]:
    """While the hub does not answer, or is too busy to, its libraries read their cache without asking, for as long as this lasts.

    Without it each file that is asked for, also those that a model need not have, is tried for 23 s, and what is whole in the
    cache counts as out of reach.
    """
    from huggingface_hub import constants

    with _turn:
        waive = bool(_waived[0]) or (not constants.is_offline_mode() and not _answers())
        if waive:
            _waived[0] += 1
            constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        if waive:
            with _turn:
                _waived[0] -= 1
                if not _waived[0]:
                    constants.HF_HUB_OFFLINE = False


def _answers() -> bool:
    """Whether the hub answers, and is not too busy to; what was seen less than `SECONDS_KNOWN` ago holds."""
    from huggingface_hub import constants, get_session

    now = time.monotonic()
    for said in ("answers", "silent"):
        if said in _known and now - _known[said] < SECONDS_KNOWN:
            return said == "answers"
    _known.clear()
    try:
        status = get_session().head(constants.ENDPOINT, timeout=SECONDS_FOR_AN_ANSWER).status_code
        said = "silent" if status == 429 or status >= 500 else "answers"
    except Exception:  # of the network, its library, or the address: it cannot be asked for anything
        said = "silent"
    _known[said] = time.monotonic()
    return said == "answers"


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
