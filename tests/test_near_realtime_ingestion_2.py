"""The near-real-time stage as a process: bad answers, one writer, signals, command line."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ingestion.carts.state import load_header
from ingestion.project import PROJECT_FOLDER
from local_gcp.fake_store import FakeStore
from tests.support.cart_histories import (
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


def test_a_source_that_fails_again_and_again_is_given_up_and_leaves_all_as_it_was(
    tmp_path: Path,
) -> None:
    """As above, for what is tried again: all at once, because they take seconds."""
    flags = ("--local-only", "--poll-interval", "0.01", "--source-timeout", "0.5")
    with ExitStack() as sources:
        running = {}
        for name, (fault, _) in PASSING_FAULTS.items():
            source = sources.enter_context(carts_source())
            source.put(1, (1, 1))
            source.fault, source.fault_after = fault, 1
            running[name] = start_stage(tmp_path / name, source.url, "--max-polls", "2", *flags)
        ended = {name: end_stage(process) for name, process in running.items()}
    for name, (_, sentence) in PASSING_FAULTS.items():
        assert ended[name].code == 1, name
        assert sentence in ended[name].log
        assert "(3 attempts)" in ended[name].log
        assert ended[name].summary["published"] == 1
        assert ended[name].summary["deleted"] == 0
        assert load_header(tmp_path / name / "state" / "carts_state.json")


def test_the_loop_goes_on_while_the_source_is_down_and_tells_the_gap(
    tmp_path: Path, source: CartsSource
) -> None:
    flags = ("--local-only", "--poll-interval", "0.01")
    run_stage(tmp_path, source.url, "--once", *flags)
    last_good = json.loads(published(tmp_path)[0])["time"]
    source.fault = Fault(b"null")
    process = start_stage(tmp_path, source.url, "--max-polls", "100000", *flags)
    while source.requests < 5:
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


def test_a_loss_that_stays_is_believed_by_the_third_poll(
    tmp_path: Path, source: CartsSource
) -> None:
    run_here(tmp_path, source.url, "--once", "--local-only")
    for cart_id in (1, 2, 3, 4):
        del source.carts[cart_id]
    codes = [run_here(tmp_path, source.url, "--once", "--local-only").code for _ in range(3)]
    assert codes == [3, 3, 0]
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_wait_ends_it_at_once(
    tmp_path: Path, source: CartsSource, number: signal.Signals
) -> None:
    process = start_stage(tmp_path, source.url, "--local-only", "--poll-interval", "60")
    assert process.stderr
    process.stderr.readline()
    sent_at = time.monotonic()
    process.send_signal(number)
    ended = end_stage(process)
    # of the 60 that it would wait; a busy machine needs its time to end a process
    assert time.monotonic() - sent_at < 5
    assert (ended.code, ended.summary["polls"], ended.summary["published"]) == (0, 1, 7)


def test_a_signal_while_the_source_is_asked_ends_the_wait_and_loses_nothing(
    tmp_path: Path, source: CartsSource
) -> None:
    source.fault = Fault(is_hanging=True)
    process = start_stage(tmp_path, source.url, "--local-only")
    while not source.requests:
        time.sleep(0.01)
    sent_at = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert end_stage(process).code == 0
    assert time.monotonic() - sent_at < 5
    source.fault = None
    assert run_stage(tmp_path, source.url, "--local-only", "--once").summary["published"] == 7


def test_a_second_signal_ends_at_once_and_loses_nothing(
    tmp_path: Path, source: CartsSource
) -> None:
    source.fault = Fault(is_hanging=True)
    process = start_stage(tmp_path, source.url, "--local-only")
    while not source.requests:
        time.sleep(0.01)
    # both arrive in the same moment, so the first cannot have ended the process
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        process.send_signal(number)
    assert end_stage(process, timeout=5).code == 1
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
    command = stage_command(tmp_path, source.url, "--dry-run")
    cold = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert cold.count("created") == 7
    assert list(tmp_path.iterdir()) == []
    run_stage(tmp_path, source.url, "--once", "--local-only")
    before = contents(tmp_path)
    source.put(2, (9, 9))
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "modified (after)" in shown
    assert "9 x 9" in shown
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
    batch.write_bytes(batch.read_bytes()[:-9])
    ended = run_stage(tmp_path, source.url, "--once", "--local-only")
    assert ended.code == 1
    assert "6 of 7 events" in ended.log
    assert "takes a new snapshot of all carts" in ended.log


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--once", "--project-id", "your-project-id"], "still the placeholder"),
        (["--once", "--project-id", "p", "--topic", "no/topic"], "no name of a Pub/Sub topic"),
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


def test_local_only_imports_no_google_library_and_starts_fast(
    tmp_path: Path, source: CartsSource
) -> None:
    script = (
        "import sys, time; started = time.process_time(); import near_realtime_ingestion_2 as n;"
        "code = n.main(sys.argv[1:]); spent = time.process_time() - started;"
        "print([name for name, module in sys.modules.items() if getattr(module, '__file__', None)"
        " and name.split('.')[0] in ('google', 'grpc')]);"
        "print(spent)"
    )
    command = [sys.executable, "-c", script, *stage_command(tmp_path, source.url)[2:]]
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [*command, "--once", "--local-only"],
            cwd=PROJECT_FOLDER,
            capture_output=True,
            text=True,
            check=True,
        )
        _, modules, spent = done.stdout.splitlines()
        assert modules == "[]"
        seconds.append(float(spent))
    # CPU seconds, and the best of three: what the machine does besides is not measured
    assert min(seconds) < 0.5


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
