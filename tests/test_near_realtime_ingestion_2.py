"""The near-real-time stage as a process: bad answers, one writer, signals, command line."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

import near_realtime_ingestion_2 as stage
from ingestion.carts.state import load_header
from ingestion.durable_files import single_writer
from ingestion.project import PROJECT_FOLDER
from local_gcp.fake_store import FakeStore, running_fake_store
from tests.support.cart_histories import (
    KILLED,
    CartsSource,
    Ended,
    Fault,
    carts_source,
    check_guarantees,
    end_stage,
    outbox,
    published,
    run_here,
    run_stage,
    stage_command,
    start_stage,
)
from tests.support.local_gcp_process import until
from tests.support.scripted_http import answer, scripted_server


@pytest.fixture
def source() -> Iterator[CartsSource]:
    with carts_source() as started:
        for cart_id in range(1, 8):
            started.put(cart_id, (cart_id, 1), (1, 2))
        yield started


def contents(folder: Path) -> dict[str, bytes]:
    """Return what a run left behind, locks and the note of the last poll apart."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in {".lock", ".pid"} and "last_poll" not in path.name
    }


PASSING_FAULTS = {
    "503": (Fault(b"down", 503), "answered 503"),
    "truncated": (Fault(b'[{"id":1,"userId":1', declared=100), "stopped in the middle"),
    "cut JSON": (Fault(b'[{"id":1,"userId":1'), "cut short"),
    "reset": (Fault(is_reset=True), "could not be reached"),
    "hang": (Fault(is_hanging=True), "did not answer within"),
    "429": (Fault(b"", 429, {"Retry-After": "0"}), "answered 429"),
}
# kinds of local_gcp/fake_store.py
LASTING_FAULTS = {
    "html403": "answered 403",
    "object400": "answered 400",
    "null": "answered null",
    "empty": "an empty body",
    "empty_list": "an empty list",
    "html200": "an HTML page",
    "duplicate_id": "an id twice",
}
OTHER_BODIES = {
    b'{"carts":[]}': "a JSON object",
    b'[{"id":1},{"id":2}]': "2 bad records of 2",
    b"[{}]": "without an integer id",
    b"[1]": "without an integer id",
    b"[{]": "not valid JSON",
}


def once_here(folder: Path, url: str) -> Ended:
    return run_here(folder, url, "--once", "--local-only")


@pytest.mark.parametrize("kind", LASTING_FAULTS)
def test_a_bad_answer_is_never_read_as_data(
    tmp_path: Path, fake_store: FakeStore, kind: str
) -> None:
    """In a cold start and while running: no event, the state byte for byte the same, exit 1."""
    fake_store.set_fault("/carts", kind)
    cold = once_here(tmp_path, fake_store.url)
    assert contents(tmp_path) == {}
    fake_store.clear_faults()
    assert once_here(tmp_path, fake_store.url).code == 0
    before = contents(tmp_path)
    fake_store.set_fault("/carts", kind)
    running = once_here(tmp_path, fake_store.url)
    assert contents(tmp_path) == before
    for ended in (cold, running):
        assert ended.code == 1
        assert LASTING_FAULTS[kind] in ended.log
        assert "The poll was refused, the state is as it was." in ended.log


@pytest.mark.parametrize("body", OTHER_BODIES)
def test_a_list_that_is_none_of_carts_is_never_read_as_data(
    tmp_path: Path, source: CartsSource, body: bytes
) -> None:
    once_here(tmp_path, source.url)
    before = contents(tmp_path)
    source.fault = Fault(body)
    ended = once_here(tmp_path, source.url)
    assert ended.code == 1
    assert contents(tmp_path) == before
    assert OTHER_BODIES[body] in ended.log


