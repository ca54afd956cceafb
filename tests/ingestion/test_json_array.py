"""A JSON array is cut exactly, at any block size, and nothing else is taken for one."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ingestion import json_array
from ingestion.json_array import BadAnswer, split_records
from tests.support.bytes_in_blocks import blocks_of


def split(body: bytes, size: int = 1 << 16) -> list[bytes]:
    windows = split_records(blocks_of(body, size))
    return [bytes(raw) for raws in windows for raw in raws]


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
    monkeypatch.setattr(json_array, "WINDOW_BYTES", 8)


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
    with pytest.raises(BadAnswer, match="cut short") as refused:
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
    with pytest.raises(BadAnswer, match="not valid JSON") as refused:
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
    with pytest.raises(BadAnswer, match=f"answered {sentence} instead of a list") as refused:
        split(body, 1)
    assert not refused.value.transient


@pytest.mark.parametrize("depth", [600, 1200, 20_000])
@pytest.mark.parametrize("size", [64, 1 << 16])
def test_a_record_deeper_than_the_decoder_goes_is_cut_out_unchanged(
    small_windows: None, depth: int, size: int
) -> None:
    deep = b'{"a":%b"],[\\"",{"a":1},{"a":2}%b}' % (b"[" * depth, b"]" * depth)
    others = [b'{"a":1}', b'{"a":[{"a":2},{"a":3}]}', b'{"a":"\\ud83d"}']
    assert split(b"[%b ]" % b", ".join([*others, deep, *others]), size) == [*others, deep, *others]


@pytest.mark.parametrize("end", [b"", b"]", b"}", b"},5", b'},"a"]', b"]]]", b"}]x", b"},]"])
def test_a_deep_record_that_does_not_end_is_refused(end: bytes) -> None:
    with pytest.raises(BadAnswer, match=r"cut short|not valid JSON"):
        split(b'[{"a":%b%b' % (b"[" * 2000 + b"]" * 1999, end))


def test_white_space_before_the_list_costs_linear_time() -> None:
    started = time.thread_time()
    assert split(b" " * 50_000_000 + b"[1]", 1 << 14) == [b"1"]
    assert time.thread_time() - started < 60


@pytest.mark.parametrize("size", [1, 2, 64])
def test_a_byte_order_mark_is_passed_over_and_only_where_it_begins(size: int) -> None:
    assert split(b"\xef\xbb\xbf \n[1]", size) == [b"1"]
    for body in (b"\xef\xbb\xbf", b"\xef\xbb", b" \xef\xbb\xbf[1]", b"\xef\xbb\xbf\xef\xbb\xbf[1]"):
        with pytest.raises(BadAnswer, match="instead of a list"):
            split(body, size)


def test_nesting_beyond_the_decoder_is_refused() -> None:
    with pytest.raises(BadAnswer, match="nested too deep"):
        split(b"[" * 100_000 + b"]" * 100_000)


def test_a_record_larger_than_the_limit_is_refused_before_it_is_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(json_array, "MAX_RECORD_BYTES", 1 << 20)
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield b'[{"a":"'
        while True:
            taken += 1
            yield b"x" * 65536

    with pytest.raises(BadAnswer, match="more than 1 MB"):
        list(split_records(endless()))
    assert taken < 64


def test_a_record_of_many_nested_objects_costs_linear_time() -> None:
    inner = b",".join(b'{"n":%d}' % number for number in range(300_000))
    body = b'[{"id":1,"x":[%b]},{"id":2,"x":[%b]}]' % (inner, inner)
    started = time.thread_time()
    assert [len(record) for record in split(body)] == [len(inner) + 15] * 2
    assert time.thread_time() - started < 60
