"""Runs side by side in one raw folder, and what killed ones have left there."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from ingestion.batch import run_lock
from ingestion.batch.run_lock import remove_traces_of_killed_runs, sole_run
from ingestion.project import PROJECT_FOLDER

RUN_ID = "33333333-3333-4333-8333-333333333333"

# what a run does to the raw folder, many times over and without the network
MANY_RUNS = """
import sys, uuid
from pathlib import Path
from ingestion.batch.landing import Reading, land
from ingestion.batch.receipts import Destination, remove_landing
from ingestion.batch.run_lock import remove_traces_of_killed_runs, sole_run
raw_dir = Path(sys.argv[1])
for _ in range(300):  # so short that the folder of locks is often empty
    with sole_run(raw_dir, str(uuid.uuid4())):
        pass
for _ in range(40):
    run_id = str(uuid.uuid4())
    remove_traces_of_killed_runs(raw_dir)
    with sole_run(raw_dir, run_id):
        reading = Reading("users", run_id, "2026-11-22T10:00:00.000000Z", "http://x", frozenset())
        landing = land([], raw_dir, reading, Destination("p", "b", "d"))
        assert (raw_dir / landing.data_path).exists()
        remove_landing(raw_dir, landing)
"""


# of two, one is often the last to leave; of eight, some are always on their way in
@pytest.mark.parametrize("count", [2, 8])
def test_runs_of_different_ids_never_meet(tmp_path: Path, count: int) -> None:
    command = [sys.executable, "-c", MANY_RUNS, str(tmp_path / "raw")]
    processes = [
        subprocess.Popen(command, cwd=PROJECT_FOLDER, stderr=subprocess.PIPE) for _ in range(count)
    ]
    said = [process.communicate(timeout=500)[1].decode() for process in processes]
    assert said == [""] * count
    assert [process.returncode for process in processes] == [0] * count
    assert [path for path in (tmp_path / "raw").rglob("*") if path.is_file()] == []
    assert list((tmp_path / "raw" / ".runs").iterdir()) == []


def test_runs_that_ended_well_are_not_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(20):
        with sole_run(tmp_path, run_id := str(uuid.uuid4())):
            (tmp_path / ".runs" / run_id).mkdir()
            (tmp_path / ".runs" / run_id / "users.json").write_text("{}")
    locked: list[str] = []

    def lock(path: Path, **options: float) -> None:
        locked.append(path.stem)
        raise run_lock.Timeout(str(path))

    killed = tmp_path / ".runs" / f"{RUN_ID}.lock"
    killed.touch()
    with monkeypatch.context() as patched:
        patched.setattr(run_lock, "FileLock", lock)
        remove_traces_of_killed_runs(tmp_path)
    assert locked == [RUN_ID]


def test_all_traces_of_a_killed_run_go_but_what_its_receipt_stands_for(tmp_path: Path) -> None:
    runs = tmp_path / ".runs"
    folder = runs / RUN_ID
    folder.mkdir(parents=True)
    for name in ("users.data.tmp", "users.quarantine.tmp", "users.json.tmp", "products.json.tmp"):
        (folder / name).write_text("x")
    (folder / "products.json").write_text("{}")
    (folder / "products.data.tmp").write_text("landed, and not yet in its place")
    (runs / f"{RUN_ID}.lock").touch()
    (runs / f"{RUN_ID}.pid").write_text("1")
    remove_traces_of_killed_runs(tmp_path)
    assert sorted(path.name for path in runs.rglob("*") if path.is_file()) == [
        "products.data.tmp",
        "products.json",
    ]


def test_a_run_at_work_is_left_alone(tmp_path: Path) -> None:
    with sole_run(tmp_path, RUN_ID):
        written = tmp_path / ".runs" / RUN_ID / "users.data.tmp"
        written.parent.mkdir()
        written.write_text("x")
        remove_traces_of_killed_runs(tmp_path)
        assert written.exists()
