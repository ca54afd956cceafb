"""What is fetched is whole, in bounded time and tries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from ingestion.json_array import BadAnswer, split_records
from ingestion.source import (
    BACKOFF,
    MAX_RETRY_AFTER,
    USER_AGENT,
    Answer,
    FetchFailed,
    fetch,
    open_session,
)
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
    with (
        serving(failure) as (url, requests),
        pytest.raises((FetchFailed, BadAnswer), match=sentence) as failed,
    ):
        get(url, timeout=(1, 0.2))
    assert str(failed.value).startswith(url)
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
    assert 10 < pauses[1] <= 20


@pytest.mark.parametrize("pause", ["86400", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_pause_that_the_server_names_is_capped(pause: str) -> None:
    pauses: list[float] = []
    with serving(answer(429, Retry_After=pause), answer()) as (url, _):
        get(url, sleep=pauses.append)
    assert pauses == [MAX_RETRY_AFTER]


@pytest.mark.parametrize("pause", ["soon", "", "Wed, 21 Oct 2015 07:28:00 GMT"])
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


def test_a_body_that_drips_ends() -> None:
    with (
        serving(drip) as (url, requests),
        pytest.raises(FetchFailed, match=r"did not end its answer within 0\.3 seconds"),
    ):
        get(url, timeout=(1, 5), total_seconds=0.3, attempts=1)
    assert len(requests) == 1


def test_a_body_that_falls_silent_ends() -> None:
    with serving(fall_silent) as (url, _), pytest.raises(FetchFailed, match="in the middle"):
        get(url, timeout=(1, 0.2), attempts=1)


def test_the_password_of_an_address_is_in_no_message() -> None:
    with serving(answer(503)) as (url, _), pytest.raises(FetchFailed) as failed:
        get(url.replace("//", "//user:sesame@"), attempts=1)
    assert str(failed.value).startswith(url)
    assert "sesame" not in str(failed.value)
