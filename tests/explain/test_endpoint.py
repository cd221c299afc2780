"""The endpoint against a real server on this machine: all its ways to answer and to fail."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import subprocess
import threading
import traceback
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest

from dmcore import __version__
from dmcore.errors import Cancelled, SpecError, StoreError
from dmcore.explain import transport
from dmcore.explain.endpoint import EndpointSettings, OpenAIEndpoint
from dmcore.explain.interface import EndpointError, NoAnswerError
from tests.explain.server import Answer, Server, serve

SECRET = "sk-verysecret123"


def endpoint(
    server: Server, root: Path | None = None, *, waits: list[float] | None = None, **settings
) -> OpenAIEndpoint:
    """With a clock that stands at 1,000 s, and a sleep that only notes for how long."""
    slept = [] if waits is None else waits
    given = {"base_url": server.url, "model": "m", "retries": 2} | settings
    return OpenAIEndpoint(EndpointSettings(**given), root, sleep=slept.append, now=lambda: 1000.0)


def in_turn(*answers: Answer) -> Callable[[str, int], Answer]:
    return lambda _, number: answers[min(number, len(answers) - 1)]


def test_an_answer_is_asked_for_as_openai_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", SECRET)
    with serve(lambda prompt, _: Answer(prompt.upper())) as server:
        assert endpoint(server, key_variable="LAB_KEY", extra={"top_p": 0.5}).ask("hello") == "HELLO"
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == f"Bearer {SECRET}"
    assert request["body"] == {
        "model": "m",
        "temperature": 0.0,
        "max_tokens": 500,
        "top_p": 0.5,
        "messages": [{"role": "user", "content": "hello"}],
    }


def test_it_says_who_asks() -> None:
    """Some servers turn away what calls itself Python's urllib."""
    with serve(in_turn(Answer())) as server:
        endpoint(server).ask("hello")
    assert server.requests[0]["headers"]["User-Agent"] == f"dmcore/{__version__}"


def test_a_message_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "image"}, {"type": "text", "text": "two"}]
    raw = json.dumps({"choices": [{"message": {"content": parts}}]}).encode()
    with serve(in_turn(Answer(raw=raw))) as server:
        assert endpoint(server).ask("hello") == "one two"


def test_without_a_key_variable_no_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with serve(in_turn(Answer())) as server:
        endpoint(server).ask("hello")
    assert "Authorization" not in server.requests[0]["headers"]


def test_a_second_run_asks_nothing_and_another_setting_asks_again(tmp_path: Path) -> None:
    with serve(lambda prompt, number: Answer(f"{prompt} {number}")) as server:
        assert [endpoint(server, tmp_path).ask("a") for _ in range(3)] == ["a 0"] * 3
        assert len(server.requests) == 1
        assert endpoint(server, tmp_path).known("a") == "a 0"
        assert endpoint(server, tmp_path).known("b") is None
        assert endpoint(server, tmp_path, temperature=0.5).ask("a") == "a 1"
        assert endpoint(server, tmp_path, model="other").ask("a") == "a 2"
    assert endpoint(server, tmp_path, model="other").ask("a") == "a 2", "the server has gone, the answer is kept"


def test_a_line_cut_short_by_a_kill_costs_its_answer_alone(tmp_path: Path) -> None:
    with serve(lambda prompt, number: Answer(f"{prompt} {number}")) as server:
        for prompt in "ab":
            endpoint(server, tmp_path).ask(prompt)
        (file,) = (tmp_path / "answers").iterdir()
        file.write_bytes(file.read_bytes()[:-10])
        assert [endpoint(server, tmp_path).ask(prompt) for prompt in "abab"] == ["a 0", "b 2", "a 0", "b 2"]


def test_answers_that_cannot_be_written_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "answers").write_text("a file where the folder should be")
    with serve(in_turn(Answer())) as server, pytest.raises(StoreError, match="DMCORE_CACHE"):
        endpoint(server, tmp_path).ask("a")


@pytest.mark.parametrize("wait, expected", [("7", 7), (formatdate(1030, usegmt=True), 30), ("1e9", 300), ("soon", 1)])
def test_429_waits_as_long_as_the_server_asks(wait: str, expected: float) -> None:
    waits: list[float] = []
    with serve(in_turn(Answer(status=429, headers={"Retry-After": wait}), Answer("well"))) as server:
        assert endpoint(server, waits=waits).ask("a") == "well"
    assert sum(waits) == pytest.approx(expected)
    assert max(waits) <= 0.25, "a longer sleep could not be cancelled"


def test_waits_double() -> None:
    totals: list[float] = []
    waits: list[float] = []

    def answer(_: str, __: int) -> Answer:
        totals.append(sum(waits))
        return Answer(status=500)

    with serve(answer) as server, pytest.raises(NoAnswerError, match="in 5 tries .*status 500"):
        endpoint(server, waits=waits, retries=4, backoff=0.5).ask("a")
    assert totals == pytest.approx([0, 0.5, 1.5, 3.5, 7.5])


