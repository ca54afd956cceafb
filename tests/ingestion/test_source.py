"""What is fetched is whole, in bounded time and tries."""

from __future__ import annotations

import gzip
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from ingestion.exchange import FetchStopped
from ingestion.json_array import WINDOW_BYTES, BadAnswer, split_records
from ingestion.source import (
    BACKOFF,
    MAX_RETRY_AFTER,
    USER_AGENT,
    Answer,
    FetchFailed,
    fetch,
    open_session,
)
from local_gcp.servers import hold_port
from tests.support.scripted_http import (
    Request,
    Respond,
    answer,
    drip,
    fall_silent,
    hang,
    reset,
    scripted_server,
    stop_halfway,
)


def no_pause(state: Any) -> float:
    return 0.0


@contextmanager
def serving(*answers: Respond) -> Iterator[tuple[str, list[Request]]]:
    """Serve `answers`; yield the address and the requests."""
    with scripted_server({"/carts": list(answers)}) as server:
        yield f"{server.url}/carts", server.requests


def read_all(given: Answer) -> list[bytes]:
    return [bytes(raw) for raws in split_records(given.blocks()) for raw in raws]


def get(url: str, **options: Any) -> list[bytes]:
    with open_session() as session:
        return fetch(session, url, read_all, **{"backoff": no_pause, **options})


def test_the_answer_comes_with_its_validator_and_its_time() -> None:
    with serving(answer(200, b"[1,2]", ETag='W/"5-x"')) as (url, requests):
        before = datetime.now(UTC)
        given, items = fetch(open_session(), url, lambda given: (given, read_all(given)))
    assert items == [b"1", b"2"]
    assert given.etag == 'W/"5-x"' and not given.not_modified
    assert before <= given.received_at <= datetime.now(UTC)
    assert requests[0].headers["User-Agent"] == USER_AGENT
    assert "If-None-Match" not in requests[0].headers


def test_an_unchanged_source_answers_the_condition_with_304_and_no_body() -> None:
    with serving(answer(304, b"", ETag='"x"')) as (url, requests):
        given = fetch(open_session(), url, lambda given: given, etag='"x"')
    assert given.not_modified and given.etag == '"x"'
    assert requests[0].headers["If-None-Match"] == '"x"'


def test_a_304_that_nobody_asked_for_is_no_answer() -> None:
    with serving(answer(304, b"")) as (url, _), pytest.raises(BadAnswer, match="answered 304"):
        get(url)


@pytest.mark.parametrize("failure", [answer(503), answer(429), answer(522), reset, stop_halfway])
def test_what_may_pass_is_tried_again_from_the_start(failure: Any) -> None:
    with serving(failure, answer(200, b"[1,2]")) as (url, requests):
        assert get(url) == [b"1", b"2"]
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (answer(503), r"answered 503 Service Unavailable \(3 attempts\)\.$"),
        (reset, r"could not be reached: .+ \(3 attempts\)\.$"),
        (stop_halfway, r"stopped in the middle of its answer .* \(3 attempts\)\.$"),
        (answer(200, b'[{"id":1}'), r"a list that is cut short \(3 attempts\)\.$"),
        (hang, r"did not answer within 0\.2 seconds \(3 attempts\)\.$"),
    ],
)
def test_what_does_not_pass_ends_after_three_attempts(failure: Any, sentence: str) -> None:
    # of what is answered, a busy machine's answer is waited for
    patience = 0.2 if failure is hang else 60
    with (
        serving(failure) as (url, requests),
        pytest.raises((FetchFailed, BadAnswer), match=sentence) as failed,
    ):
        get(url, timeout=(60, patience))
    assert str(failed.value).startswith(url)
    # the last one may be given up before the server has seen it
    wait_until(lambda: len(requests) >= 3)
    assert len(requests) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_other_client_errors_are_asked_once(status: int) -> None:
    with (
        serving(answer(status, b'{"error":"secret"}')) as (url, requests),
        pytest.raises(FetchFailed, match=f"answered {status}") as failed,
    ):
        get(url)
    assert failed.value.status == status
    assert "secret" not in str(failed.value)
    assert len(requests) == 1


