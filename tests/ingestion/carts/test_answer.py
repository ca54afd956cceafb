"""What an answer of /carts says: carts known by their bytes, fresh ones, and bad ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import msgspec
import pytest

from ingestion.carts.answer import Reading, read_answer
from ingestion.carts.state import raw_hash
from ingestion.json_array import BadAnswer
from tests.support.shared import FAKESTORE

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)


def read(blocks: Iterable[bytes], index: Mapping[bytes, int] | None = None) -> Reading:
    return read_answer(blocks, index or {}, NOW)


def record(cart_id: object, **members: object) -> bytes:
    whole = {"id": cart_id, "userId": 1, "date": "2020-03-02T00:00:00.000Z", "products": []}
    return json.dumps({**whole, **members}).encode()


def answer(*records: bytes) -> list[bytes]:
    return [b"[" + b",".join(records) + b"]"]


def test_a_record_with_known_bytes_is_not_read_again() -> None:
    one, two = record(1), record(2)
    reading = read(answer(one, two), {raw_hash(one): 1})
    assert (reading.same, set(reading.fresh), reading.bad) == ({1}, {2}, {})


@pytest.mark.parametrize(
    "twice",
    [
        [record(1), record(1)],
        [record(2), record(2)],
        [record(2), record(2, userId=7)],
        [record(1), record(1, userId=7)],
        [record(1), record(1, userId="no")],
    ],
    ids=["known", "unknown", "unknown, changed", "known, changed", "known, bad"],
)
def test_an_id_that_stands_twice_is_no_answer(twice: list[bytes]) -> None:
    others = [record(each) for each in range(10, 30)]
    with pytest.raises(BadAnswer, match="twice"):
        read(answer(*others, *twice), {raw_hash(record(1)): 1})


def test_a_bad_record_is_set_aside_with_its_reason() -> None:
    others = [record(each) for each in range(10, 20)]
    reading = read(answer(*others, record(1, products=None)))
    assert set(reading.fresh) == set(range(10, 20))
    assert reading.bad[1].raw == record(1, products=None)
    assert "products" in reading.bad[1].reason


@pytest.mark.parametrize("date", ["", "yesterday", "2020-02-30T00:00:00Z", "2020-13-01", 7])
def test_a_date_that_is_none_makes_a_bad_record(date: object) -> None:
    others = [record(each) for each in range(10, 20)]
    assert set(read(answer(*others, record(1, date=date))).bad) == {1}


def test_more_than_a_tenth_of_bad_records_is_no_answer() -> None:
    others = [record(each) for each in range(10, 19)]
    bad = [record(number, userId=None) for number in (1, 2, 3)]
    read(answer(*others, *bad[:2]))
    with pytest.raises(BadAnswer, match="3 bad records of 12"):
        read(answer(*others, *bad))


def test_one_bad_cart_of_seven_leaves_the_others_alone() -> None:
    reading = read(answer(*(record(each) for each in range(1, 7)), record(7, userId="no")))
    assert set(reading.fresh) == {1, 2, 3, 4, 5, 6} and set(reading.bad) == {7}


def test_an_answer_without_one_good_cart_is_no_answer() -> None:
    with pytest.raises(BadAnswer, match="1 bad records of 1"):
        read(answer(record(7, userId="no")))


@pytest.mark.parametrize("cart_id", [None, "1", 1.5, True, 2**63, [1]])
def test_a_record_without_an_integer_id_is_no_answer(cart_id: object) -> None:
    others = [record(each) for each in range(10, 40)]
    with pytest.raises(BadAnswer, match="without an integer id"):
        read(answer(*others, record(cart_id)))


@pytest.mark.parametrize("body", [b"[]", b" [ ] ", b"", b"null", b"{}", b"<html>", b"[{]", b"[1"])
def test_what_is_no_list_of_carts_is_no_answer(body: bytes) -> None:
    with pytest.raises(BadAnswer):
        read([body])


def test_the_real_answer_is_seven_carts_each_as_the_api_gave_it_but_for_its_version() -> None:
    file = FAKESTORE / "carts.json"
    if not file.exists():
        pytest.skip("../shared/fakestore/carts.json is missing: the API's real answer")
    reading = read([file.read_bytes()])
    records = json.loads(file.read_bytes())
    assert [json.loads(msgspec.json.encode(fresh.cart)) for fresh in reading.fresh.values()] == [
        {name: value for name, value in record.items() if name != "__v"} for record in records
    ]
    assert len(records) == 7


DEEP = b"[" * 600 + b"]" * 600
FAR_DEEPER = b"[" * 5000 + b"]" * 5000


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (rb'"note":"\ud83d"', "not valid Unicode"),
        (rb'"\ude00":1', "not valid Unicode"),
        (b'"note":"\xff"', "not valid Unicode"),
        (rb'"note":"\u0000"', r"U\+0000"),
        (b'"note":1e400', "NUMERIC"),
        (b'"note":' + b"7" * 50, "NUMERIC"),
        (b'"note":%b' % DEEP, "500 levels"),
        (b'"note":%b' % FAR_DEEPER, "500 levels"),
        (b'"id":7', "`id` stands twice"),
        (b'"userId":1', "`userId` stands twice"),
        (rb'"user\u0049d":1', "`userId` stands twice"),
        (b'"products":[{"productId":1,"quantity":1,"quantity":2}]', "stands twice"),
    ],
)
def test_what_the_warehouse_would_refuse_is_one_bad_cart(member: bytes, reason: str) -> None:
    others = [record(each) for each in range(1, 7)]
    given = record(7)
    if b"products" in member:
        given = given.replace(b', "products": []', b"")
    odd = given[:-1] + b", " + member + b"}"
    reading = read(answer(*others, odd))
    assert set(reading.fresh) == {1, 2, 3, 4, 5, 6}
    assert set(reading.bad) == {7} and reading.bad[7].raw == odd
    assert re.search(reason, reading.bad[7].reason)


def test_a_bad_record_with_two_ids_may_stand_for_either() -> None:
    others = [record(each) for each in range(2, 7)]
    reading = read(answer(*others, record(7)[:-1] + b', "id": 1}'))
    assert set(reading.fresh) == {2, 3, 4, 5, 6} and set(reading.bad) == {1, 7}


def test_a_bad_record_that_claims_the_id_of_a_good_one_changes_nothing_for_that() -> None:
    others = [record(each) for each in range(1, 7)]
    reading = read(answer(*others, record(7)[:-1] + b', "id": 1}'))
    assert set(reading.fresh) == {1, 2, 3, 4, 5, 6} and set(reading.bad) == {7}


@pytest.mark.parametrize(
    "date",
    [
        "1970-01-01",
        "1970-01-01T00:00:00Z",
        "2036-11-01T00:00:00.123456+14:00",
        "2020-03-02 10:00:00",
        "2020-03-02t10:00:00.1z",
        "2020-03-02T10:00:00-13:59",
    ],
)
def test_a_date_that_silver_reads_is_believed(date: str) -> None:
    assert set(read(answer(record(1, date=date))).fresh) == {1}


@pytest.mark.parametrize(
    "date",
    [
        "1969-12-31",
        "1970-01-01T00:00:00+00:01",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "2036-12-01",
        "2020-03-02T00:00:00.1234567Z",
        "2020-03-02T00:00:00+14:01",
        "2020-03-02T00:00:00-14:01",
        "2020-03-02T00:00:00+23:59",
        "2020-03-02T00:00:00+0100",
        "2020-03-02T00:00Z",
        "2020-03-02T00:00:00Z ",
        "٢٠٢٠-03-02",
    ],
)
def test_a_date_that_silver_would_reject_makes_a_bad_record(date: str) -> None:
    assert set(read(answer(record(1, date=date), record(2))).bad) == {1}


def test_a_file_that_begins_with_a_byte_order_mark_is_read() -> None:
    assert set(read([b"\xef", b"\xbb\xbf", *answer(record(1))]).fresh) == {1}
