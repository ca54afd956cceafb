"""Pollers on one state bucket: started, killed, put to sleep, and what they leave in the bucket."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from google.cloud.storage import Bucket

import near_realtime_ingestion_2
from local_gcp.servers import LocalGcp
from tests.support.cart_histories import CartsSource, stage_command
from tests.support.faulty_storage import (
    LOST_REPLY,
    LOST_REQUEST,
    Fault,
    FaultyStorage,
    faulty_storage,
)
from tests.support.forked_stage import ForkedStage, start_forked
from tests.support.recording_pubsub import RecordingPubSub

# on no machine is a poll so slow that it renews its lease, or loses it
LEASE_SECONDS = 600.0
# of those that are disturbed: another takes over soon
SHORT_LEASE_SECONDS = 0.5
LOOP = ("--max-polls", "3", "--poll-interval", "0.2")
ENDINGS = (0, 1, 3, -signal.SIGKILL)


class BucketPollers:
    """A bucket of its own, a source and a topic; each poller has folders that it may lose."""

    def __init__(
        self,
        folder: Path,
        bucket: Bucket,
        storage: FaultyStorage,
        source: CartsSource,
        pubsub: RecordingPubSub,
    ) -> None:
        self.folder = folder
        self.bucket = bucket
        self.storage = storage
        self.source = source
        self.pubsub = pubsub
        self.started: list[ForkedStage] = []

    def start(
        self,
        name: str,
        *flags: str,
        failpoint: str = "",
        lease: float = LEASE_SECONDS,
        bucket: str | None = None,
    ) -> ForkedStage:
        """Start a poller on the folders of that name, with another `bucket` or with none ('')."""
        environment = {
            **self.pubsub.environment,
            "STORAGE_EMULATOR_HOST": self.storage.url,
            "FAILPOINT": failpoint,
        }
        bucket = self.bucket.name if bucket is None else bucket
        flags = (*(("--state-bucket", bucket) if bucket else ()), *flags)
        flags = ("--lease-seconds", str(lease), "--publish-timeout", "5", *flags)
        flags = ("--project-id", "local-project", "--accept-deletes", *flags)
        argv = stage_command(self.folder / name, self.source.url, *flags)[2:]
        output = self.folder / "output" / f"{len(self.started)}"
        self.started.append(start_forked(near_realtime_ingestion_2, argv, environment, output))
        return self.started[-1]

    def poll(
        self, name: str = "a", *flags: str, failpoint: str = "", lease: float = LEASE_SECONDS
    ) -> ForkedStage:
        """Run a poller with --once to its end."""
        stage = self.start(name, "--once", *flags, failpoint=failpoint, lease=lease)
        stage.end()
        return stage

    def end_lease(self) -> None:
        """Let the time be over for which the head was taken, if anybody holds it."""
        head = self.bucket.blob("near_realtime/head.json")
        content = json.loads(head.download_as_bytes(timeout=60))
        if "lease_end" in content:
            content["lease_end"] = "2020-01-01T00:00:00Z"
            head.upload_from_string(json.dumps(content), timeout=60)

    def poll_until_done(self, *flags: str) -> ForkedStage:
        """Poll anew until a poll was made and nothing waits: short leases have to run out."""
        deadline = time.monotonic() + 300
        while True:
            stage = self.poll("last", *flags)
            summary = stage.summary() if stage.end() == 0 else {}
            if summary.get("carts") == len(self.source.carts) and not summary["waiting"]:
                return stage
            assert time.monotonic() < deadline, stage.log()
            time.sleep(SHORT_LEASE_SECONDS / 4)

    def published(self) -> list[bytes]:
        """Return the lines of the event store in the bucket, in the order of writing."""
        blobs = list(self.bucket.list_blobs(prefix="near_realtime/published/", timeout=10))
        blobs.sort(key=lambda blob: int(blob.generation))
        return [line for blob in blobs for line in blob.download_as_bytes().splitlines()]

    def names(self, folder: str = "") -> list[str]:
        """Return the names of the objects in a folder of the state."""
        prefix = f"near_realtime/{folder}"
        return [blob.name for blob in self.bucket.list_blobs(prefix=prefix, timeout=10)]

    def lose(self, name: str) -> None:
        """Take a poller's folders away."""
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def close(self) -> None:
        """End what still runs."""
        for stage in self.started:
            if stage.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(stage.pid, signal.SIGKILL)
                stage.process.join(10)


