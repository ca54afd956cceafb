"""The ratios of docs/speed.md, small: each fails where a change makes it 1.5 times worse.

CPU seconds of processes of their own, compared with others of the same minute, so that the machine
does not count. What stands here was measured with 100,000 records; the marks of the benchmarks are
those of a million.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import batch, near_realtime
from tests.support.recording_pubsub import RecordingPubSub

pytestmark = pytest.mark.slow

RECORDS = 100_000
ROUNDS = 5
WORSE = 1.5

BATCH_TO_SPLITTER = 1.5
COLD_START_TO_ORJSON = 3.2
CHANGED_POLL_TO_ORJSON = 1.0
OWN_KEYS_TO_SHARED_KEYS = 10.0
LONG_TO_EMPTY_HISTORY = 1.1
REDACTION_WITH_THE_WORD = 1.2
START_SECONDS = 0.25


def ratio(work: Callable[[], float], measure: Callable[[], float], rounds: int = ROUNDS) -> float:
    """Return the median of one over the median of the other, measured in turn."""
    pairs = [(work(), measure()) for _ in range(rounds)]
    works, measures = zip(*pairs, strict=True)
    return statistics.median(works) / statistics.median(measures)


def test_the_batch_stage_is_not_much_slower_than_a_bare_splitter(tmp_path: Path) -> None:
    contenders = batch.contenders(None)
    folders = iter(tmp_path / str(number) for number in range(2 * ROUNDS))

    def cpu_of(name: str) -> float:
        folder = next(folders)
        folder.mkdir()
        return contenders[name](url, folder).cpu_seconds

    with batch.serving(RECORDS) as (url, _):
        times = ratio(lambda: cpu_of("batch_ingestion"), lambda: cpu_of("splitter"))
    assert times < WORSE * BATCH_TO_SPLITTER


def cpu_alone(*arguments: str) -> float:
    return near_realtime.run_alone(*arguments)["cpu_seconds"]


def test_a_cold_start_and_a_changed_poll_are_not_much_slower_than_parsing(tmp_path: Path) -> None:
    before, after = near_realtime.write_answers(tmp_path, RECORDS)
    cold, changed, parsed = [], [], []
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        cold.append(cpu_alone("poll", str(folder), str(before)))
        changed.append(cpu_alone("poll", str(folder), str(after)))
        parsed.append(cpu_alone("orjson", str(before)))
    measure = statistics.median(parsed)
    assert statistics.median(cold) < WORSE * COLD_START_TO_ORJSON * measure
    assert statistics.median(changed) < WORSE * CHANGED_POLL_TO_ORJSON * measure


def test_a_long_history_costs_neither_a_poll_nor_a_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ratios = near_realtime.bench_history(RECORDS, ROUNDS)
    assert max(ratios.values()) < WORSE * LONG_TO_EMPTY_HISTORY, capsys.readouterr().out


def test_shared_ordering_keys_are_many_times_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    pubsub = RecordingPubSub()
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub.environment["PUBSUB_EMULATOR_HOST"])
    try:
        times = ratio(
            lambda: cpu_alone("publish", "10000", "ours"),
            lambda: cpu_alone("publish", "10000", near_realtime.SHARED_KEYS),
            rounds=3,
        )
    finally:
        pubsub.stop()
    assert times > OWN_KEYS_TO_SHARED_KEYS / WORSE


def test_the_word_in_every_title_does_not_slow_redaction() -> None:
    times = batch.redaction_seconds("a password") / batch.redaction_seconds("a notebook")
    assert times < WORSE * REDACTION_WITH_THE_WORD


@pytest.mark.parametrize("script", batch.STARTS)
def test_a_stage_asks_soon_after_it_is_started(script: str) -> None:
    starts = [batch.start_seconds(script, *batch.STARTS[script]) for _ in range(ROUNDS)]
    assert statistics.median(starts) < WORSE * START_SECONDS
