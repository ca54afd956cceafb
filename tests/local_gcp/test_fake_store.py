"""The Fake Store of the local GCP: the habits of the public one, writes that stay, and faults."""

from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
import requests

from local_gcp.fake_store import FakeStore, main, running_fake_store
from local_gcp.fake_store_answers import to_json, weak_etag
from local_gcp.shop_data import SAMPLE_DATA
from tests.support.local_gcp_process import until
from tests.support.shared import FAKESTORE


def sample(entity: str) -> list[dict[str, object]]:
    """Return the sample data of one list."""
    records = json.loads((SAMPLE_DATA / f"{entity}.json").read_text(encoding="utf-8"))
    assert isinstance(records, list)
    return records


def get(url: str, **options: object) -> requests.Response:
    """Ask with a timeout."""
    return requests.get(url, timeout=60, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("entity", ["products", "users", "carts"])
def test_a_list_is_a_bare_array_of_compact_json_with_express_etag(
    fake_store: FakeStore, entity: str
) -> None:
    response = get(f"{fake_store.url}/{entity}")
    assert response.content == to_json(sample(entity))
    assert response.headers["etag"] == weak_etag(response.content)
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert "last-modified" not in response.headers


def test_the_etag_is_the_one_that_express_gives() -> None:
    # from the tests of the npm package `etag`
    assert weak_etag(b"beep boop") == 'W/"9-fINXV39R1PCo05OqGqr7KIY9lCE"'


def test_the_client_that_has_the_answer_gets_304_until_something_changes(
    fake_store: FakeStore,
) -> None:
    url = f"{fake_store.url}/carts"
    known = {"if-none-match": get(url).headers["etag"]}
    unchanged = get(url, headers=known)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    requests.delete(f"{url}/1", timeout=60)
    assert get(url, headers=known).status_code == 200


def test_a_long_answer_is_gzipped_only_for_who_asks(fake_store: FakeStore) -> None:
    url = f"{fake_store.url}/products"
    assert get(url, headers={"accept-encoding": "gzip"}).headers["content-encoding"] == "gzip"
    plain = get(url, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json() == sample("products")


def test_limit_and_sort_work_and_other_parameters_are_ignored(fake_store: FakeStore) -> None:
    url = f"{fake_store.url}/products"
    assert [record["id"] for record in get(f"{url}?limit=3&sort=desc").json()] == [20, 19, 18]
    assert get(f"{url}?page=2").json() == sample("products")


def test_unknown_records_are_200_and_a_malformed_id_is_400(fake_store: FakeStore) -> None:
    unknown = [get(f"{fake_store.url}/{entity}/999") for entity in ("carts", "users", "products")]
    assert [(r.status_code, r.content) for r in unknown] == [
        (200, b"null"),
        (200, b"null"),
        (200, b""),
    ]
    malformed = get(f"{fake_store.url}/carts/abc")
    assert malformed.status_code == 400
    assert malformed.json()["status"] == "error"


@pytest.mark.parametrize("entity", ["products", "users", "carts"])
def test_writes_stay(fake_store: FakeStore, entity: str) -> None:
    url = f"{fake_store.url}/{entity}"
    created = requests.post(url, json={"note": "new"}, timeout=60)
    record_id = len(sample(entity)) + 1
    assert created.status_code == 201
    assert get(f"{url}/{record_id}").json() == created.json()
    assert created.json()["id"] == record_id

    requests.patch(f"{url}/{record_id}", json={"more": 1}, timeout=60)
    assert get(f"{url}/{record_id}").json() == {**created.json(), "more": 1}
    replaced = requests.put(f"{url}/{record_id}", json={"note": "other"}, timeout=60)
    assert "more" not in get(f"{url}/{record_id}").json()
    assert get(url).json() == [*sample(entity), replaced.json()]

    assert requests.delete(f"{url}/{record_id}", timeout=60).json() == replaced.json()
    assert get(url).json() == sample(entity)


def test_a_deleted_cart_can_come_back_under_its_id(fake_store: FakeStore) -> None:
    url = f"{fake_store.url}/carts"
    cart = requests.delete(f"{url}/3", timeout=60).json()
    assert requests.post(url, json=cart, timeout=60).json() == cart
    taken = requests.post(url, json=cart, timeout=60)
    assert taken.status_code == 400


def test_a_write_that_is_no_object_is_refused(fake_store: FakeStore) -> None:
    for body in (b"", b"[]", b"{"):
        assert requests.post(f"{fake_store.url}/carts", data=body, timeout=60).status_code == 400
    assert get(f"{fake_store.url}/carts").json() == sample("carts")


def test_reset_brings_the_first_data_back(fake_store: FakeStore) -> None:
    requests.patch(f"{fake_store.url}/carts/1", json={"userId": 9}, timeout=60)
    fake_store.set_fault("/carts", "null")
    fake_store.reset()
    assert get(f"{fake_store.url}/carts").json() == sample("carts")
    assert [request["path"] for request in fake_store.requests] == ["/carts"]


@pytest.mark.parametrize(
    ("kind", "status", "body"),
    [
        ("status", 503, None),
        ("html403", 403, None),
        ("object400", 400, None),
        ("null", 200, b"null"),
        ("empty", 200, b""),
        ("empty_list", 200, b"[]"),
        ("html200", 200, None),
    ],
)
def test_a_fault_holds_until_it_is_cleared(
    fake_store: FakeStore, kind: str, status: int, body: bytes | None
) -> None:
    fake_store.set_fault("/carts", kind)
    for response in (get(f"{fake_store.url}/carts"), get(f"{fake_store.url}/carts")):
        assert response.status_code == status
        assert body is None or response.content == body
    assert get(f"{fake_store.url}/products").json() == sample("products")
    fake_store.clear_faults()
    assert get(f"{fake_store.url}/carts").json() == sample("carts")


def test_a_fault_may_hold_for_a_number_of_requests(fake_store: FakeStore) -> None:
    fake_store.set_fault("/carts", "status", status=522, times=2)
    assert [get(f"{fake_store.url}/carts").status_code for _ in range(3)] == [522, 522, 200]
    assert [request["status"] for request in fake_store.requests] == [522, 522, 200]


def test_a_duplicate_id_is_the_whole_list_and_one_record_again(fake_store: FakeStore) -> None:
    fake_store.set_fault("/carts", "duplicate_id")
    assert get(f"{fake_store.url}/carts").json() == [*sample("carts"), sample("carts")[0]]


def test_a_truncated_answer_breaks_off(fake_store: FakeStore) -> None:
    fake_store.set_fault("/carts", "truncated")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        get(f"{fake_store.url}/carts")
    fake_store.set_fault("/carts", "truncated", silent=True)
    response = get(f"{fake_store.url}/carts")
    assert to_json(sample("carts")).startswith(response.content)


def test_a_reset_is_a_connection_error(fake_store: FakeStore) -> None:
    fake_store.set_fault("/carts", "reset")
    with pytest.raises(requests.ConnectionError, match="reset by peer"):
        get(f"{fake_store.url}/carts")


def test_a_hanging_request_is_never_answered(fake_store: FakeStore) -> None:
    fake_store.set_fault("/carts", "hang")
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{fake_store.url}/carts", timeout=(60, 0.2))
    # it may be given up before the store has seen it
    (request,) = until(lambda: fake_store.requests)
    assert request["status"] is None


def test_a_slow_answer_is_late_and_good(fake_store: FakeStore) -> None:
    fake_store.set_fault("/carts", "slow", seconds=0.3)
    start = time.monotonic()
    assert get(f"{fake_store.url}/carts").json() == sample("carts")
    assert time.monotonic() - start >= 0.3


def test_retry_after_comes_as_seconds_or_as_a_date(fake_store: FakeStore) -> None:
    fake_store.set_fault("/carts", "retry_after", seconds=7)
    response = get(f"{fake_store.url}/carts")
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    fake_store.set_fault("/carts", "retry_after", seconds=7, form="date")
    parsedate_to_datetime(get(f"{fake_store.url}/carts").headers["retry-after"])


def test_an_unknown_fault_is_refused(fake_store: FakeStore) -> None:
    with pytest.raises(requests.HTTPError, match="400"):
        fake_store.set_fault("/carts", "gremlins")


def test_the_sample_data_has_the_quirks_of_the_real_data() -> None:
    products, users, carts = sample("products"), sample("users"), sample("carts")
    assert [len(products), len(users), len(carts)] == [20, 10, 7]
    assert {type(record["price"]) for record in products} == {int, float}
    assert any(str(record["title"]).endswith(" ") for record in products)
    assert any(not str(record["title"]).isascii() for record in products)
    assert "men's clothing" in {record["category"] for record in products}
    assert len({record["phone"] for record in users}) < len(users)
    assert all(str(record["date"]) < "2020-04" for record in carts)
    assert {record["userId"] for record in carts} < {record["id"] for record in users}
    in_carts = {line["productId"] for cart in carts for line in cart["products"]}  # type: ignore[attr-defined]
    assert in_carts < {record["id"] for record in products}


@pytest.mark.parametrize("entity", ["products", "users", "carts"])
def test_the_real_answers_come_back_byte_by_byte(entity: str) -> None:
    if not FAKESTORE.is_dir():
        pytest.skip("../shared/fakestore is missing: the real answers are not at hand")
    with running_fake_store(FAKESTORE) as store:
        real = (FAKESTORE / f"{entity}.json").read_bytes().strip()
        assert get(f"{store.url}/{entity}").content == real


def test_missing_data_is_one_clear_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(tmp_path), "--port", "0"]) == 1
    assert "products.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8080", "Origin": "http://localhost:8080"}, 200),
        ({"Host": "rebound.example:8080"}, 400),
        ({"Origin": "https://foreign.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
@pytest.mark.parametrize("path", ["/carts", "/_control/requests"])
def test_pages_of_other_sites_are_refused(
    fake_store: FakeStore, path: str, headers: dict[str, str], status: int
) -> None:
    assert (
        requests.get(f"{fake_store.url}{path}", headers=headers, timeout=60).status_code == status
    )


def test_a_foreign_page_changes_nothing(fake_store: FakeStore) -> None:
    foreign = {"Origin": "https://foreign.example"}
    for method, path in (("DELETE", "/carts/1"), ("POST", "/carts"), ("POST", "/_control/reset")):
        url = f"{fake_store.url}{path}"
        assert (
            requests.request(method, url, json={}, headers=foreign, timeout=60).status_code == 403
        )
    assert len(requests.get(f"{fake_store.url}/carts", timeout=60).json()) == 7


def test_half_a_surrogate_pair_comes_back_as_it_was_sent(fake_store: FakeStore) -> None:
    sent = '{"note": "\\ud83d"}'
    url = f"{fake_store.url}/carts/1"
    response = requests.patch(url, data=sent, timeout=60)
    assert b'"note":"\\ud83d"' in response.content
