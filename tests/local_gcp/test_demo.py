"""The demo: the real scripts on a local GCP, from the API to gold, and an end at any moment."""

from __future__ import annotations

import io
import json
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from rich.console import Console

from ingestion.project import PROJECT_FOLDER
from local_gcp.demo import change_carts, nodes_done, print_next_commands
from local_gcp.fake_store import FakeStore
from local_gcp.shop_data import SAMPLE_DATA
from tests.support.local_gcp_process import Started, until
from tests.support.shared import FAKESTORE

# what runs without the demo leave in the project
USER_FOLDERS = ("state", "events", "raw", "report", "ey_test_tech/target", "ey_test_tech/logs")


def files_below(*folders: str) -> dict[Path, int]:
    """Return the project's files in these folders, with when they were written."""
    found = [file for folder in folders for file in (PROJECT_FOLDER / folder).rglob("*")]
    return {file: file.stat().st_mtime_ns for file in found}


def passwords(data_folder: Path) -> list[bytes]:
    """Return every password in the data."""
    users = json.loads((data_folder / "users.json").read_text(encoding="utf-8"))
    return [user["password"].encode() for user in users]


def test_the_changes_are_one_of_each_kind(fake_store: FakeStore) -> None:
    url = f"{fake_store.url}/carts"
    before = {cart["id"]: cart for cart in requests.get(url, timeout=60).json()}
    assert list(change_carts(fake_store.url)) == [
        "cart_created: cart 8, 2 each of products 1 and 2",
        "cart_modified: cart 1, product 1 from 2 to 3",
        "cart_deleted: cart 7, of user 8",
    ]
    after = {cart["id"]: cart for cart in requests.get(url, timeout=60).json()}
    assert after.keys() == {1, 2, 3, 4, 5, 6, 8}
    assert [
        number for number in before.keys() & after.keys() if before[number] != after[number]
    ] == [1]


def test_dbt_is_as_far_as_the_nodes_that_it_has_done() -> None:
    assert nodes_done("") == (0, None)
    assert nodes_done("1 of 147 START a\n2 of 147 START b") == (0, None)
    assert nodes_done("1 of 9 START a\n2 of 9 START b\n2 of 9 OK b\n3 of 9 PASS c") == (2, 9)


def test_the_next_commands_are_for_the_project_wherever_the_demo_was_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir("/")
    said: list[str] = []
    stages: Any = SimpleNamespace(say=said.append, console=Console(file=io.StringIO()))
    print_next_commands(stages, PROJECT_FOLDER / "report" / "index.html")
    assert said[0] == f"In {PROJECT_FOLDER}:"
    [start_over] = [line for line in said if line.endswith(" -m local_gcp demo")]
    assert PROJECT_FOLDER / shlex.split(start_over)[0] == Path(sys.executable)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("data_folder", [SAMPLE_DATA, FAKESTORE])
def test_the_demo_ends_with_gold_and_touches_nothing_else(
    start: Callable[..., Started], data_folder: Path, tmp_path: Path
) -> None:
    if not data_folder.is_dir():
        pytest.skip("../shared/fakestore is missing: the real answers are not at hand")
    before = files_below(*USER_FOLDERS)
    demo = start("demo", "--data", str(data_folder))
    demo.process.wait(550)
    said = demo.out.read_text(encoding="utf-8")
    assert demo.process.returncode == 0, demo.err.read_text() + said
    assert demo.descendants() == []
    assert "PASS=" in said
    # what changed, and what to type next
    for story in ("cart_deleted: cart ", "Open the report:", "up > .env.local &", "Start over:"):
        assert story in said
    # 7 carts, one more, one fewer; products and users with their unknown member
    for table, rows in {"dim_products": 21, "dim_users": 11}.items():
        assert f"{table:<15} {rows:>5}" in said
    root = tmp_path / "gcp" / "demo"
    for page in ("report/index.html", "dbt/target/static_index.html"):
        assert (root / page).is_file()
    assert files_below(*USER_FOLDERS) == before
    written = [file.read_bytes() for file in root.rglob("*") if file.is_file()]
    for password in passwords(data_folder):
        assert not any(password in content for content in written)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
@pytest.mark.parametrize("moment", ["Fake Store", "cart abandoned"])
def test_a_demo_that_is_stopped_leaves_nothing_behind(
    start: Callable[..., Started], number: int, code: int, moment: str
) -> None:
    demo = start("demo")
    until(lambda: moment in demo.out.read_text(encoding="utf-8"), 300)
    demo.process.send_signal(number)
    assert demo.process.wait(120) == code
    until(lambda: not demo.descendants())
    assert "Traceback" not in demo.err.read_text()
