"""Measure the near-real-time stage: first, changed and unchanged polls, publishing, as JSON lines.

    python -m benchmarks.near_realtime --carts 1000000 --events 50000

A changed poll is what `Poller` does with an answer that has already been received: load the
state, parse, compare, events durable, state durable; 1 % of the carts are changed. Its mark is
the CPU time of one `orjson.loads` of the same answer, measured in turn with it. Each measurement
is a process of its own, so that its peak memory is its own; the figures are medians. Polls of a
state in a bucket are measured from a fresh disk on fake-gcs-server, with all they do. Publishing
is compared with Google's batching client with ordering keys, on the emulator that
PUBSUB_EMULATOR_HOST names, or on Google's own where Java and the emulator are found.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ingestion.arguments import Parser, count

BLOCK_BYTES = 1 << 18
CHANGED_SHARE = 0.01
TOPIC = "bench-near-realtime"
ORDERING_KEYS = 16
SHARED_KEYS = f"ours, {ORDERING_KEYS} ordering keys"
PROJECT = "local-project"

Figures = dict[str, float]


def cart_record(cart_id: int, dice: random.Random) -> bytes:
    """Return a cart in the API's own form, about 140 bytes."""
    lines = ",".join(
        f'{{"productId":{dice.randint(1, 20)},"quantity":{dice.randint(1, 9)}}}'
        for _ in range(dice.choice((1, 2, 2, 3)))
    )
    return (
        f'{{"id":{cart_id},"userId":{dice.randint(1, 100_000)},'
        f'"date":"2020-03-{dice.randint(1, 31):02d}T00:00:00.000Z","products":[{lines}],"__v":0}}'
    ).encode()


class ReceivedAnswer:
    """An answer that has been received: its blocks lie in memory."""

    def __init__(self, body: Path | None, etag: str | None) -> None:
        """Read `body`; None is a 304."""
        self.not_modified = body is None
        self.etag = etag
        self.received_at = datetime.now(UTC)
        self._blocks: list[bytes] = []
        if body:
            with body.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    self._blocks.append(block)
            self._blocks.reverse()

    def blocks(self) -> Iterator[bytes]:
        """Yield the blocks, and let go of each as a socket does."""
        while self._blocks:
            yield self._blocks.pop()


def cpu_seconds() -> float:
    """Return the CPU time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_megabytes() -> float:
    """Return the most memory that this process has held.

    Linux hands ru_maxrss on from the parent, which has written the answers.
    """
    with suppress(OSError), Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(work: Callable[[], Any]) -> Figures:
    """Return CPU and wall time of `work`, and the peak memory of the process."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    work()
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    return {"cpu_seconds": cpu, "wall_seconds": wall, "peak_mb": peak_megabytes()}


def make_poller(folder: Path, events: Any, answer: ReceivedAnswer | None) -> Any:
    """Return a poller of the state in `folder`, which is handed `answer` for what it asks."""
    from ingestion.carts.checkpoint import Binding
    from ingestion.carts.poller import Poller, PollRules
    from ingestion.carts.replica import Replica
    from ingestion.carts.state_file import StateFile

    # the bench hands over what has been received; the real `ask` fetches it
    def ask(read: Callable[[Any], Any], _etag: str | None) -> Any:
        return read(answer)

    binding = Binding(
        source="http://bench/carts", destination="local only", state_file="../state.json"
    )
    state = StateFile(folder / "state.json")
    return Poller(state, events, binding, ask, PollRules(), Replica())


def poll(folder: Path, body: Path | None, *, is_loaded: bool, etag: str | None) -> Figures:
    """Poll with an answer that has been received; with `is_loaded`, the loading is not measured."""
    from ingestion.carts.outbox import EventFolder

    answer = ReceivedAnswer(body, etag)
    events = EventFolder(folder / "events", lambda: datetime.now(UTC))
    # it has read nothing yet, but imported what it needs
    poller = make_poller(folder, events, answer)
    if is_loaded:
        poller.open()
    return measured(poller.poll)