def test_a_403_says_that_data_centres_are_refused_and_what_to_do() -> None:
    with (
        serving(answer(403, b"<html>")) as (url, requests),
        pytest.raises(FetchFailed, match=r"data centres.*another network.*--api-url"),
    ):
        get(url)
    assert len(requests) == 1


@pytest.mark.parametrize("body", [b"null", b"", b"<html>", b'{"a":1}', b"[1]x"])
def test_a_whole_answer_that_is_no_data_is_asked_once(body: bytes) -> None:
    with serving(answer(200, body)) as (url, requests), pytest.raises(BadAnswer):
        get(url)
    assert len(requests) == 1


def test_a_pause_that_the_server_names_is_kept_in_seconds_or_as_a_date() -> None:
    pauses: list[float] = []
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    answers = [answer(429, Retry_After="7"), answer(503, Retry_After=later), answer()]
    with serving(*answers) as (url, _):
        get(url, sleep=pauses.append)
    assert pauses[0] == 7
    assert 0 < pauses[1] <= 20


@pytest.mark.parametrize("pause", ["86400", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_pause_that_the_server_names_is_capped(pause: str) -> None:
    pauses: list[float] = []
    with serving(answer(429, Retry_After=pause), answer()) as (url, _):
        get(url, sleep=pauses.append)
    assert pauses == [MAX_RETRY_AFTER]


@pytest.mark.parametrize(
    "pause",
    [
        "soon",
        "",
        "Wed, 21 Oct 2015 07:28:00 GMT",
        "Wed, 21 Oct 2055 07:28:00 +9999999999",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "²",
    ],
)
def test_a_pause_that_is_no_pause_is_none(pause: str) -> None:
    pauses: list[float] = []
    with serving(answer(429, Retry_After=pause), answer()) as (url, _):
        get(url, sleep=pauses.append)
    assert pauses == [0.0]


def test_pauses_grow_and_differ() -> None:
    pauses: list[float] = []
    with serving(answer(503)) as (url, _), pytest.raises(FetchFailed):
        get(url, sleep=pauses.append, backoff=BACKOFF)
    assert 0.5 <= pauses[0] <= 1.0 <= pauses[1] <= 1.5
    assert pauses[0] != 0.5


def drip_header(handler: Any) -> None:
    """Begin a header that never ends."""
    handler.send_response(200)
    handler.flush_headers()
    with suppress(OSError):
        while True:
            handler.wfile.write(b"X: y\r\n")
            time.sleep(0.02)
    handler.close_connection = True


def drip_redirect(handler: Any) -> None:
    """Redirect to the list, with a body that never ends."""
    handler.send_response(302)
    handler.send_header("Location", "/carts")
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    with suppress(OSError):
        while True:
            handler.wfile.write(b" ")
            time.sleep(0.02)
    handler.close_connection = True


def early_hints(handler: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3)
    answer(200, b"[1,2]", ETag='"final"')(handler)


def threads_that_ask() -> int:
    return sum("_ask" in thread.name for thread in threading.enumerate())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("failure", [drip_header, hang, drip, fall_silent])
def test_one_deadline_ends_every_kind_of_waiting_and_the_thread_with_it(failure: Respond) -> None:
    with (
        serving(failure) as (url, requests),
        pytest.raises(FetchFailed, match=r"did not end its answer within 0\.3 seconds"),
    ):
        get(url, timeout=(60, 60), total_seconds=0.3, attempts=1)
    # none, where a busy machine did not come to ask within that time
    assert len(requests) <= 1
    wait_until(lambda: not threads_that_ask())


@pytest.mark.parametrize("failure", [drip_header, hang, drip, fall_silent])
def test_being_told_to_stop_ends_the_wait(failure: Respond) -> None:
    with serving(failure) as (url, requests):
        started = time.monotonic()
        with pytest.raises(FetchStopped):
            get(url, timeout=(120, 120), stopped=lambda: bool(requests))
    assert time.monotonic() - started < 60


def test_being_told_to_stop_ends_the_wait_for_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        # what waits in the queue of a listener that accepts nobody is as good as a lost packet
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(address)
        started = time.monotonic()
        with pytest.raises(FetchStopped):
            get(f"http://127.0.0.1:{address[1]}/carts", timeout=(120, 120), stopped=After(0.3))
        assert time.monotonic() - started < 60
        for each in waiting:
            each.close()


def test_being_told_to_stop_ends_the_pause_before_the_next_attempt() -> None:
    with serving(answer(503, Retry_After="30")) as (url, _):
        started = time.monotonic()
        with pytest.raises(FetchStopped):
            get(url, stopped=After(0.5))
    assert time.monotonic() - started < 25


class After:
    """Becomes true after some seconds."""

    def __init__(self, seconds: float) -> None:
        self._moment = time.monotonic() + seconds

    def __call__(self) -> bool:
        return time.monotonic() >= self._moment


def test_the_body_of_a_redirect_is_not_read() -> None:
    answers = {"/old": [drip_redirect], "/carts": [answer(200, b"[1]")]}
    with scripted_server(answers) as server:
        assert get(f"{server.url}/old", timeout=(5, 60), total_seconds=30) == [b"1"]


def test_redirects_are_bounded() -> None:
    with (
        scripted_server({"/loop": [answer(302, b"", Location="/loop")]}) as server,
        pytest.raises(FetchFailed, match="redirected more than 5 times"),
    ):
        get(f"{server.url}/loop")
    assert server.asked("/loop") == 6


@pytest.mark.parametrize(
    "location",
    [
        "http://[::1",
        "ftp://127.0.0.1/carts",
        "file:///etc/passwd",
        "http://a..b/",
        f"http://{'a' * 64}/",
        "http://caf\xe9\xff/",
        "http://127.0.0.1:99999/",
        "",
    ],
)
def test_a_redirect_to_what_cannot_be_asked_is_one_sentence(location: str) -> None:
    with (
        serving(answer(302, b"", Location=location)) as (url, _),
        pytest.raises(FetchFailed, match="answered 302 and no address to go on to"),
    ):
        get(url)


def test_a_redirect_without_a_location_is_one_sentence() -> None:
    with serving(answer(301, b"")) as (url, _), pytest.raises(FetchFailed, match="answered 301"):
        get(url)


def test_early_hints_are_not_the_answer() -> None:
    with serving(early_hints) as (url, _):
        etag, items = fetch(open_session(), url, lambda given: (given.etag, read_all(given)))
    assert (etag, items) == ('"final"', [b"1", b"2"])


@pytest.mark.parametrize(
    "etag",
    ['\xa0"x"', '"\xe9"', "x", '"x', f'"{"x" * 60_000}"', '"a b"'],
    ids=["blank", "Latin-1", "bare", "open", "60 kB", "with a blank"],
)
def test_an_etag_that_cannot_be_sent_back_is_not_kept(etag: str) -> None:
    with serving(answer(200, b"[1]", ETag=etag)) as (url, requests):
        assert fetch(open_session(), url, lambda given: given.etag) is None
        # and one that an older state holds is not sent
        get(url, etag=etag)
    assert "If-None-Match" not in requests[1].headers


@pytest.mark.parametrize("failure", [answer(412), answer(400), answer(431), answer(503), reset])
def test_a_condition_that_brings_no_answer_is_not_put_again(failure: Respond) -> None:
    with serving(failure, answer(200, b"[1]")) as (url, requests):
        assert get(url, etag='"x"') == [b"1"]
    assert ["If-None-Match" in request.headers for request in requests] == [True, False]


def test_what_fails_without_a_condition_too_fails() -> None:
    with serving(answer(404)) as (url, requests), pytest.raises(FetchFailed, match="answered 404"):
        get(url, etag='"x"')
    assert len(requests) == 2


def test_cookies_are_never_kept() -> None:
    with (
        serving(answer(200, b"[1]", Set_Cookie="a=1"), answer(200, b"[1]")) as (url, requests),
        open_session() as session,
    ):
        for _ in range(2):
            fetch(session, url, read_all)
        assert not session.cookies
    assert "Cookie" not in requests[1].headers


def test_netrc_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_bytes(b"default login somebody password s\xe9same\n")
    monkeypatch.setenv("NETRC", str(netrc))
    answers = {"/old": [answer(302, b"", Location="/carts")], "/carts": [answer(200, b"[1]")]}
    with scripted_server(answers) as server:
        assert get(f"{server.url}/old") == [b"1"]
    assert not any("Authorization" in request.headers for request in server.requests)


def test_the_name_and_password_of_an_address_are_sent_to_it_alone() -> None:
    with serving(answer(200, b"[1]")) as (url, requests):
        get(url.replace("//", "//user:sesame@"))
    assert requests[0].headers["Authorization"].startswith("Basic ")


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_proxy_of_the_environment_is_asked(proxied: pytest.MonkeyPatch) -> None:
    with scripted_server({"http://shop.invalid/carts": [answer(200, b"[1]")]}) as proxy:
        proxied.setenv("http_proxy", proxy.url)
        assert get("http://shop.invalid/carts") == [b"1"]


def test_a_message_about_a_proxy_names_the_setting_without_its_password(
    proxied: pytest.MonkeyPatch,
) -> None:
    with hold_port(0) as closed:
        port = closed.getsockname()[1]
        proxied.setenv("http_proxy", f"http://me:sesame@127.0.0.1:{port}")
        with pytest.raises(FetchFailed) as failed:
            get("http://shop.invalid/carts", attempts=1)
    assert f"through the proxy 127.0.0.1:{port} of http_proxy" in str(failed.value)
    assert "sesame" not in str(failed.value)


def test_what_a_proxy_answers_is_told_as_its_answer(proxied: pytest.MonkeyPatch) -> None:
    with scripted_server({"http://shop.invalid/carts": [answer(407)]}) as proxy:
        proxied.setenv("HTTP_PROXY", proxy.url)
        with pytest.raises(FetchFailed, match=r"answered 407 .*through the proxy .* of HTTP_PROXY"):
            get("http://shop.invalid/carts")


@pytest.mark.parametrize("proxy", ["http://[::1", "http://a b:1", "nonsense://x:1", "http://é..ü"])
def test_a_proxy_that_cannot_be_asked_is_one_sentence(
    proxied: pytest.MonkeyPatch, proxy: str
) -> None:
    proxied.setenv("http_proxy", proxy)
    with pytest.raises(FetchFailed, match="http_proxy"):
        get("http://shop.invalid/carts", attempts=1)


def test_socks_says_what_is_missing(proxied: pytest.MonkeyPatch) -> None:
    proxied.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(FetchFailed, match=r"of ALL_PROXY.*PySocks") as failed:
        get("http://shop.invalid/carts")
    assert not failed.value.transient


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip"])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_answer_is_unpacked_in_small_pieces_up_to_its_limit(
    encoding: str, chunked: bool
) -> None:
    body = b"[" + b" " * (40 << 20)
    for name in encoding.split(", "):
        body = gzip.compress(body, 1) if name == "gzip" else zlib.compress(body, 1)
    headers = {"Content_Encoding": encoding}
    if chunked:
        headers |= {"Transfer_Encoding": "chunked"}
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    taken = []

    def read(given: Answer) -> None:
        for block in given.blocks():
            taken.append(len(block))

    with (
        serving(answer(200, body, **headers)) as (url, _),
        pytest.raises(BadAnswer, match="more than 10 MB, unpacked"),
    ):
        fetch(open_session(), url, read, max_bytes=10 << 20)
    assert max(taken) <= WINDOW_BYTES
    assert sum(taken) <= 10 << 20


def test_a_body_that_falls_silent_ends() -> None:
    with serving(fall_silent) as (url, _), pytest.raises(FetchFailed, match="in the middle"):
        # the answer has to have begun within this, on a busy machine too
        get(url, timeout=(60, 2), attempts=1)


def test_the_password_of_an_address_is_in_no_message() -> None:
    with serving(answer(503)) as (url, _), pytest.raises(FetchFailed) as failed:
        get(url.replace("//", "//user:sesame@"), attempts=1)
    assert str(failed.value).startswith(url)
    assert "sesame" not in str(failed.value)
