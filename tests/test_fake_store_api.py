"""What is fetched is whole, what is cut is exact, and what is redacted is gone."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest
from scripted_http import (
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

import fake_store_api as api


def no_pause(state: Any) -> float:
    return 0.0


class Record(msgspec.Struct):
    id: api.Id
    title: str


def blocks_of(body: bytes, size: int) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


def split(body: bytes, size: int = 1 << 16) -> list[bytes]:
    windows = api.split_records(blocks_of(body, size))
    return [bytes(raw) for raws in windows for raw in raws]


def check(body: bytes) -> list[api.Window]:
    return list(api.check_records(api.split_records([body]), Record))


def elements_by_the_standard_library(body: bytes) -> list[bytes]:
    text, decoder, found = body.decode(), json.JSONDecoder(), []
    position = text.index("[") + 1
    while True:
        while text[position] in " \t\r\n,":
            position += 1
        if text[position] == "]":
            return found
        _, end = decoder.raw_decode(text, position)
        found.append(text[position:end].encode())
        position = end


# split_records

ODD_ARRAYS = [
    b"[]",
    b" [ ] ",
    b'\n[1, null, [2,[3]], "},{", {}]\n',
    b'[{"a":[{"a":1},{"a":2}]} , {"a":[{"a":[{"a":3},{"a":4}]},{"a":2}]} ]',
    b'[{"a":"},{\\"a\\":1"},{"a":"\\\\"},{"a":"\\\\\\"},{"}]',
    b'[{"b":1},{"a":2},{"c":{"b":1}},{"b":[{"b":1},{"b":2}]}]',
    b'[\n  {\n    "a": 1,\n    "n": [{"a":1}, {"a":2}]\n  },\n  {\n    "a": 2\n  }\n]\n',
    '[{"é":"ü},{"},{"é":"\U0001f600"}]'.encode(),
    b'[{"a":1.50},{"a":1e300},{"a":12345678901234567890123}]',
    b'[{"a":"cut emoji \\ud83d"},{"a":"\\\\ud83d"},{"a":"\\ud83d\\ude00"}]',
]


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "WINDOW_BYTES", 8)


@pytest.mark.parametrize("body", ODD_ARRAYS)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 64, 1 << 16])
def test_every_element_is_cut_out_unchanged(small_windows: None, body: bytes, size: int) -> None:
    assert split(body, size) == elements_by_the_standard_library(body)


def test_random_records_are_cut_out_unchanged_at_any_block_size(small_windows: None) -> None:
    chance = random.Random(4)

    def value(depth: int) -> Any:
        kind = chance.randrange(6 if depth else 3)
        if kind == 0:
            return chance.choice(["},{", '"', "\\", '},{"id":', "é[]{", "\U0001f600", ""])
        if kind in (1, 2):
            return chance.choice([0, -1.5, True, None, 10**20])
        if kind == 3:
            return [value(depth - 1) for _ in range(chance.randrange(4))]
        return {chance.choice(["id", "a", "}"]): value(depth - 1) for _ in range(2)}

    for _ in range(300):
        records = [{"id": number, "x": value(3)} for number in range(chance.randrange(1, 8))]
        spelling = {"indent": chance.choice([None, 1]), "ensure_ascii": chance.random() < 0.5}
        body = json.dumps(records, **spelling).encode()
        assert split(body, chance.randrange(1, 40)) == elements_by_the_standard_library(body)


@pytest.mark.parametrize(
    "body",
    [b"[", b'[{"a":1}', b'[{"a":1},', b'[{"a":1},{"a":2', b'[{"a":1},{"a":"' + b"x" * 100],
)
@pytest.mark.parametrize("size", [1, 3, 1 << 16])
def test_a_list_cut_short_is_refused_and_worth_another_attempt(
    small_windows: None, body: bytes, size: int
) -> None:
    with pytest.raises(api.BadAnswer, match="cut short") as refused:
        split(body, size)
    assert refused.value.transient


@pytest.mark.parametrize(
    "body",
    [
        b'[{"a":1}]x',
        b'[{"a":1} {"a":2}]',
        b'[{"a":1},]',
        b'[{"a":1,}]',
        b'[{"a":01},{"a":2}]',
        b'[{"a":1}],{"a":2},{"a":3}]',
        b'[{"a":tru},{"a":1},{"a":1}]',
        b'[{"a":"\n"},{"a":1}]',
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1 << 16])
def test_a_list_that_is_not_json_is_refused_for_good(
    small_windows: None, body: bytes, size: int
) -> None:
    with pytest.raises(api.BadAnswer, match="not valid JSON") as refused:
        split(body, size)
    assert not refused.value.transient


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "an empty body"),
        (b" \n", "an empty body"),
        (b"null", "null"),
        (b'{"error":1}', "a JSON object"),
        (b"<!DOCTYPE html>", "an HTML page"),
        (b'"text"', "something"),
    ],
)
def test_what_is_no_list_is_refused_by_its_name(body: bytes, sentence: str) -> None:
    with pytest.raises(api.BadAnswer, match=f"answered {sentence} instead of a list") as refused:
        split(body, 1)
    assert not refused.value.transient


def test_nesting_beyond_the_decoder_is_refused() -> None:
    with pytest.raises(api.BadAnswer, match="nested too deep"):
        split(b"[" * 100_000 + b"]" * 100_000)


def test_a_record_larger_than_the_limit_is_refused_before_it_is_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api, "MAX_RECORD_BYTES", 1 << 20)
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield b'[{"a":"'
        while True:
            taken += 1
            yield b"x" * 65536

    with pytest.raises(api.BadAnswer, match="more than 1 MB"):
        list(api.split_records(endless()))
    assert taken < 64


def test_a_record_of_many_nested_objects_costs_linear_time() -> None:
    inner = b",".join(b'{"n":%d}' % number for number in range(300_000))
    body = b'[{"id":1,"x":[%b]},{"id":2,"x":[%b]}]' % (inner, inner)
    started = time.process_time()
    assert [len(record) for record in split(body)] == [len(inner) + 15] * 2
    assert time.process_time() - started < 5


# check_records


def test_valid_records_pass_with_their_bytes() -> None:
    body = b'[{"id":1,"title":"a ","x":[1]}, {"title":"b","id":2}]'
    (window,) = check(body)
    assert [bytes(raw) for raw in window.raws] == [
        b'{"id":1,"title":"a ","x":[1]}',
        b'{"title":"b","id":2}',
    ]
    assert window.records == [Record(1, "a "), Record(2, "b")]
    assert window.bad == []


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b'{"title":"a"}', "missing required field `id`"),
        (b'{"id":"1","title":"a"}', "got `str`"),
        (b'{"id":true,"title":"a"}', "got `bool`"),
        (b'{"id":1.0,"title":"a"}', "got `float`"),
        (b'{"id":9223372036854775808,"title":"a"}', "<= 9223372036854775807"),
        (b'{"id":9,"title":null}', "got `null`"),
        (b"null", "Expected `object`, got `null`"),
        (b'["id"]', "Expected `object`, got `array`"),
        (b'{"id":9,"title":"\\ud83d"}', "not valid Unicode"),
        (b'{"id":9,"title":"a","x":"\xff"}', "not valid Unicode"),
    ],
)
def test_one_bad_record_is_set_apart_with_position_and_reason(record: bytes, reason: str) -> None:
    good = [b'{"id":%d,"title":"t"}' % number for number in range(100, 120)]
    body = b"[" + b",".join([*good[:3], record, *good[3:]]) + b"]"
    (window,) = check(body)
    assert [bytes(raw) for raw in window.raws] == good
    assert [(bad.position, bad.raw) for bad in window.bad] == [(3, record)]
    assert reason in window.bad[0].reason


def test_more_than_a_tenth_of_bad_records_refuses_the_answer() -> None:
    good = [b'{"id":%d,"title":"t"}' % number for number in range(18)]
    check(b"[" + b",".join([*good, b'{"id":"x"}', b"5"]) + b"]")
    with pytest.raises(api.BadAnswer, match="3 bad records of 21, the first at position 18"):
        check(b"[" + b",".join([*good, b'{"id":"x"}', b"5", b"6"]) + b"]")


def test_a_reason_never_shows_a_value() -> None:
    with pytest.raises(api.BadAnswer) as refused:
        check(b'[{"id":"sesame","title":"t","password":"sesame"}]')
    assert "sesame" not in str(refused.value)


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(api.BadAnswer, match="empty list"):
        check(b" [ ] ")


@pytest.mark.parametrize("number", [0, 7, 2**28, 2**62, -5])
def test_an_id_that_stands_twice_refuses_the_answer_even_across_windows(
    small_windows: None, number: int
) -> None:
    ids = [number, 1000, 1001, 1002, number]
    body = json.dumps([{"id": each, "title": "t"} for each in ids]).encode()
    windows = api.split_records(blocks_of(body, 5))
    with pytest.raises(api.BadAnswer, match=f"id {number} twice"):
        list(api.check_records(windows, Record))


# redact

REDACTED = [
    (b'{"a":1,"password":"x","b":2}', b'{"a":1,"b":2}'),
    (b'{"password":"x","b":2}', b'{"b":2}'),
    (b'{"a":1,"password":"x"}', b'{"a":1}'),
    (b'{"password":"x"}', b"{}"),
    (b'{"a":1, "password" : "x" , "b":2}', b'{"a":1 , "b":2}'),
    (b'{"password":"x","password":"y","a":1,"password":"z"}', b'{"a":1}'),
    (b'{"a":1,"password":1,"password":2}', b'{"a":1}'),
    (
        b'{"a":{"b":[{"password":"x","c":3}]},"password":{"d":["}",{"e":1}]},"f":2}',
        b'{"a":{"b":[{"c":3}]},"f":2}',
    ),
    (b'{"a":1,"password":"quote \\" } , end","b":2}', b'{"a":1,"b":2}'),
    (b'{"password":null,"b":2}', b'{"b":2}'),
    (b'{"password":-1.5e3,"b":2}', b'{"b":2}'),
    (b'{"a":1,"pass\\u0077ord":"x","b":2}', b'{"a":1,"b":2}'),
    (b'{"a":1,"\\u0070assword":"x"}', b'{"a":1}'),
    (b'{"a":1,"password":"half \\ud83d","b":"\xff"}', b'{"a":1,"b":"\xff"}'),
    (b'[{"password":"x"},5,"password"]', b'[{},5,"password"]'),
    (b'{"a":1,"password":"x"}\n{"password":"y","a":2}\n', b'{"a":1}\n{"a":2}\n'),
]

UNTOUCHED = [
    b'{"a":"password","b":"\\"password\\":\\"x\\"","c":",\\"password\\":\\"x\\""}',
    b'{"passwords":"x","Password":"y","my password":1,"password\\u0020":2}',
    b'{"a": "\\u00e9 \\\\u0070", "\\u00e9": 1.50}',
    b"5",
    b'"password"',
]


@pytest.mark.parametrize(("text", "expected"), REDACTED)
def test_the_named_member_goes_and_every_other_byte_stays(text: bytes, expected: bytes) -> None:
    assert api.redact(text, frozenset({"password"})) == expected


@pytest.mark.parametrize("text", UNTOUCHED)
def test_what_only_looks_like_the_member_stays(text: bytes) -> None:
    assert api.redact(text, frozenset({"password"})) == text


def test_random_records_lose_the_member_and_nothing_else() -> None:
    chance = random.Random(5)
    keys = ["password", "a", "passwor", 'x"password":', "é"]

    def value(depth: int) -> Any:
        if not depth or chance.random() < 0.3:
            return chance.choice([1, None, 2.5, "password", ',"password":"x"', "\\", "}", "é"])
        if chance.random() < 0.3:
            return [value(depth - 1) for _ in range(chance.randrange(3))]
        return {key: value(depth - 1) for key in chance.sample(keys, chance.randrange(5))}

    def without(given: Any) -> Any:
        if isinstance(given, dict):
            return {key: without(each) for key, each in given.items() if key != "password"}
        return [without(each) for each in given] if isinstance(given, list) else given

    for _ in range(1000):
        record = value(5)
        spelling = {"indent": chance.choice([None, 2]), "ensure_ascii": chance.random() < 0.5}
        redacted = api.redact(json.dumps(record, **spelling).encode(), frozenset({"password"}))
        assert json.loads(redacted) == without(record)


# fetch


@contextmanager
def serving(*answers: Respond) -> Iterator[tuple[str, list[Request]]]:
    """Serve `answers`; yield the address and the requests."""
    with scripted_server({"/carts": list(answers)}) as server:
        yield f"{server.url}/carts", server.requests


def read_all(given: api.Answer) -> list[bytes]:
    return [bytes(raw) for raws in api.split_records(given.blocks()) for raw in raws]


def get(url: str, **options: Any) -> list[bytes]:
    with api.open_session() as session:
        return api.fetch(session, url, read_all, **{"backoff": no_pause, **options})


def test_the_answer_comes_with_its_validator_and_its_time() -> None:
    with serving(answer(200, b"[1,2]", ETag='W/"5-x"')) as (url, requests):
        before = datetime.now(UTC)
        given, items = api.fetch(api.open_session(), url, lambda given: (given, read_all(given)))
    assert items == [b"1", b"2"]
    assert given.etag == 'W/"5-x"' and not given.not_modified
    assert before <= given.received_at <= datetime.now(UTC)
    assert requests[0].headers["User-Agent"] == api.USER_AGENT
    assert "If-None-Match" not in requests[0].headers


def test_an_unchanged_source_answers_the_condition_with_304_and_no_body() -> None:
    with serving(answer(304, b"", ETag='"x"')) as (url, requests):
        given = api.fetch(api.open_session(), url, lambda given: given, etag='"x"')
    assert given.not_modified and given.etag == '"x"'
    assert requests[0].headers["If-None-Match"] == '"x"'


def test_a_304_that_nobody_asked_for_is_no_answer() -> None:
    with serving(answer(304, b"")) as (url, _), pytest.raises(api.BadAnswer, match="answered 304"):
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
        pytest.raises(api.FetchFailed, match=sentence) as failed,
    ):
        get(url, timeout=(1, 0.2))
    assert str(failed.value).startswith(url)
    assert len(requests) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_other_client_errors_are_asked_once(status: int) -> None:
    with (
        serving(answer(status, b'{"error":"secret"}')) as (url, requests),
        pytest.raises(api.FetchFailed, match=f"answered {status}") as failed,
    ):
        get(url)
    assert failed.value.status == status
    assert "secret" not in str(failed.value)
    assert len(requests) == 1


def test_a_403_says_that_data_centres_are_refused_and_what_to_do() -> None:
    with (
        serving(answer(403, b"<html>")) as (url, requests),
        pytest.raises(api.FetchFailed, match=r"data centres.*another network.*--api-url"),
    ):
        get(url)
    assert len(requests) == 1


@pytest.mark.parametrize("body", [b"null", b"", b"<html>", b'{"a":1}', b"[1]x"])
def test_a_whole_answer_that_is_no_data_is_asked_once(body: bytes) -> None:
    with serving(answer(200, body)) as (url, requests), pytest.raises(api.BadAnswer):
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
    assert pauses == [api.MAX_RETRY_AFTER]


@pytest.mark.parametrize("pause", ["soon", "", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_pause_that_is_no_pause_is_none(pause: str) -> None:
    pauses: list[float] = []
    with serving(answer(429, Retry_After=pause), answer()) as (url, _):
        get(url, sleep=pauses.append)
    assert pauses == [0.0]


def test_pauses_grow_and_differ() -> None:
    pauses: list[float] = []
    with serving(answer(503)) as (url, _), pytest.raises(api.FetchFailed):
        get(url, sleep=pauses.append, backoff=api.BACKOFF)
    assert 0.5 <= pauses[0] <= 1.0 <= pauses[1] <= 1.5
    assert pauses[0] != 0.5


def test_a_body_that_drips_ends() -> None:
    with (
        serving(drip) as (url, requests),
        pytest.raises(api.FetchFailed, match=r"did not end its answer within 0\.3 seconds"),
    ):
        get(url, timeout=(1, 5), total_seconds=0.3, attempts=1)
    assert len(requests) == 1


def test_a_body_that_falls_silent_ends() -> None:
    with serving(fall_silent) as (url, _), pytest.raises(api.FetchFailed, match="in the middle"):
        get(url, timeout=(1, 0.2), attempts=1)


def test_the_password_of_an_address_is_in_no_message() -> None:
    with serving(answer(503)) as (url, _), pytest.raises(api.FetchFailed) as failed:
        get(url.replace("//", "//user:sesame@"), attempts=1)
    assert str(failed.value).startswith(url)
    assert "sesame" not in str(failed.value)