def poll_in_bucket(folder: Path, body: Path | None, bucket_name: str) -> Figures:
    """Poll and publish from a fresh disk and process, all in all: calls of the bucket, and CPU."""
    import requests

    from ingestion.carts.bucket_replica import open_bucket
    from ingestion.carts.checkpoint import Binding
    from ingestion.carts.outbox import EventFolder
    from ingestion.carts.poller import Poller, PollRules
    from ingestion.carts.publishing import acknowledge_all
    from ingestion.carts.state_file import StateFile

    calls = 0
    send = requests.Session.send

    def counting_send(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return send(*arguments, **options)

    requests.Session.send = counting_send  # type: ignore[method-assign]
    answer = ReceivedAnswer(body, 'W/"1"')
    events = EventFolder(folder / "events", lambda: datetime.now(UTC))
    place = {"source": "http://bench/carts", "destination": "bench", "state_file": bucket_name}
    state_file = folder / "state.json"
    replica = open_bucket(
        PROJECT,
        bucket_name,
        state_file,
        folder / "events",
        Binding(**place),
        600.0,
        lambda: math.inf,
    )

    def ask(read: Callable[[Any], Any], _etag: str | None) -> Any:
        return read(answer)

    state = StateFile(state_file, replica)
    poller = Poller(state, events, Binding(**place), ask, PollRules(), replica)

    def work() -> None:
        poller.poll()
        events.outbox.publish(acknowledge_all, replica)
        replica.release()

    return {**measured(work), "process_cpu_seconds": cpu_seconds(), "calls": calls}


def start(folder: Path) -> Figures:
    """Open state and events folder as a start does, and publish what waits."""
    from ingestion.carts.outbox import EventFolder
    from ingestion.carts.publishing import acknowledge_all
    from ingestion.carts.replica import Replica

    events = EventFolder(folder / "events", lambda: datetime.now(UTC))
    poller = make_poller(folder, events, None)

    def work() -> None:
        poller.open()
        events.outbox.publish(acknowledge_all, Replica())

    return measured(work)


def load_with_orjson(body: Path) -> Figures:
    """Parse an answer with orjson, and nothing else."""
    import orjson

    text = body.read_bytes()
    return measured(lambda: orjson.loads(text))


def publish(events: int, how: str) -> Figures:
    """Publish `events` events of as many carts, 500 bytes each; how: ours, or batching."""
    documents = [
        json.dumps(
            {"id": f"{number:064d}", "partitionkey": f"cart_{number}", "padding": "x" * 380}
        ).encode()
        for number in range(events)
    ]
    # the import of Google's libraries is not what is compared

    from ingestion.carts import publisher as cart_publisher  # noqa: F401

    return measured(lambda: PUBLISHERS[how](documents))


def publish_ours(documents: list[bytes], ordering_keys: int | None = None) -> None:
    """Publish as the stage does."""
    from ingestion.carts.publisher import PubSubPublisher
    from ingestion.carts.publishing import ROUND_EVENTS

    with PubSubPublisher(PROJECT, TOPIC, lambda: False, 30, ordering_keys) as publisher:
        for start in range(0, len(documents), ROUND_EVENTS):
            result = publisher.publish(documents[start : start + ROUND_EVENTS])
            if result.stopped_by or result.rejected:
                raise SystemExit(f"could not publish: {result.problem}")


def publish_batching(documents: list[bytes]) -> None:
    """Publish with Google's batching client, message ordering on."""
    import google.cloud.pubsub_v1 as pubsub_v1

    client = pubsub_v1.PublisherClient(
        publisher_options=pubsub_v1.types.PublisherOptions(enable_message_ordering=True)
    )
    topic = client.topic_path(PROJECT, TOPIC)
    futures = [
        client.publish(topic, document, ordering_key=json.loads(document)["partitionkey"])
        for document in documents
    ]
    for future in futures:
        future.result(timeout=600)


PUBLISHERS: dict[str, Callable[[list[bytes]], None]] = {
    "ours": publish_ours,
    SHARED_KEYS: lambda documents: publish_ours(documents, ORDERING_KEYS),
    "batching": publish_batching,
}


def make_topic() -> None:
    """Make the topic on the emulator, where it is not there yet."""
    import google.cloud.pubsub_v1 as pubsub_v1
    from google.api_core.exceptions import AlreadyExists
    from google.api_core.retry import Retry

    client = pubsub_v1.PublisherClient()
    try:
        # an emulator that has just been started does not listen yet
        retry = Retry(timeout=30)
        client.create_topic(name=client.topic_path(PROJECT, TOPIC), timeout=10, retry=retry)
    except AlreadyExists:
        return


def write_answers(folder: Path, carts: int) -> tuple[Path, Path]:
    """Write an answer and the next one, of which 1 % of the carts are changed, and one is new."""
    dice = random.Random(7)  # noqa: S311 - test data
    records = [cart_record(cart_id, dice) for cart_id in range(1, carts + 1)]
    before, after = folder / "before.json", folder / "after.json"
    before.write_bytes(b"[" + b",".join(records) + b"]")
    for place in dice.sample(range(carts), int(carts * CHANGED_SHARE)):
        records[place] = cart_record(place + 1, dice)
    records.append(cart_record(carts + 1, dice))
    after.write_bytes(b"[" + b",".join(records) + b"]")
    return before, after


def with_one_more(answer: Path) -> Path:
    """Write an answer that has one cart more than another."""
    longer = answer.with_name("one_more.json")
    new = cart_record(10**9, random.Random(7))  # noqa: S311 - test data
    longer.write_bytes(answer.read_bytes().removesuffix(b"]") + b"," + new + b"]")
    return longer


def run_alone(*arguments: str) -> Figures:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.near_realtime", "--measure", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    figures: Figures = json.loads(done.stdout)
    return figures


def median(samples: list[Figures]) -> Figures:
    """Return the medians of some measurements, rounded."""
    return {key: round(statistics.median(each[key] for each in samples), 4) for key in samples[0]}


def report(what: str, figures: Figures, **more: float) -> None:
    """Print one result as a line of JSON."""
    print(json.dumps({"what": what, **figures, **more}), flush=True)


def bench_polls(carts: int, rounds: int) -> None:
    """Measure first, changed and unchanged polls in turn with orjson, and print the ratios."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        before, after = write_answers(Path(name), carts)
        samples: dict[str, list[Figures]] = {}
        for number in range(rounds):
            folder = Path(name) / str(number)
            folder.mkdir()
            for what, arguments in {
                "orjson.loads": ["orjson", str(after)],
                "cold start": ["poll", str(folder), str(before)],
                "changed poll": ["poll", str(folder), str(after)],
                "unchanged poll, equal body": ["unchanged", str(folder), str(after)],
                "unchanged poll, 304": ["304", str(folder)],
            }.items():
                samples.setdefault(what, []).append(run_alone(*arguments))
            shutil.rmtree(folder)
        mark = median(samples["orjson.loads"])["cpu_seconds"]
        size = after.stat().st_size / 1e6
        for what, measurements in samples.items():
            figures = median(measurements)
            ratio = round(figures["cpu_seconds"] / mark, 4)
            report(what, figures, carts=carts, answer_mb=round(size, 1), ratio_to_orjson=ratio)


def bury(state_file: Path, first_id: int, count: int) -> None:
    """Put tombstones into a state, as if so many carts had been deleted."""
    from ingestion.carts.state import StateEdit, Tombstone, read_header, save_state

    stones = [Tombstone(cart_id, "0000000002") for cart_id in range(first_id, first_id + count)]
    save_state(state_file, read_header(state_file), StateEdit((), (), stones))


def forget_published(events: Path) -> None:
    """Have a folder as if its events had left before its history began."""
    from msgspec.structs import replace

    from ingestion.carts.checkpoint import CheckpointFile
    from ingestion.carts.event_store import Position

    checkpoint = CheckpointFile(events)
    checkpoint.load()
    if checkpoint.current:
        made = replace(checkpoint.current, published=Position())
        checkpoint.begin(made.binding, made.generation, made.published)
        checkpoint.advance(made.generation, made.batch, made.published)
    shutil.rmtree(events / "published")


def bench_history(carts: int, rounds: int) -> dict[str, float]:
    """Measure what a long history costs: a poll after deletions, a start after many events.

    Returns the ratios to an empty history.
    """
    samples: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        young, old = Path(name) / "young", Path(name) / "old"
        before, after = write_answers(Path(name), carts)
        # not a copy of one another: the checkpoint of a copied folder is refused
        for folder in (young, old):
            folder.mkdir()
            run_alone("poll", str(folder), str(before))
            run_alone("start", str(folder))
        forget_published(young / "events")
        bury(old / "state.json", 2 * carts, carts)
        for _ in range(rounds):
            for history, folder in (("an empty history", young), ("a long history", old)):
                for what, *arguments in (
                    ("changed poll", "poll", str(folder), str(after)),
                    ("start, 1 % wait", "start", str(folder)),
                    ("poll, one is new", "poll", str(folder), str(with_one_more(after))),
                    ("start, one event waits", "start", str(folder)),
                ):
                    measurements = samples.setdefault(f"{what}, {history}", [])
                    measurements.append(run_alone(*arguments))
            before, after = after, before
    ratios = {}
    for what, measurements in samples.items():
        figures = median(measurements)
        empty = median(samples[what.replace("a long", "an empty")])["cpu_seconds"]
        ratios[what] = round(figures["cpu_seconds"] / empty, 2)
        report(what, figures, carts=carts, ratio=ratios[what])
    return ratios


def bench_bucket(carts: int, rounds: int) -> None:
    """Measure polls of a state in a bucket, each from a fresh disk, and print what they cost."""
    from local_gcp.resources import STATE_BUCKET_NAME
    from local_gcp.servers import LocalGcp

    samples: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, ExitStack() as stack:
        folder = Path(name)
        storage = LocalGcp(folder / "gcp")
        stack.callback(storage.__exit__)
        storage.start("strict_gcs")
        storage.start("gcs")
        os.environ["STORAGE_EMULATOR_HOST"] = storage.environment["STORAGE_EMULATOR_HOST"]
        before, after = write_answers(folder, carts)
        polls: list[tuple[str, Path | None]] = [("cold start", before)]
        for _ in range(rounds):
            polls += [("changed poll", after), ("unchanged poll, 304", None)]
            before, after = after, before
        for number, (what, body) in enumerate(polls):
            arguments = ["bucket", str(folder / f"{number}"), STATE_BUCKET_NAME, str(body or "")]
            samples.setdefault(what, []).append(run_alone(*arguments))
            shutil.rmtree(folder / f"{number}")
    for what, measurements in samples.items():
        report(f"bucket, {what}", median(measurements), carts=carts)


@contextmanager
def pubsub_emulator() -> Iterator[bool]:
    """Have an emulator at PUBSUB_EMULATOR_HOST, Google's if none is there; False where neither."""
    from local_gcp.commands import find_jar
    from local_gcp.servers import choose_ports

    jar = find_jar()
    if os.environ.get("PUBSUB_EMULATOR_HOST") or jar is None:
        yield bool(os.environ.get("PUBSUB_EMULATOR_HOST"))
        return
    with ExitStack() as held:
        port = choose_ports(None, held)["pubsub"]
        command = ["java", "-jar", str(jar), "--host=127.0.0.1", f"--port={port}"]
        emulator = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        held.callback(emulator.wait)
        held.callback(emulator.terminate)
        os.environ["PUBSUB_EMULATOR_HOST"] = f"127.0.0.1:{port}"
        yield True


def bench_publishing(events: int, rounds: int) -> None:
    """Measure publishing in turn with the batching client, and print the ratio."""
    with pubsub_emulator() as is_there:
        if not is_there:
            print("publishing was not measured: no Pub/Sub emulator, or no Java", file=sys.stderr)
            return
        make_topic()
        # a Java program is slow at first
        run_alone("publish", "5000", "ours")
        samples: dict[str, list[Figures]] = {how: [] for how in PUBLISHERS}
        for _ in range(rounds):
            for how, measurements in samples.items():
                measurements.append(run_alone("publish", str(events), how))
    wall = {how: median(measurements)["wall_seconds"] for how, measurements in samples.items()}
    for how, measurements in samples.items():
        report(
            f"publish, {how}",
            median(measurements),
            events_per_second=round(events / wall[how]),
            ratio_to_batching=round(wall["batching"] / wall[how], 2),
        )


PARTS: dict[str, Callable[[int, int], Any]] = {
    "polls": bench_polls,
    "history": bench_history,
    "bucket": bench_bucket,
    "publishing": bench_publishing,
}


def measure(what: str, *arguments: str) -> Figures:
    """Do one measurement, in this process."""
    if what == "orjson":
        return load_with_orjson(Path(arguments[0]))
    if what == "start":
        return start(Path(arguments[0]))
    if what == "publish":
        return publish(int(arguments[0]), arguments[1])
    if what == "bucket":
        body = Path(arguments[2]) if arguments[2] else None
        return poll_in_bucket(Path(arguments[0]), body, arguments[1])
    if what == "304":
        return poll(Path(arguments[0]), None, is_loaded=True, etag='W/"1"')
    is_unchanged = what == "unchanged"
    return poll(Path(arguments[0]), Path(arguments[1]), is_loaded=is_unchanged, etag='W/"1"')


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = Parser(description=__doc__)
    parser.add_argument("--carts", type=count, default=1_000_000, metavar="N")
    parser.add_argument("--events", type=count, default=50_000, metavar="N")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=count, default=3, metavar="N", help="take medians of N")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure what the command line asks for."""
    args = build_parser().parse_args(argv)
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return 0
    for part in args.parts:
        PARTS[part](args.events if part == "publishing" else args.carts, args.rounds)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