@pytest.mark.parametrize(
    "bad",
    [
        Answer(status=500),
        Answer(status=503, raw=b"<html>"),
        Answer(raw=b'{"choices": [{"mess'),
        Answer(raw=b'{"choices": []}'),
        Answer(raw=b"[" * 100_000),
        Answer(raw=b'{"choices": [{"message": {"content": 5}}]}'),
        Answer(text="a" * 1000, hang_up_after=500),
        Answer(text="a" * 1000, hang_up_after=0),
        Answer(status=500, raw=b"x" * 50, hang_up_after=10),
    ],
    ids=["500", "503", "broken", "no message", "deep", "no text", "hangs up", "hangs up at once", "500, hangs up"],
)
def test_what_may_pass_is_tried_again(bad: Answer, tmp_path: Path) -> None:
    with serve(in_turn(bad, bad, Answer("well"))) as server:
        assert endpoint(server, tmp_path).ask("a") == "well"
    with serve(in_turn(bad)) as server:
        with pytest.raises(NoAnswerError, match="in 3 tries"):
            endpoint(server, tmp_path).ask("b")
        assert len(server.requests) == 3
        assert endpoint(server, tmp_path).known("b") is None


def test_a_slow_answer_is_given_up_and_asked_for_again() -> None:
    never = threading.Event()
    with serve(in_turn(Answer(wait_for=never), Answer("well"))) as server:
        try:
            assert endpoint(server, timeout=1.5).ask("a") == "well"
        finally:
            never.set()
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "answer, said",
    [
        (Answer(status=401), "refuses the key (status 401): name the variable"),
        (Answer(status=403), "refuses the key (status 403)"),
        (Answer(status=404, raw=b'{"error": {"message": "no such\\nmodel"}}'), "no model m, .* no such model"),
        (Answer(status=402), "status 402"),
        (Answer(raw=b"<!doctype html>", headers={"Content-Type": "text/html"}), "a web page"),
    ],
)
def test_what_will_not_pass_is_said_at_once(answer: Answer, said: str) -> None:
    with serve(in_turn(answer)) as server, pytest.raises(EndpointError) as caught:
        endpoint(server).ask("a")
    assert len(server.requests) == 1
    text = str(caught.value)
    assert all(part in text for part in said.split(" .* "))
    assert "\n" not in text


def test_a_prompt_that_is_refused_fails_alone() -> None:
    answers = in_turn(Answer(status=400, raw=b'{"error": {"message": "too long"}}'), Answer("well"))
    with serve(answers) as server:
        asked = endpoint(server)
        with pytest.raises(NoAnswerError, match="too long"):
            asked.ask("a")
        assert asked.ask("b") == "well"


def test_nobody_there_is_a_sentence() -> None:
    with serve(in_turn(Answer())) as server:
        pass
    waits: list[float] = []
    with pytest.raises(EndpointError, match="cannot be reached .*refused.*check base_url"):
        endpoint(server, waits=waits).ask("a")
    assert sum(waits) == 3


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", SECRET)
    with serve(in_turn(Answer("stolen"))) as thief:
        moved = Answer(status=status, headers={"Location": f"{thief.url}/chat/completions"})
        with serve(in_turn(moved)) as server, pytest.raises(EndpointError, match="not followed"):
            endpoint(server, key_variable="LAB_KEY").ask("a")
    assert thief.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/v1",
        "localhost:8000",
        "//host/v1",
        "https://",
        "https://host:0/v1",
        "https://host:99999/v1",
        "https://ho st/v1",
        "https://host/v1\r\nX: y",
        f"https://me:{SECRET}@host/v1",
        f"https://host/v1?key={SECRET}",
        f"https://host/v1#{SECRET}",
    ],
)
def test_other_addresses_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(SpecError) as caught:
        EndpointSettings(url, "m")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_key_is_not_sent_unencrypted_to_another_machine() -> None:
    with pytest.raises(SpecError, match="unencrypted"):
        EndpointSettings("http://gpu-host:8000/v1", "m", key_variable="K")
    for fine in ("http://localhost:1/v1", "http://127.0.0.1:1/v1", "http://[::1]:1/v1", "https://gpu-host/v1"):
        assert EndpointSettings(fine, "m", key_variable="K").base_url == fine
    assert EndpointSettings("http://gpu-host:8000/v1", "m").key_variable is None
    assert EndpointSettings("http://gpu-host:8000/v1", "m", key_variable="K", allow_plain_http=True).allow_plain_http


