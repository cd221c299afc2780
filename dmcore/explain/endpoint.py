"""A chat endpoint that speaks OpenAI's protocol: a local vLLM, or a hosted one.

1. What has been answered is read from disk, by the key of (model, prompt, settings); a second run asks nothing.
2. The key is read from the environment for each request, goes to the given host alone, and is kept nowhere: not in answers
   (a server that repeats it is masked), logs or errors.
3. A request that may succeed later (429, 5xx, time out, hung up, half an answer) is made again, after `backoff * 2^n` seconds
   or as many as the server asks for.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult

from dmcore.errors import Cancelled, SpecError
from dmcore.explain.interface import EndpointError, NoAnswerError
from dmcore.explain.journal import Journal
from dmcore.explain.transport import CutOffError, NotReachedError, Reply, check_address, is_this_machine, post
from dmcore.store.fingerprint import content_key

log = logging.getLogger(__name__)

ANSWERS = "answers"
"""Folder of the store that keeps answers: one file a model. It holds no entries."""
MOST_WAIT = 300.0
"""Longest wait between two tries, in seconds, whatever the server asks for."""


@dataclass(frozen=True)
class EndpointSettings:
    """Where to ask, and how."""

    base_url: str
    """Up to the version, e.g. `http://localhost:8000/v1`."""
    model: str
    """As the endpoint calls it."""
    key_variable: str | None = None
    """Name of the environment variable that has the key; None sends none."""
    timeout: float = 120.0
    """Seconds for an answer."""
    concurrency: int = 4
    """Most requests at a time."""
    retries: int = 5
    """Most times that a request is made again."""
    backoff: float = 1.0
    """Seconds before the first of these; each further one waits twice as long."""
    temperature: float | None = 0.0
    """None sends none, for models that allow none."""
    max_tokens: int | None = 500
    """Most tokens of an answer; None sends none."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the request's body, e.g. `{"max_completion_tokens": 2000}`."""
    allow_plain_http: bool = False
    """Send the key over http to another machine, unencrypted."""

    def __post_init__(self) -> None:
        parts = check_address(self.base_url)
        if not self.model or self.concurrency < 1 or self.retries < 0 or self.timeout <= 0 or self.backoff < 0:
            raise SpecError("An endpoint needs a model, a timeout above 0, and at least one request at a time.")
        if set(self.extra) & {"model", "messages", "stream", "n"}:
            raise SpecError("extra must not set model, messages, stream or n: take them out.")
        safe = parts.scheme == "https" or is_this_machine(parts.hostname or "") or self.allow_plain_http
        if self.key_variable and not safe:
            raise SpecError(
                "The key would be sent unencrypted: use https, a tunnel to localhost, or set allow_plain_http."
            )

    @property
    def body(self) -> dict[str, Any]:
        """The fields of every request but the messages; answers are kept by these and the prompt."""
        fixed = {"model": self.model, "temperature": self.temperature, "max_tokens": self.max_tokens, **self.extra}
        return {name: value for name, value in fixed.items() if value is not None}


