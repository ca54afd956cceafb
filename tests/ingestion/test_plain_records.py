"""What is read at a glance is what a close look finds, and nothing odd is read at a glance."""

from __future__ import annotations

import random
from collections.abc import Iterable

import msgspec
import pytest

from ingestion import json_array
from ingestion.batch.lines import to_lines
from ingestion.json_array import decode_raws, split_records
from ingestion.plain_records import PlainReader, PlainRecords
from ingestion.records import Id, check_records, split_plainly
from tests.support.bytes_in_blocks import blocks_of

# as the Fake Store writes it
USUAL = (
    '{"id":%d,"title":"é \\"quoted\\" \\\\","price":%s,"rating":{"rate":3.9,"count":120},'
    '"lines":[{"productId":1}],"tags":["a"],"__v":0}'
)


class Record(msgspec.Struct):
    id: Id
    title: str
    price: float
    lines: list


def usual(number: int) -> bytes:
    return (USUAL % (number, number % 3 or "109.95")).encode()


def glance(*records: bytes) -> PlainRecords | None:
    """Read records by the shape of a usual one, which is a whole answer's first window."""
    reader = PlainReader(Record, "id")
    assert read(reader, usual(0))
    return read(reader, *records)


def read(reader: PlainReader, *records: bytes) -> PlainRecords | None:
    array = b"[%b]" % b",".join(records)
    return reader.read(array, decode_raws(array))


def test_usual_records_are_read_at_a_glance() -> None:
    records = [usual(number) for number in range(1, 10)]
    plain = glance(*records)
    assert plain is not None
    assert list(map(bytes, plain.raws)) == records
    assert plain.keys == list(range(1, 10))
    assert plain.names == {
        *("id", "title", "price", "rating", "rate", "count", "lines", "productid", "tags", "__v")
    }


def test_members_that_are_missing_or_null_are_usual_where_they_are_not_required() -> None:
    record = b'{"id":1,"title":"a","price":1,"rating":{"rate":null},"lines":[],"__v":null}'
    assert glance(usual(1), record)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"id":1,', b'"id":1,"id":1,'),
        (b'"id":1,', b'"\\u0069d":1,'),
        (b'"count":120', b'"count":120,"count":120'),
        (b'"__v":0', b'"__v":0,"password":"x"'),
        (b'"count":120', b'"count":120,"Password":"x"'),
        (b'"productId":1', b'"productId":1,"pass\\u0077ord":"x"'),
        (b"3.9", b"0.12345678901234567890123"),
        (b"3.9", b"1e400"),
        (b"3.9", b"1e-400"),
        (b"120", b"9" * 50),
        (b"120", b"[" * 600 + b"]" * 600),
        (b'["a"]', b'[{"password":"x"}]'),
        (b'"a"', b'"\\u0000"'),
        (b'"a"', b'"\\ud83d"'),
        (b'"a"', b'"\xff"'),
        (b'"title":"', b'"title":5,"x":"'),
        (b'"lines":[{"productId":1}]', b'"lines":null'),
        (b'"id":1', b'"id":9223372036854775807'),
        (b"3.9", b"9007199254740993.12345678901"),
    ],
)
def test_what_is_odd_or_only_written_otherwise_is_not(old: bytes, new: bytes) -> None:
    odd = usual(1).replace(old, new, 1)
    assert odd != usual(1)
    assert glance(usual(2), odd, usual(3)) is None
    # nor where the shape is its own
    assert read(PlainReader(Record, "id"), odd, odd) is None or b"password" in odd.lower()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"3.9", b"3.90"),
        (b"3.9", b"4.333333333333333"),
        (b"3.9", b"9" * 29 + b".123456789"),
        (b"3.9", b"null"),
        (b"3.9", b'"3.9"'),
        (b'"a"', b'"\\u00e9"'),
        (b'"a"', b'"},{\\"id\\":2,\\""'),
        (b'"a"', b'"\\\\\\""'),
        (b'"rating":{"rate":3.9,"count":120},', b""),
        (b'"id":1', b'"id" : 1'),
        (b"}", b"\r\n}"),
    ],
)
@pytest.mark.parametrize("title", [b'"plain"', b'"\\"quoted\\""', b'"\\\\"'])
def test_what_is_written_otherwise_and_means_the_same_everywhere_is(
    title: bytes, old: bytes, new: bytes
) -> None:
    first, second = (usual(n).replace(b'"\xc3\xa9 \\"quoted\\" \\\\"', title) for n in (1, 2))
    changed = first.replace(old, new, 1)
    assert changed != first
    plain = glance(second, changed)
    assert plain is not None
    assert list(map(bytes, plain.raws)) == [second, changed]
    assert to_lines(plain, b'{"r":', frozenset()).count(b"\n") == 2


def test_a_password_is_taken_out_of_usual_records() -> None:
    record = b'{"id":1,"title":"a","price":1,"lines":[{"Password":"x","n":1}]}'
    plain = read(PlainReader(Record, "id"), record, record)
    assert plain is not None
    kept = b'{"r":{"id":1,"title":"a","price":1,"lines":[{"n":1}]}}\n'
    assert to_lines(plain, b'{"r":', frozenset({"password"})) == 2 * kept


def test_with_and_without_the_glance_the_lines_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(json_array, "WINDOW_BYTES", 600)
    chance = random.Random(8)
    changes = [
        (b'"a"', b'"\\ud83d\\ude00"'),
        (b"3.9", b"1e400"),
        (b'"id":', b'"id" : '),
        (b'"__v":0', b'"__v":0,"password":"x"'),
        (b'"lines":[{"productId":1}]', b'"lines":[]'),
        (b"109.95", b'"109.95"'),
        (b'"a"', b'"\\\\\\""'),
        (b'"a"', b'"\\u0000"'),
        (b'"a"', b'"\\ud83d"'),
        (b"3.9", b"0.12345678901234567890123"),
        (b"}", b"\n}"),
        (b'"rating"', b'"new":{"a":[1,"x",null]},"rating"'),
    ]

    def landed(windows: Iterable[list[msgspec.Raw] | PlainRecords]) -> tuple[bytes, list[object]]:
        lines, bad = b"", []
        for window in check_records(windows, Record):
            lines += to_lines(window.raws, b'{"r":', frozenset({"password"}))
            bad += window.bad
        return lines, bad

    for _ in range(100):
        title = chance.choice([b'"e"', b'"\\"e\\""', b'"e\\\\"'])
        records = [
            usual(number).replace(b'"\xc3\xa9 \\"quoted\\" \\\\"', title) for number in range(60)
        ]
        for place in chance.sample(range(60), chance.randrange(6)):
            records[place] = records[place].replace(*chance.choice(changes))
        body = b"[" + chance.choice([b",", b", "]).join(records) + b"]"
        blocks = list(blocks_of(body, chance.randrange(100, 2000)))
        assert landed(split_plainly(blocks, Record)) == landed(split_records(blocks))