@pytest.mark.parametrize("value", [None, "", "  ", f"{SECRET} x", f"{SECRET}\nX: y", f"{SECRET}é"])
def test_a_key_that_is_missing_or_is_none_is_a_sentence(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("LAB_KEY", value)
    with serve(in_turn(Answer())) as server, pytest.raises(EndpointError, match="LAB_KEY") as caught:
        endpoint(server, key_variable="LAB_KEY").ask("a")
    assert server.requests == []
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_the_key_is_in_no_log_error_or_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAB_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    told = json.dumps({"error": {"message": f"bad key {SECRET}"}}).encode()
    echoes = [Answer(status=status, raw=told) for status in (500, 429, 400, 401, 404, 418)]
    said = []
    for echo in echoes:
        with serve(in_turn(echo)) as server, pytest.raises((EndpointError, NoAnswerError)) as caught:
            endpoint(server, tmp_path, key_variable="LAB_KEY").ask("a")
        assert server.requests[0]["headers"]["Authorization"].endswith(SECRET)
        assert "bad key ***" in str(caught.value)
        said.append("".join(traceback.format_exception(caught.value)))
    with serve(in_turn(Answer(f"your key is {SECRET}"))) as server:
        asked = endpoint(server, tmp_path, key_variable="LAB_KEY")
        assert asked.ask("a") == "your key is ***"
    said += [caplog.text, *capfd.readouterr(), repr(asked), repr(vars(asked)), repr(asked.identity)]
    said += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert "asking again" in caplog.text
    assert "your key is ***" in said[-1]
    assert not any(SECRET in text for text in said)


def test_as_many_requests_at_a_time_as_allowed_and_no_more() -> None:
    two, three, met = threading.Barrier(2), threading.Barrier(3), []

    def answer(prompt: str, _: int) -> Answer:
        two.wait(10)  # with one at a time this would break
        with contextlib.suppress(threading.BrokenBarrierError):
            three.wait(0.5)  # three never meet
            met.append(prompt)
        return Answer(prompt)

    with serve(answer) as server:
        asked = endpoint(server, concurrency=2)
        threads = [threading.Thread(target=asked.ask, args=(f"p{number}",)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(server.prompts) == [f"p{number}" for number in range(8)]
    assert met == []


def test_an_answer_cut_short_is_told_from_a_broken_one() -> None:
    for bad, said in ((Answer("a" * 1000, hang_up_after=500), "hung up"), (Answer(raw=b"{"), "broken JSON")):
        with serve(in_turn(bad)) as server, pytest.raises(NoAnswerError, match=said):
            endpoint(server).ask("a")


def test_a_cancel_ends_the_waiting() -> None:
    waits: list[float] = []
    with serve(in_turn(Answer(status=429, headers={"Retry-After": "100"}))) as server:
        settings = EndpointSettings(server.url, "m")
        asked = OpenAIEndpoint(settings, None, sleep=waits.append, should_cancel=lambda: sum(waits) >= 1)
        with pytest.raises(Cancelled):
            asked.ask("a")
    assert sum(waits) == 1
    assert len(server.requests) == 1


@pytest.mark.parametrize("bad", [{"model": ""}, {"concurrency": 0}, {"timeout": 0}, {"extra": {"model": "x"}}])
def test_settings_that_make_no_sense_are_refused(bad: dict) -> None:
    with pytest.raises(SpecError):
        EndpointSettings(**{"base_url": "https://host/v1", "model": "m", **bad})


def test_a_proxy_gets_no_key_and_no_plain_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", SECRET)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serve(in_turn(Answer("by proxy"))) as proxy, serve(in_turn(Answer("direct"))) as server:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        assert endpoint(server, key_variable="LAB_KEY").ask("a") == "direct"
        assert proxy.requests == proxy.tunnels == []
        given = EndpointSettings("https://host.invalid/v1", "m", key_variable="LAB_KEY", retries=0)
        with pytest.raises(EndpointError, match="host.invalid cannot be reached"):
            OpenAIEndpoint(given, None).ask("a")
    assert proxy.requests == []
    (tunnel,) = proxy.tunnels
    assert tunnel.startswith("CONNECT host.invalid:443")
    assert SECRET not in tunnel


def test_https_to_a_server_that_speaks_http_is_a_sentence() -> None:
    with serve(in_turn(Answer())) as server, pytest.raises(EndpointError, match="cannot be reached"):
        endpoint(server, base_url=server.url.replace("http:", "https:")).ask("a")


def test_an_answer_that_never_ends_is_given_up() -> None:
    """Each piece comes in time, and the whole does not."""
    with serve(in_turn(Answer(drips=True), Answer("well"))) as server:
        assert endpoint(server, timeout=1.5).ask("a") == "well"
    assert len(server.requests) == 2


def test_an_answer_that_is_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MOST_BYTES", 1000)
    with serve(in_turn(Answer("x" * 2000), Answer("well"))) as server:
        assert endpoint(server).ask("a") == "well"


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    monkeypatch.setenv("LAB_KEY", SECRET)
    pem = tmp_path / "server.pem"
    make = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    command = [openssl, *make, *names, "-keyout", str(tmp_path / "key.pem"), "-out", str(pem)]
    subprocess.run(command, check=True, capture_output=True)
    with serve(in_turn(Answer("safe")), certificate=(pem, tmp_path / "key.pem")) as server:
        with pytest.raises(EndpointError, match="certificate of 127.0.0.1 is not to be trusted"):
            endpoint(server, key_variable="LAB_KEY").ask("a")
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        assert endpoint(server, key_variable="LAB_KEY").ask("a") == "safe", "the remedy in the sentence works"