def test_an_unchanged_store_answers_304_and_costs_no_event(
    tmp_path: Path, fake_store: FakeStore
) -> None:
    once_here(tmp_path, fake_store.url)
    before = contents(tmp_path)
    assert once_here(tmp_path, fake_store.url).code == 0
    assert [request["status"] for request in fake_store.requests] == [200, 304]
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", PASSING_FAULTS)
def test_a_source_that_fails_again_and_again_is_given_up_and_leaves_all_as_it_was(
    tmp_path: Path, source: CartsSource, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As above, for what is tried again, here without pauses."""
    monkeypatch.setattr(stage, "fetch", partial(stage.fetch, backoff=lambda _: 0.0))
    once_here(tmp_path, source.url)
    before = contents(tmp_path)
    fault, sentence = PASSING_FAULTS[name]
    source.fault = fault
    flags = ["--local-only", "--poll-interval", "0.01", "--max-polls", "2"]
    if fault.is_hanging:
        # nothing else is asked for, so that no busy machine is too slow
        flags += ["--source-timeout", "0.2"]
    else:
        source.fault_after = 1
    ended = run_here(tmp_path, source.url, *flags)
    assert ended.code == 1
    assert sentence in ended.log
    assert "(3 attempts)" in ended.log
    assert (ended.summary["published"], ended.summary["deleted"]) == (0, 0)
    assert contents(tmp_path) == before


def test_the_loop_goes_on_while_the_source_is_down_and_tells_the_gap(
    tmp_path: Path, source: CartsSource
) -> None:
    flags = ("--local-only", "--poll-interval", "0.01")
    run_stage(tmp_path, source.url, "--once", *flags)
    last_good = json.loads(published(tmp_path)[0])["time"]
    source.fault = Fault(b"null")
    process = start_stage(tmp_path, source.url, "--max-polls", "100000", *flags)
    # the last of them may be answered well: it is seen before it is answered
    while source.requests < 6:
        assert process.poll() is None
        time.sleep(0.01)
    source.put(1, (9, 9))
    source.fault = None
    while len(published(tmp_path)) < 8:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    ended = end_stage(process)
    assert ended.code == 0
    assert ended.summary["failed_polls"] >= 4
    data = json.loads(published(tmp_path)[-1])["data"]
    assert data["observed_after"] == last_good


def test_a_loss_of_59_percent_is_held_with_exit_3_until_it_is_accepted(
    tmp_path: Path, source: CartsSource
) -> None:
    run_here(tmp_path, source.url, "--once", "--local-only")
    for cart_id in (1, 2, 3, 4):
        del source.carts[cart_id]
    held = run_here(tmp_path, source.url, "--once", "--local-only")
    assert (held.code, held.summary["held_deletions"], held.summary["deleted"]) == (3, 4, 0)
    assert "near_realtime_ingestion_2.py --once --accept-deletes" in held.log
    assert len(published(tmp_path)) == 7
    accepted = run_here(tmp_path, source.url, "--once", "--local-only", "--accept-deletes")
    assert (accepted.code, accepted.summary["deleted"]) == (0, 4)
    check_guarantees(published(tmp_path), source)


def test_a_loss_that_stays_is_believed_after_three_polls_and_three_intervals(
    tmp_path: Path, source: CartsSource
) -> None:
    run_here(tmp_path, source.url, "--once", "--local-only")
    for cart_id in (1, 2, 3, 4):
        del source.carts[cart_id]
    flags = ("--once", "--local-only", "--poll-interval")
    # a scheduler's retries in quick succession do not confirm each other
    codes = [run_here(tmp_path, source.url, *flags, "600").code for _ in range(4)]
    assert codes == [3, 3, 3, 3]
    assert run_here(tmp_path, source.url, *flags, "0.001").code == 0
    check_guarantees(published(tmp_path), source)


def test_one_deletion_of_seven_is_applied_at_once(tmp_path: Path, source: CartsSource) -> None:
    run_here(tmp_path, source.url, "--once", "--local-only")
    del source.carts[3]
    ended = run_here(tmp_path, source.url, "--once", "--local-only")
    assert (ended.code, ended.summary["deleted"]) == (0, 1)
    check_guarantees(published(tmp_path), source)


def test_a_second_process_stops_with_exit_2_and_names_the_first(
    tmp_path: Path, source: CartsSource
) -> None:
    first = start_stage(tmp_path, source.url, "--local-only")
    assert first.stderr
    first.stderr.readline()
    second = run_stage(tmp_path, source.url, "--local-only", "--once")
    first.send_signal(signal.SIGTERM)
    assert end_stage(first).code == 0
    assert second.code == 2
    assert f"pid {first.pid}" in second.log
    # the lock ends with its process
    assert run_stage(tmp_path, source.url, "--local-only", "--once").code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets nobody remove a held lock")
@pytest.mark.parametrize("lock", ["state/carts_state.json.lock", "events/outbox.lock"])
@pytest.mark.parametrize("while_it", ["asks", "publishes"])
def test_who_has_lost_its_lock_writes_nothing_more_and_nothing_is_lost(
    tmp_path: Path,
    source: CartsSource,
    monkeypatch: pytest.MonkeyPatch,
    lock: str,
    while_it: str,
) -> None:
    once_here(tmp_path, source.url)
    source.put(1, (7, 7))
    before = contents(tmp_path)
    name = {"asks": "fetch", "publishes": "acknowledge_all"}[while_it]
    as_before = getattr(stage, name)

    def remove_the_lock(*args: Any, **kwargs: Any) -> Any:
        (tmp_path / lock).unlink()
        return as_before(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(stage, name, remove_the_lock)
        stopped = once_here(tmp_path, source.url)
    assert stopped.code == 1
    assert f"{tmp_path / lock} was removed while this process held it" in stopped.log
    if while_it == "asks":
        assert contents(tmp_path) == before
    assert len(published(tmp_path)) == 7
    assert once_here(tmp_path, source.url).summary["published"] == 1
    check_guarantees(published(tmp_path), source)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_wait_ends_it_at_once(
    tmp_path: Path, source: CartsSource, number: signal.Signals
) -> None:
    process = start_stage(tmp_path, source.url, "--local-only", "--poll-interval", "600")
    assert process.stderr
    process.stderr.readline()
    sent_at = time.monotonic()
    process.send_signal(number)
    ended = end_stage(process)
    # of the 600 that it would wait; a busy machine needs its time to end a process
    assert time.monotonic() - sent_at < 60
    assert (ended.code, ended.summary["polls"], ended.summary["published"]) == (0, 1, 7)


def test_a_signal_while_the_source_is_asked_ends_the_wait_and_loses_nothing(
    tmp_path: Path, source: CartsSource
) -> None:
    source.fault = Fault(is_hanging=True)
    process = start_stage(tmp_path, source.url, "--local-only", "--source-timeout", "600")
    until(lambda: source.requests)
    sent_at = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert end_stage(process).code == 0
    assert time.monotonic() - sent_at < 60
    source.fault = None
    assert run_stage(tmp_path, source.url, "--local-only", "--once").summary["published"] == 7


def test_a_second_signal_ends_at_once_and_loses_nothing(
    tmp_path: Path, source: CartsSource
) -> None:
    source.fault = Fault(is_hanging=True)
    process = start_stage(tmp_path, source.url, "--local-only", "--source-timeout", "600")
    until(lambda: source.requests)
    # both arrive in the same moment, so the first cannot have ended the process
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        process.send_signal(number)
    assert end_stage(process, timeout=60).code == 1
    source.fault = None
    assert run_stage(tmp_path, source.url, "--local-only", "--once").summary["published"] == 7


def test_a_compressed_answer_that_unpacks_to_too_much_is_refused(
    tmp_path: Path,
) -> None:
    packed = gzip.compress(b"[" + b" " * (280 << 20), 1)
    with scripted_server({"/carts": [answer(200, packed, Content_Encoding="gzip")]}) as server:
        ended = run_stage(tmp_path, server.url, "--local-only", "--once")
    assert ended.code == 1
    assert "more than 256 MB" in ended.log


def test_polls_are_an_interval_apart_from_start_to_start(
    tmp_path: Path, source: CartsSource
) -> None:
    started = time.monotonic()
    ended = run_here(
        tmp_path, source.url, "--local-only", "--max-polls", "3", "--poll-interval", "0.3"
    )
    assert (ended.code, ended.summary["polls"]) == (0, 3)
    assert time.monotonic() - started >= 0.6


def test_a_dry_run_shows_the_changes_and_writes_nothing(
    tmp_path: Path, source: CartsSource
) -> None:
    as_json = stage_command(tmp_path, source.url, "--dry-run")
    as_table = [word for word in as_json if word != "--json"]
    cold = subprocess.run(as_table, capture_output=True, text=True, check=True).stdout
    assert cold.count("created") == 7
    assert list(tmp_path.iterdir()) == []
    run_stage(tmp_path, source.url, "--once", "--local-only")
    before = contents(tmp_path)
    source.put(2, (9, 9))
    shown = subprocess.run(as_table, capture_output=True, text=True, check=True).stdout
    assert "modified (after)" in shown
    assert "9 x 9" in shown
    (change,) = run_here(tmp_path, source.url, "--dry-run").summary["changes"]
    assert (change["type"], change["cart_id"]) == ("com.fakestoreapi.cart_modified", 2)
    assert change["after"]["products"] == [{"productId": 9, "quantity": 9}]
    assert contents(tmp_path) == before


def test_a_corrupt_state_stops_the_script_with_what_to_do(
    tmp_path: Path, source: CartsSource
) -> None:
    run_here(tmp_path, source.url, "--once", "--local-only")
    state = tmp_path / "state" / "carts_state.json"
    state.write_bytes(state.read_bytes()[:-9])
    before = contents(tmp_path)
    ended = run_here(tmp_path, source.url, "--once", "--local-only")
    assert ended.code == 1
    assert "move it away" in ended.log
    assert contents(tmp_path) == before


def test_a_damaged_outbox_stops_the_script_with_what_to_do(
    tmp_path: Path, source: CartsSource
) -> None:
    run_stage(tmp_path, source.url, "--once", "--local-only", env={"FAILPOINT": "published-torn"})
    (batch,) = outbox(tmp_path)
    batch.write_bytes(batch.read_bytes()[:-99])
    ended = run_stage(tmp_path, source.url, "--once", "--local-only")
    assert ended.code == 1
    assert "6 of 7 events" in ended.log
    assert "--new-snapshot" in ended.log


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--once", "--project-id", "your-project-id"], "still the placeholder"),
        (
            ["--once", "--project-id", "some-project", "--topic", "no/topic"],
            "no name of a Pub/Sub topic",
        ),
        (["--local-only", "--replay-dead-letters"], "--replay-dead-letters"),
        (["--poll-interval", "soon"], "--poll-interval"),
    ],
)
def test_wrong_configuration_is_exit_2(
    tmp_path: Path, source: CartsSource, flags: list[str], sentence: str
) -> None:
    ended = run_stage(tmp_path, source.url, *flags)
    assert ended.code == 2
    assert sentence in ended.log
    assert "Traceback" not in ended.log
    assert source.requests == 0


def test_a_place_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, source: CartsSource
) -> None:
    (tmp_path / "state" / "carts_state.json").mkdir(parents=True)
    ended = run_stage(tmp_path, source.url, "--once", "--local-only")
    assert ended.code == 1
    place = tmp_path / "state" / "carts_state.json"
    assert f" Is a directory: {place}. What had been written stays valid: mend" in ended.log


@pytest.mark.parametrize(
    "flags",
    [
        ("--replay-dead-letters", "--local-only"),
        ("--replay-dead-letters", "--new-snapshot"),
        ("--status", "--new-snapshot"),
        *combinations(("--status", "--dry-run", "--replay-dead-letters"), 2),
    ],
)
def test_what_would_not_be_obeyed_is_refused(
    tmp_path: Path, source: CartsSource, flags: tuple[str, str]
) -> None:
    ended = run_stage(tmp_path, source.url, "--project-id", "p", *flags)
    assert (ended.code, source.requests) == (2, 0)
    said = ended.log.splitlines()[-1]
    assert all(flag in said for flag in flags), said


def test_another_api_with_the_same_etag_is_not_taken_for_the_one_before(
    tmp_path: Path, fake_store: FakeStore
) -> None:
    assert once_here(tmp_path, fake_store.url).code == 0
    with running_fake_store() as twin:
        refused = once_here(tmp_path, twin.url)
        assert (refused.code, twin.requests) == (2, [])
        assert f"made for the source {fake_store.url}/carts" in refused.log
        begun = run_here(tmp_path, twin.url, "--once", "--local-only", "--new-snapshot")
        assert (begun.code, begun.summary["published"]) == (0, 7)
        assert [request["status"] for request in twin.requests] == [200]


def test_a_state_of_before_that_says_no_destination_is_refused_with_both_ways_out(
    tmp_path: Path, source: CartsSource
) -> None:
    state = tmp_path / "state" / "carts_state.json"
    state.parent.mkdir()
    state.write_bytes(b'{"format":1,"generation":"20261122T101500123Z-9f2c41aa","batch":1}')
    ended = once_here(tmp_path, source.url)
    assert (ended.code, source.requests) == (2, 0)
    assert "--state-file and an --events-dir of its own" in ended.log
    named = f"--api-url {source.url} --state-file {shlex.quote(str(state))}"
    assert f"--new-snapshot {named}" in ended.log
    assert run_here(tmp_path, source.url, "--once", "--local-only", "--new-snapshot").code == 0


def test_the_places_are_the_projects_whatever_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STATE_FILE", raising=False)
    monkeypatch.setenv("EVENTS_DIR", "")
    defaults = stage.parse_arguments([])
    assert defaults.state_file == PROJECT_FOLDER / "state" / "carts_state.json"
    assert defaults.events_dir == PROJECT_FOLDER / "events"
    monkeypatch.setenv("STATE_FILE", str(tmp_path / "of its own.json"))
    monkeypatch.setenv("EVENTS_DIR", "other/events")
    given = stage.parse_arguments([])
    assert given.state_file == tmp_path / "of its own.json"
    assert given.events_dir == PROJECT_FOLDER / "other" / "events"
    assert stage.parse_arguments(["--events-dir", "e"]).events_dir == tmp_path / "e"


def test_a_command_that_a_message_names_works_on_the_same_places(tmp_path: Path) -> None:
    flags = ["--project-id", "p", "--topic", "t", "--events-dir", str(tmp_path / "a b")]
    words = shlex.split(stage.command(stage.parse_arguments(flags), "--once"))
    assert words[:3] == ["python", "near_realtime_ingestion_2.py", "--once"]
    again = stage.parse_arguments(words[2:])
    assert (again.project_id, again.topic, again.events_dir) == ("p", "t", tmp_path / "a b")
    assert "--state-file" not in words
    secret = ["--local-only", "--api-url", "http://me:secret@api.example"]
    shown = stage.command(stage.parse_arguments(secret), "--once")
    assert shown.endswith("--once --api-url http://api.example --local-only")


def test_a_state_behind_a_link_stays_there_and_the_lock_follows_the_link(
    tmp_path: Path, source: CartsSource
) -> None:
    real = tmp_path / "disk" / "real.json"
    real.parent.mkdir()
    links = [tmp_path / "one.json", tmp_path / "two.json"]
    for link in links:
        link.symlink_to(real)
    places = [
        ("--state-file", str(link), "--events-dir", str(tmp_path / name), "--local-only")
        for link, name in zip(links, ("events", "events-2"), strict=True)
    ]
    assert run_here(tmp_path, source.url, "--once", *places[0]).code == 0
    assert all(link.is_symlink() for link in links)
    assert load_header(real) is not None
    with single_writer(real):
        second = run_here(tmp_path, source.url, "--once", *places[1])
    assert second.code == 2
    assert f"pid {os.getpid()}" in second.log


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of a file's size")
def test_a_full_disk_is_not_kept_full_and_the_message_names_the_file(
    tmp_path: Path, source: CartsSource
) -> None:
    import resource

    for cart_id in range(1, 400):
        source.put(cart_id, (1, 1))
    command = stage_command(tmp_path, source.url, "--once", "--local-only")
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20_000, 20_000))
    for _ in range(2):
        full = subprocess.run(
            command, preexec_fn=limit, capture_output=True, text=True, check=False
        )
        assert full.returncode == 1
        assert re.search(r"File too large: .*/events/outbox/.*\.jsonl", full.stderr)
        assert list((tmp_path / "events" / "outbox").glob("*.jsonl*")) == []
    assert once_here(tmp_path, source.url).code == 0
    check_guarantees(published(tmp_path), source)


def test_what_a_kill_left_half_written_in_the_outbox_is_swept(
    tmp_path: Path, source: CartsSource
) -> None:
    flags = ("--once", "--local-only")
    for _ in range(2):
        ended = run_stage(tmp_path, source.url, *flags, env={"FAILPOINT": "batch-torn"})
        assert ended.code == KILLED
    assert len(list(tmp_path.rglob("*.tmp"))) == 1
    assert once_here(tmp_path, source.url).code == 0
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_stray_file_in_the_outbox_is_named_and_left_alone(
    tmp_path: Path, source: CartsSource
) -> None:
    folder = tmp_path / "events" / "outbox"
    folder.mkdir(parents=True)
    names = ["notes.1x.jsonl", "a.0.jsonl", "20261122T101500123Z-9f2c41aa.1.jsonl", "copy.txt"]
    for name in names:
        (folder / name).write_text("?")
    ended = once_here(tmp_path, source.url)
    assert (ended.code, ended.summary["published"]) == (0, 7)
    assert all(f"no batch, left alone: file={folder / name}" in ended.log for name in names)


def test_the_crash_tests_switch_does_nothing_unless_it_is_armed(
    tmp_path: Path, source: CartsSource
) -> None:
    flags = ("--once", "--local-only")
    for armed in ("", "1", "true"):
        env = {"FAILPOINT": "state-written", "FAILPOINTS_ARMED": armed}
        source.put(1, (1, len(armed) + 1))
        assert run_stage(tmp_path, source.url, *flags, env=env).code == 0
    source.put(1, (1, 77))
    env = {"FAILPOINT": "state-written"}
    assert run_stage(tmp_path, source.url, *flags, env=env).code == KILLED


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself Ctrl-C there")
def test_ctrl_c_during_the_imports_is_quiet(tmp_path: Path, source: CartsSource) -> None:
    """One of the modules says when it is imported, and takes its time."""
    (tmp_path / "filelock.py").write_text(
        "import time; print('importing', flush=True); time.sleep(60)"
    )
    process = start_stage(tmp_path, source.url, "--once", env={"PYTHONPATH": str(tmp_path)})
    assert process.stdout
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=55)
    assert (process.returncode, log) == (-signal.SIGINT, "")


def test_local_only_imports_no_google_library_and_little_else(
    tmp_path: Path, source: CartsSource
) -> None:
    """What is imported is what the start costs."""
    script = (
        "import sys; import near_realtime_ingestion_2 as n; code = n.main(sys.argv[1:]);"
        "print([name for name, module in sys.modules.items() if getattr(module, '__file__', None)"
        " and name.split('.')[0] in ('google', 'grpc')]);"
        "print(len(sys.modules))"
    )
    command = [sys.executable, "-c", script, *stage_command(tmp_path, source.url)[2:]]
    done = subprocess.run(
        [*command, "--once", "--local-only"],
        cwd=PROJECT_FOLDER,
        capture_output=True,
        text=True,
        check=True,
    )
    _, of_google, modules = done.stdout.splitlines()
    assert of_google == "[]"
    # 430 with Python 3.11, and 1,450 with Google's libraries
    assert int(modules) < 700


def test_the_common_path_calls_nothing_that_windows_lacks(
    tmp_path: Path, source: CartsSource
) -> None:
    """What only POSIX has is taken away before the stage is imported."""
    script = (
        "import os, signal, sys;"
        "[delattr(signal, name) for name in ('SIGKILL', 'SIGHUP', 'SIGUSR1', 'SIGALRM', 'alarm')];"
        "[delattr(os, name) for name in ('fork', 'killpg', 'setsid', 'getuid', 'O_DIRECTORY')];"
        "sys.modules.update(dict.fromkeys(('resource', 'pwd', 'grp', 'termios')));"
        "import near_realtime_ingestion_2 as n; sys.exit(n.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, *stage_command(tmp_path, source.url)[2:]]
    done = subprocess.run(
        [*command, "--once", "--local-only"],
        cwd=PROJECT_FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(published(tmp_path)) == 7