class _AgainError(Exception):
    """The request may succeed later: in `wait` seconds, if the server says so."""

    def __init__(self, reason: str, *, wait: float | None = None, is_down: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.wait, self.is_down = reason, wait, is_down


class OpenAIEndpoint:
    """Answers prompts; many threads may ask at once.

    Args:
        settings: where and how.
        root: the store's folder, under which answers are kept; None keeps them in memory.
        should_cancel: asked before each request and while waiting.
        sleep, now: of `time`, for tests.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        root: Path | None,
        *,
        should_cancel: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        name = f"{content_key(settings.model)}.jsonl"
        self._answers = Journal(None if root is None else root / ANSWERS / name)
        self._parts: SplitResult = check_address(settings.base_url)
        self._should_cancel, self._sleep, self._now = should_cancel, sleep, now
        self._slots = threading.BoundedSemaphore(settings.concurrency)

    @property
    def identity(self) -> dict[str, Any]:
        """What answers depend on besides the prompt."""
        return self.settings.body

    def known(self, prompt: str) -> str | None:
        """The answer to a prompt if it is kept; asks nobody."""
        kept = self._answers.get(self._key_of(prompt))
        return kept["answer"] if isinstance(kept, dict) and isinstance(kept.get("answer"), str) else None

    def ask(self, prompt: str) -> str:
        """The answer to a prompt, which may be empty or nonsense.

        Raises:
            NoAnswerError: there is none after all retries, or the endpoint refuses this prompt.
            EndpointError: it would answer no prompt: address, key or model are wrong, or nobody is there.
            Cancelled: the user asked to stop.
        """
        kept = self.known(prompt)
        if kept is not None:
            return kept
        payload = json.dumps({**self.settings.body, "messages": [{"role": "user", "content": prompt}]}).encode()
        attempt = 0
        while True:
            try:
                answer, usage = self._try(payload)
                break
            except _AgainError as failure:
                if attempt == self.settings.retries:
                    raise self._given_up(failure) from None
                self._check_cancel()
                log.warning("%s: %s; asking again.", self._parts.netloc, failure.reason)
                own = self.settings.backoff * 2**attempt
                self._wait(min(max(own, failure.wait or 0.0), MOST_WAIT))
                attempt += 1
        self._answers.put(self._key_of(prompt), {"model": self.settings.model, "answer": answer, "usage": usage})
        return answer

    def _key_of(self, prompt: str) -> str:
        return content_key({"prompt": prompt, "body": self.settings.body})

    def _key(self) -> str | None:
        variable = self.settings.key_variable
        if variable is None:
            return None
        key = os.environ.get(variable, "").strip()
        if not key:
            raise EndpointError(f"There is no key: set {variable} in the environment.")
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise EndpointError(f"{variable} does not hold a key (it has spaces or other signs): set it anew.")
        return key

    def _wait(self, seconds: float) -> None:
        """Sleep, in steps short enough to be cancelled."""
        while seconds > 0:
            self._check_cancel()
            step = min(seconds, 0.25)
            self._sleep(step)
            seconds -= step

    def _check_cancel(self) -> None:
        if self._should_cancel():
            raise Cancelled("Asking the language model was cancelled.")

    def _try(self, payload: bytes) -> tuple[str, dict[str, int]]:
        key = self._key()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        with self._slots:
            self._check_cancel()
            try:
                reply = post(self._parts, "/chat/completions", payload, headers, self.settings.timeout)
            except NotReachedError as error:
                raise _AgainError(str(error), is_down=True) from None
            except CutOffError as error:
                raise _AgainError(str(error)) from None
        if reply.status != 200:
            self._refuse(reply, key)
        return self._answer(reply, key)

    def _refuse(self, reply: Reply, key: str | None) -> None:
        status, where, said = reply.status, self._parts.netloc, _said(reply, key)
        if status in {408, 409, 425, 429} or status >= 500:
            raise _AgainError(f"it is busy or broken (status {status}{said})", wait=self._retry_after(reply))
        if status in {301, 302, 303, 307, 308}:
            raise EndpointError(
                f"{where} sends requests on to another address, which is not followed: check base_url (http or https?)."
            )
        if status in {401, 403}:
            variable = self.settings.key_variable
            remedy = (
                f"check the key in {variable}" if variable else "name the variable that has its key in key_variable"
            )
            raise EndpointError(f"{where} refuses the key (status {status}{said}): {remedy}.")
        if status == 404:
            raise EndpointError(
                f"{where} has no model {self.settings.model}, or no chat at this address (status 404{said}): check model, "
                "and base_url, which mostly ends in /v1."
            )
        if status in {400, 413, 422}:
            raise NoAnswerError(
                f"{where} refuses this prompt (status {status}{said}): check model, max_tokens and extra."
            )
        raise EndpointError(f"{where} answers with status {status}{said}: check base_url and the account.")

    def _retry_after(self, reply: Reply) -> float | None:
        """Seconds that the server asks to wait for: given so, or as a date."""
        value = reply.headers.get("retry-after", "").strip()
        try:
            seconds = float(value)
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - self._now()
            except (ValueError, TypeError, OverflowError):
                return None
        return seconds if seconds > 0 else None

    def _answer(self, reply: Reply, key: str | None) -> tuple[str, dict[str, int]]:
        if "html" in reply.headers.get("content-type", ""):
            raise EndpointError(
                f"{self._parts.netloc} answers with a web page: check base_url, which mostly ends in /v1."
            )
        try:
            body = json.loads(reply.body)
            content = body["choices"][0]["message"]["content"]
        except (ValueError, RecursionError):
            raise _AgainError("its answer is broken JSON") from None
        except (KeyError, IndexError, TypeError):
            raise _AgainError("its answer is JSON without a message") from None
        if isinstance(content, list):  # parts, as some servers write a message
            content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
        if not isinstance(content, str | None):
            raise _AgainError("its message is no text")
        usage = body.get("usage")
        counts = usage if isinstance(usage, dict) else {}
        names = ("prompt_tokens", "completion_tokens")
        return _masked(content or "", key), {name: counts[name] for name in names if isinstance(counts.get(name), int)}

    def _given_up(self, failure: _AgainError) -> Exception:
        where, tries = self._parts.netloc, self.settings.retries + 1
        if failure.is_down:
            return EndpointError(
                f"{where} cannot be reached ({failure.reason}): check base_url, and that the server runs."
            )
        return NoAnswerError(f"No answer from {where} in {tries} tries ({failure.reason}): run again later.")


def _masked(text: str, key: str | None) -> str:
    return text.replace(key, "***") if key else text


def _said(reply: Reply, key: str | None) -> str:
    """What the server says of an error, on one line, without the key and cut; empty where it says nothing."""
    try:
        body = json.loads(reply.body)
        error = body.get("error", body)
        said = error if isinstance(error, str) else error.get("message") or error.get("detail")
    except (ValueError, AttributeError, RecursionError):
        return ""
    line = "".join(c if c.isprintable() else " " for c in said) if isinstance(said, str) else ""
    short = " ".join(_masked(line, key).split())[:160].rstrip(". ")
    return f": {short}" if short else ""