@contextmanager
def bucket_pollers(
    folder: Path, gcp: LocalGcp, source: CartsSource, pubsub: RecordingPubSub
) -> Iterator[BucketPollers]:
    """Make a new bucket on a local Cloud Storage, and pollers that reach it through faults."""
    bucket = gcp.clients.storage.create_bucket(f"state-{uuid.uuid4()}", timeout=10)
    with faulty_storage(gcp.ports["gcs"]) as storage:
        pollers = BucketPollers(folder, bucket, storage, source, pubsub)
        try:
            yield pollers
        finally:
            pollers.close()


class Disturber:
    """Starts pollers beside each other and kills them, by a seed."""

    def __init__(self, pollers: BucketPollers, dice: random.Random, steps: list[str]) -> None:
        self.pollers = pollers
        self.dice = dice
        self.steps = steps
        self.kills = 0
        self.stops = 0
        self.hit: set[str] = set()

    def run(self, at_least: int) -> None:
        """Disturb until so many kills and stops have hit."""
        self.pollers.storage.judge = self._judge
        while self.kills + self.stops < at_least:
            self.pollers.source.mutate(self.dice)
            self._disturb_once()
        self.pollers.storage.judge = lambda method, address: None

    def _judge(self, method: str, address: str) -> Fault:
        if self.dice.random() > 0.04:
            return None
        # nobody gets 412 to a read
        status = 412 if method == "POST" and self.dice.random() < 0.2 else 503
        return self.dice.choice((status, 429, 500, LOST_REPLY, LOST_REQUEST))

    def _disturb_once(self) -> None:
        """Run one to three pollers to their ends, each with a misfortune of its own."""
        running = {}
        for name in self.dice.sample("abc", self.dice.choice((1, 1, 2, 3))):
            if self.dice.random() < 0.3:
                self.pollers.lose(name)
            step = self.dice.choice(self.steps) if self.dice.random() < 0.6 else ""
            failpoint = f"{step}:{self.dice.choice((1, 1, 2))}" if step else ""
            how = self.dice.choice((("--once",), LOOP))
            stage = self.pollers.start(name, *how, failpoint=failpoint, lease=SHORT_LEASE_SECONDS)
            running[stage] = step
        asleep = None
        if self.dice.random() < 0.5:
            time.sleep(self.dice.random() * 0.4)
            victim = self.dice.choice(list(running))
            if self.dice.random() < 0.5:
                self.kills += self._signal(victim, signal.SIGKILL)
            elif self._signal(victim, signal.SIGSTOP):
                asleep = victim
        for stage, step in running.items():
            if stage is not asleep:
                self._count(stage, step)
        if asleep:
            self._sleep_past_the_lease()
            self.stops += self._signal(asleep, signal.SIGCONT)
            self._count(asleep, running[asleep])

    def _sleep_past_the_lease(self) -> None:
        """Let another one poll meanwhile."""
        time.sleep(SHORT_LEASE_SECONDS)
        other = self.pollers.poll("d", lease=SHORT_LEASE_SECONDS)
        assert other.end() in ENDINGS, other.log()

    def _signal(self, stage: ForkedStage, number: int) -> bool:
        with suppress(ProcessLookupError):  # it may end between the question and the signal
            if stage.is_alive():
                os.kill(stage.pid, number)
                return True
        return False

    def _count(self, stage: ForkedStage, step: str) -> None:
        code = stage.end()
        assert code in ENDINGS, stage.log()
        assert "Traceback" not in stage.log(), stage.log()
        if code == -signal.SIGKILL and step:
            self.kills += 1
            self.hit.add(step)
