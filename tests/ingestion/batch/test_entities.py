"""What each entity says of its records is what silver reads of them."""

from __future__ import annotations

import re

import msgspec
import pytest

from ingestion.batch.entities import ENTITIES
from ingestion.project import PROJECT_FOLDER
from ingestion.records import Window, check_records, split_plainly

RECORDS = {
    "products": {
        **{"id": 1, "title": "a", "price": 9.5, "description": "b", "category": "c", "image": "d"},
        "rating": {"rate": 3.9, "count": 120},
    },
    "users": {
        "address": {
            "geolocation": {"lat": "1", "long": "2"},
            **{"city": "a", "street": "b", "number": 3, "zipcode": "4"},
        },
        **{"id": 1, "email": "a", "username": "b", "password": "x"},
        **{"name": {"firstname": "a", "lastname": "b"}, "phone": "1"},
    },
    "carts": {
        **{"id": 1, "userId": 2, "date": "2020-03-02T00:00:00.000Z"},
        "products": [{"productId": 1, "quantity": 4}],
    },
}


def check(name: str, *records: bytes) -> list[Window]:
    entity = ENTITIES[name]
    parts = split_plainly([b"[%b]" % b",".join(records)], entity.record_type())
    return list(check_records(parts, entity.record_type(), entity.key, entity.members))


@pytest.mark.parametrize("name", ENTITIES)
def test_the_members_are_those_that_silver_reads(name: str) -> None:
    model = PROJECT_FOLDER / "ey_test_tech" / "models" / "silver" / f"base_{name}.sql"
    paths = re.findall(r"'\$\.([\w.]+)'", model.read_text(encoding="utf-8"))
    assert {member for path in paths for member in path.split(".")} == set(ENTITIES[name].members)


@pytest.mark.parametrize(
    ("name", "member"), [(name, member) for name in ENTITIES for member in ENTITIES[name].members]
)
@pytest.mark.parametrize("spelling", ["plain", "escaped"])
def test_a_record_with_a_member_twice_that_silver_reads_is_set_apart(
    name: str, member: str, spelling: str
) -> None:
    good = msgspec.json.encode(RECORDS[name])
    key = b'"%b":' % member.encode()
    first = key if spelling == "plain" else b'"\\u%04x%b":' % (ord(member[0]), key[2:-2])
    assert good.count(key) == 1
    bad = good.replace(key, first + b"null," + key)
    others = [good.replace(b'"id":1', b'"id":%d' % number) for number in (2, 3)]
    (window,) = check(name, *others, bad)
    assert window.keys == [2, 3]
    assert [(refused.position, refused.raw) for refused in window.bad] == [(2, bad)]
    assert window.bad[0].reason == f"the member `{member}` stands twice"


def test_a_member_that_silver_does_not_read_may_stand_twice() -> None:
    good = msgspec.json.encode(RECORDS["products"])
    (window,) = check("products", good[:-1] + b',"x":1,"x":{"y":1}}')
    assert (window.keys, window.bad) == ([1], [])


def test_a_member_may_stand_in_several_objects_of_a_record() -> None:
    good = msgspec.json.encode(RECORDS["products"])
    (window,) = check("products", good[:-1] + b',"variants":[{"price":1},{"price":2}],"x":1,"x":2}')
    assert (window.keys, window.bad) == ([1], [])
