"""Valid records pass with their bytes, bad ones are set apart with a reason."""

from __future__ import annotations

import json
import random

import msgspec
import pytest

from ingestion import json_array
from ingestion.json_array import BadAnswer, split_records
from ingestion.records import Id, SeenIds, Window, check_records
from tests.support.bytes_in_blocks import blocks_of


class Record(msgspec.Struct):
    id: Id
    title: str


def check(body: bytes) -> list[Window]:
    return list(check_records(split_records([body]), Record))


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_array, "WINDOW_BYTES", 8)


def test_valid_records_pass_with_their_bytes() -> None:
    body = b'[{"id":1,"title":"a ","x":[1]}, {"title":"b","id":2}]'
    (window,) = check(body)
    assert [bytes(raw) for raw in window.raws] == [
        b'{"id":1,"title":"a ","x":[1]}',
        b'{"title":"b","id":2}',
    ]
    assert window.keys == [1, 2]
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
        (b'{"id":9,"title":"a","x":"\\ud83d"}', "not valid Unicode"),
        (b'{"id":9,"title":"a","x":["\\u0000"]}', "U+0000"),
        (b'{"id":9,"title":"a","x":{"\\u0000":1}}', "U+0000"),
        (b'{"id":9,"title":"a","x":1e400}', "NUMERIC"),
        (b'{"id":9,"title":"a","x":[-1E+4000]}', "NUMERIC"),
        (b'{"id":9,"title":"a","x":1e-400}', "NUMERIC"),
        (b'{"id":9,"title":"a","x":%b}' % (b"7" * 50), "NUMERIC"),
        (b'{"id":9,"title":"a","x":0.%b}' % (b"7" * 20), "NUMERIC"),
        (b'{"id":9,"title":"a","x":%b1%b}' % (b"[" * 500, b"]" * 500), "500 levels"),
        (b'{"id":9,"title":"a","x":%b1%b}' % (b'{"y":' * 5000, b"}" * 5000), "500 levels"),
        (b'{"id":9,"title":"\xff"}', "not valid Unicode"),
        (b'"\\ud83d"', "not valid Unicode"),
        (b'"\\u0000"', "Expected `object`, got `str`"),
        (b'{"id":9,"title":"a","id":9}', "`id` stands twice"),
        (b'{"id":9,"title":"a","\\u0069d":8}', "`id` stands twice"),
    ],
)
def test_one_bad_record_is_set_apart_with_position_and_reason(record: bytes, reason: str) -> None:
    good = [b'{"id":%d,"title":"t"}' % number for number in range(100, 120)]
    body = b"[" + b",".join([*good[:3], record, *good[3:]]) + b"]"
    (window,) = check(body)
    assert [bytes(raw) for raw in window.raws] == good
    assert [(bad.position, bad.raw) for bad in window.bad] == [(3, record)]
    assert reason in window.bad[0].reason


@pytest.mark.parametrize(
    "value",
    [
        b'"\\ud83d\\ude00"',
        b'"\\\\u0000"',
        b"0.30000000000000004",
        b"1.7976931348623157e+308",
        b"5e-324",
        b"-9223372036854775808",
        b"18446744073709551615",
        b"99999999999999999999999999999.999999999",
        b'"%b"' % (b"7" * 50),
        b'"1e400"',
        b'[{"id":1},{"id":2}]',
        b"%b1%b" % (b"[" * 499, b"]" * 499),
    ],
)
def test_what_bigquery_takes_passes(value: bytes) -> None:
    record = b'{"id":9,"title":"a","x":%b}' % value
    (window,) = check(b'[%b,{"id":10,"title":"a"}]' % record)
    assert bytes(window.raws[0]) == record


def test_one_bad_record_of_few_leaves_the_others_alone() -> None:
    (window,) = check(b'[{"id":1,"title":"t"},{"id":"x"},5]')
    assert (len(window.raws), len(window.bad)) == (1, 2)


def test_an_answer_without_one_good_record_is_refused() -> None:
    with pytest.raises(BadAnswer, match="1 bad records of 1"):
        check(b'[{"id":"x"}]')


def test_more_than_a_tenth_of_bad_records_refuses_the_answer() -> None:
    good = [b'{"id":%d,"title":"t"}' % number for number in range(18)]
    check(b"[" + b",".join([*good, b'{"id":"x"}', b"5"]) + b"]")
    with pytest.raises(BadAnswer, match="3 bad records of 21, the first at position 18"):
        check(b"[" + b",".join([*good, b'{"id":"x"}', b"5", b"6"]) + b"]")


def test_a_reason_never_shows_a_value() -> None:
    with pytest.raises(BadAnswer) as refused:
        check(b'[{"id":"sesame","title":"t","password":"sesame"}]')
    assert "sesame" not in str(refused.value)


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(BadAnswer, match="empty list"):
        check(b" [ ] ")


@pytest.mark.parametrize("number", [0, 7, 2**28, 2**62, -5])
def test_an_id_that_stands_twice_refuses_the_answer_even_across_windows(
    small_windows: None, number: int
) -> None:
    ids = [number, 1000, 1001, 1002, number]
    body = json.dumps([{"id": each, "title": "t"} for each in ids]).encode()
    windows = split_records(blocks_of(body, 5))
    with pytest.raises(BadAnswer, match=f"id {number} twice"):
        list(check_records(windows, Record))


def test_ids_in_any_order_and_distance_are_seen_again_exactly() -> None:
    chance = random.Random(6)
    for _ in range(300):
        ids, known = SeenIds(), set()
        for _ in range(6):
            start, step = chance.choice([0, 3, 50, 2**28 - 9, -4]), chance.choice([1, 2, 90, 2**30])
            some = [start + step * number for number in range(chance.randrange(30))]
            chance.shuffle(some)
            some += chance.choice([[], some[:1]])
            again = next((n for i, n in enumerate(some) if n in known or n in some[:i]), None)
            assert ids.add(some) == again
            if again is not None:
                break
            known.update(some)
