"""The local GCP: what it creates, how it starts and ends, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from google.pubsub_v1 import types

from ingestion.project import PROJECT_FOLDER
from local_gcp import __main__ as local_gcp
from local_gcp import commands, resources
from local_gcp.__main__ import own_folder
from local_gcp.environment import proxy_exemptions
from local_gcp.servers import LocalGcp
from local_gcp.shop_data import SAMPLE_DATA
from local_gcp.subscription import sort_messages
from tests.support.local_gcp_process import Started, until


def rows(gcp: LocalGcp, sql: str) -> list[dict[str, Any]]:
    """Return the rows of a query."""
    return [dict(row) for row in gcp.clients.bigquery.query(sql).result()]


def subscribe_to_bigquery(gcp: LocalGcp) -> tuple[str, str]:
    """Create a topic with a BigQuery subscription; return the topic and the table."""
    name = f"sub_{uuid.uuid4().hex[:8]}"
    resources.make_bronze(gcp.clients, name)
    resources.make_pulled_topic(gcp.clients, name)
    topic = f"projects/{gcp.project_id}/topics/{name}"
    table = f"{gcp.project_id}.{name}.carts_events_raw"
    request = {
        "name": f"projects/{gcp.project_id}/subscriptions/{name}-bigquery",
        "topic": topic,
        "bigquery_config": {"table": table, "write_metadata": True},
    }
    gcp.clients.subscriber.create_subscription(request=request, timeout=60)
    return topic, table


@pytest.fixture
def subscription(gcp: LocalGcp, pubsub_emulator: None) -> Iterator[None]:
    """What moves messages to BigQuery, no longer than it is needed: it is never idle."""
    gcp.start("subscription")
    yield
    gcp.kill("subscription")


@pytest.mark.usefixtures("pubsub_emulator")
def test_it_creates_what_terraform_creates(gcp: LocalGcp) -> None:
    project = f"projects/{gcp.project_id}"
    datasets = {one.dataset_id for one in gcp.clients.bigquery.list_datasets()}
    assert datasets >= {"bronze_data", "silver_data", "gold_data"}
    tables = {one.table_id for one in gcp.clients.bigquery.list_tables("bronze_data")}
    assert tables == set(resources.BRONZE_TABLES)
    for name in ("GCS_BUCKET_NAME", "STATE_BUCKET_NAME"):
        assert gcp.clients.storage.bucket(gcp.environment[name]).exists()
    listed = gcp.clients.subscriber.list_subscriptions(request={"project": project}, timeout=60)
    assert {
        one.name.rpartition("/")[2]: one.topic.rpartition("/")[2] for one in listed
    }.items() >= {
        "carts-events-pull": "carts-events",
        "carts-events-bigquery": "carts-events",
        "carts-events-dead-letter-pull": "carts-events-dead-letter",
    }.items()


@pytest.mark.usefixtures("subscription")
def test_a_bigquery_subscription_writes_the_message_with_its_metadata(gcp: LocalGcp) -> None:
    topic, table = subscribe_to_bigquery(gcp)
    message = {
        "data": '{"cart": 1, "note": "Ærø"}'.encode(),
        "ordering_key": "cart_1",
        "attributes": {"content-type": "application/cloudevents+json; charset=utf-8"},
    }
    request = {"topic": topic, "messages": [message]}
    (message_id,) = gcp.clients.publisher.publish(request=request, timeout=60).message_ids
    (row,) = until(lambda: rows(gcp, f"select * from `{table}`"))
    assert abs(time.time() - row.pop("publish_time").timestamp()) < 600
    assert row == {
        "subscription_name": f"{topic.replace('/topics/', '/subscriptions/')}-bigquery",
        "message_id": message_id,
        "data": {"cart": 1, "note": "Ærø"},
        "attributes": {**message["attributes"], "orderingKey": "cart_1"},  # type: ignore[dict-item]
    }


@pytest.mark.usefixtures("subscription")
def test_a_bigquery_subscription_may_deliver_twice(gcp: LocalGcp) -> None:
    topic, table = subscribe_to_bigquery(gcp)
    gcp.kill("subscription")
    gcp.start("subscription", "--deliver-twice")
    request = {"topic": topic, "messages": [{"data": b"{}"}]}
    gcp.clients.publisher.publish(request=request, timeout=60)
    twice = until(lambda: len(found := rows(gcp, f"select * from `{table}`")) > 1 and found)
    assert twice[0] == twice[1]


def test_data_that_is_no_json_is_given_back() -> None:
    published = {"message_id": "7", "publish_time": datetime.now(UTC)}
    good = types.ReceivedMessage(ack_id="1", message={"data": b"{}", **published})
    bad = [
        types.ReceivedMessage(ack_id="2", message={"data": b"{"}),
        types.ReceivedMessage(ack_id="3", message={"data": b"\xff"}),
    ]
    written, refused = sort_messages("s", [good, *bad])
    assert (list(written), refused) == (["1"], ["2", "3"])


def test_a_server_can_be_killed_and_started_again(gcp: LocalGcp) -> None:
    for _ in range(2):
        gcp.start("fake_store")
        assert len(requests.get(f"{gcp.api_url}/carts", timeout=60).json()) == 7
        gcp.kill("fake_store")
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{gcp.api_url}/carts", timeout=60)


def test_up_says_how_to_use_it_and_leaves_nothing_behind(
    start: Callable[..., Started], tmp_path: Path
) -> None:
    # no Java on the PATH, and a HOME that is not there
    up = start("up", PATH=os.path.dirname(sys.executable), HOME=str(tmp_path / "nowhere"))  # noqa: PTH120
    exported = up.ready()
    assert set(exported) >= {"GCP_PROJECT_ID", "PUBSUB_EMULATOR_HOST", "DBT_TARGET"}
    root = tmp_path / "gcp" / "up"
    assert exported["RAW_DIR"] == str(root / "raw")
    assert exported["STATE_FILE"] == str(root / "state" / "carts_state.json")
    assert exported["EVENTS_DIR"] == str(root / "events")
    assert requests.get(f"{exported['FAKE_STORE_API_URL']}/users", timeout=60).status_code == 200
    assert "our stand-in for Google's emulator, as Java or its jar is missing" in up.err.read_text()
    status = start("status")
    status.process.wait(120)
    assert f"up (pid {up.process.pid})" in status.out.read_text()
    assert exported["BIGQUERY_EMULATOR_HOST"] in status.out.read_text()
    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(120) == 0
    assert up.descendants() == []
    assert not (tmp_path / "nowhere").exists()


def test_a_proxy_in_the_environment_is_not_asked_for_what_is_here(
    start: Callable[..., Started], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
    proxy = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"), dead)
    up = start("up", **proxy, no_proxy="example.com", NO_PROXY="", no_grpc_proxy="")
    exported = up.ready()
    assert exported["no_proxy"] == "example.com,127.0.0.1,localhost,::1"
    environment = {**os.environ, **proxy, **exported}
    for command in (
        ["batch_ingestion.py", "--raw-dir", exported["RAW_DIR"]],
        [
            *("near_realtime_ingestion_2.py", "--once"),
            *("--state-file", exported["STATE_FILE"], "--events-dir", exported["EVENTS_DIR"]),
        ],
    ):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=PROJECT_FOLDER,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("set_before", "no_proxy", "no_grpc_proxy"),
    [
        ({}, "127.0.0.1,localhost,::1", "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "a, localhost"}, "a,localhost,127.0.0.1,::1", "a,localhost,127.0.0.1,::1"),
        ({"no_grpc_proxy": "b"}, "127.0.0.1,localhost,::1", "b,127.0.0.1,localhost,::1"),
        ({"no_proxy": "*"}, "*", "*"),
    ],
)
def test_what_was_exempt_from_a_proxy_stays_so(
    set_before: dict[str, str], no_proxy: str, no_grpc_proxy: str
) -> None:
    assert proxy_exemptions(set_before) == {
        "no_proxy": no_proxy,
        "NO_PROXY": no_proxy,
        "no_grpc_proxy": no_grpc_proxy,
    }


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_killed_halfway_through_starting_it_leaves_nothing_behind(
    start: Callable[..., Started], number: int, code: int
) -> None:
    up = start("up", "--pubsub", "stand-in")
    until(lambda: len(up.descendants()) >= 2)
    up.process.send_signal(number)
    assert up.process.wait(120) == code
    until(lambda: not up.descendants())


def test_a_guard_that_is_killed_takes_its_server_along(start: Callable[..., Started]) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells a process that its parent has died")
    up = start("up", "--pubsub", "stand-in")
    for pid in until(lambda: len(found := up.descendants()) >= 4 and found):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"guard.py" in command:
            os.kill(pid, signal.SIGKILL)
    # the first that is missed ends the start
    assert up.process.wait(120) == 1
    until(lambda: not up.descendants())


def test_a_guard_that_died_before_its_server_asked_takes_it_along_too() -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells a process that its parent has died")
    orphan = "from local_gcp.guard import die_with; die_with(guard=1); print('lives on')"
    ended = subprocess.run([sys.executable, "-c", orphan], cwd=PROJECT_FOLDER, capture_output=True)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, b"")


def test_a_port_in_use_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = local_gcp.main(["up", "--port-base", str(port), "--folder", str(tmp_path)])
    assert code == 1
    said = capsys.readouterr().err
    assert said == f"Port {port} is not free for fake_store: give another --port-base, or none.\n"


@pytest.mark.parametrize("base", ["0", "65531", "80x"])
def test_a_port_base_that_leaves_no_room_is_told_the_range(
    base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        local_gcp.main(["up", "--port-base", base])
    assert ended.value.code == 2
    assert f"--port-base: '{base}' is no port from 1 to 65,530\n" in capsys.readouterr().err


def test_the_ports_of_servers_that_do_not_run_are_given_to_nobody_else(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("elsewhere a port that is held cannot be listened at")
    gcp = LocalGcp(tmp_path)
    for port in gcp.ports.values():
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        # but to the server itself, and to the next one
        for _ in range(2):
            socket.create_server(("127.0.0.1", port)).close()
    gcp.__exit__()
    with socket.socket() as other:
        other.bind(("127.0.0.1", gcp.ports["gcs"]))


def test_a_folder_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert local_gcp.main(["up", "--folder", str(tmp_path / "file" / "below")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "cannot be written (" in said and said.endswith("): give another --folder.\n")


def test_data_without_carts_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("products", "users"):
        shutil.copy(SAMPLE_DATA / f"{name}.json", tmp_path)
    assert local_gcp.main(["demo", "--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{tmp_path} has no carts.json: give another --data.\n"


@pytest.mark.parametrize(
    ("carts", "sentence"),
    [
        (b"", "carts.json is no JSON (Expecting value: line 1 column 1 (char 0))."),
        (b"\xff[]", "carts.json is no JSON ('utf-8' codec can't decode byte 0xff in position 0: "),
        (b"{}", "carts.json is not a JSON array."),
        (b'[{"id": 1}, {"id": "2"}]', "record 1 has no whole number of its own as its id."),
        (b'[{"id": 1}, {"id": 1}]', "record 1 has no whole number of its own as its id."),
        (b"[7]", "record 0 has no whole number of its own as its id."),
    ],
)
def test_data_that_no_store_can_serve_is_wrong_usage(
    carts: bytes, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(SAMPLE_DATA, tmp_path / "data")
    (tmp_path / "data" / "carts.json").write_bytes(carts)
    assert local_gcp.main(["up", "--data", str(tmp_path / "data")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert sentence in line


def test_status_of_a_file_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    assert local_gcp.main(["status", "--folder", str(tmp_path / "file")]) == 2
    assert "is no folder: give another --folder." in capsys.readouterr().err


def test_ctrl_c_during_the_imports_is_quiet(tmp_path: Path) -> None:
    # an import that tells that it has begun, and never ends
    (tmp_path / "ingestion").mkdir()
    (tmp_path / "ingestion" / "__init__.py").write_text(
        "print('importing', flush=True)\nimport time\ntime.sleep(150)\n"
    )
    pretend = (
        f"import runpy, sys; sys.path[:0] = [{str(tmp_path)!r}, {str(PROJECT_FOLDER)!r}]; "
        "runpy.run_module('local_gcp', run_name='__main__', alter_sys=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", pretend],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (-signal.SIGINT, "")


@pytest.mark.parametrize("flag", ["--folder", "--data"])
def test_an_empty_folder_name_is_wrong_usage(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        local_gcp.main(["up", flag, ""])
    assert ended.value.code == 2
    assert "an empty name is no folder" in capsys.readouterr().err


def test_a_missing_emulator_is_wrong_usage_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "CLOUD_SDK_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert local_gcp.main(["up", "--pubsub", "emulator", "--folder", str(tmp_path)]) == 2
    assert "Java" in capsys.readouterr().err


def test_its_folder_can_be_given_instead_of_its_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, PROJECT_FOLDER / "local_gcp", "status", "--folder", tmp_path],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("No local Google Cloud runs here")


def test_without_the_environment_it_names_the_command_that_makes_it() -> None:
    # -S: no package that was installed is found
    done = subprocess.run(
        [sys.executable, "-S", "-m", "local_gcp", "demo"],
        cwd=PROJECT_FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"The package \S+ is missing: run 'make setup'.*\n", done.stderr)


def test_an_old_python_is_one_sentence() -> None:
    pretend = (
        "import runpy, sys; sys.version_info = (3, 10); "
        "runpy.run_module('local_gcp', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", pretend],
        cwd=PROJECT_FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Python 3.11 or newer is needed")


def test_each_run_has_a_folder_of_its_own_and_finds_it_empty(tmp_path: Path) -> None:
    with own_folder(tmp_path, "demo") as first, own_folder(tmp_path, "demo") as second:
        assert [first.name, second.name] == ["demo", "demo-2"]
        (first / "old").write_text("of the first run")
    with own_folder(tmp_path, "demo") as again:
        assert (again.name, list(again.iterdir())) == ("demo", [])


def test_status_says_that_nothing_runs_and_forgets_who_was_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "up").mkdir()
    note = {"pid": 1, "servers": {"gcs": "http://127.0.0.1:1"}}
    (tmp_path / "up" / "instance.json").write_text(json.dumps(note))
    assert local_gcp.main(["status", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("No local Google Cloud runs here")


def test_the_commands_by_hand_do_not_wait_for_what_has_failed(tmp_path: Path) -> None:
    pages = ("README.md", "docs/scripts.md", "local_gcp/demo.py")
    texts = [(PROJECT_FOLDER / page).read_text(encoding="utf-8") for page in pages]
    [wait] = {line for text in texts for line in re.findall(r"until grep .*?; done", text)}
    done = subprocess.run(
        ["bash", "-c", f"{{ echo why >&2; false; }} > .env.local &\n{wait}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr.startswith("why\n")


@pytest.mark.slow
def test_the_commands_by_hand_work_typed_twice_behind_a_proxy(tmp_path: Path) -> None:
    page = (PROJECT_FOLDER / "docs" / "scripts.md").read_text(encoding="utf-8")
    block = re.search(r"To run the scripts by hand .*?```bash\n(.*?)```", page, re.S)
    assert block
    python = shlex.quote(sys.executable)
    typed = block[1].replace("local_gcp up", f"local_gcp up --folder {tmp_path}/gcp")
    typed = typed.replace(".venv/bin/python", python).replace(".env.local", f"{tmp_path}/.env")
    done = subprocess.run(
        # a group of its own, so that none of it outlives a failure
        ["timeout", "150", "bash", "-c", f"set -e\n{typed}{typed}wait"],
        cwd=PROJECT_FOLDER,
        env={**os.environ, "http_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"products +done +20 ", done.stdout)) == 2
    assert done.stderr.count("created=7 ") == 2
