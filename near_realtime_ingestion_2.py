"""Watch the carts of the Fake Store API and publish every change of one, in order, to Pub/Sub.

Each poll compares the API's answer with the last one that was believed, and each difference
becomes one CloudEvents document: cart_created, cart_modified or cart_deleted. A poll's events are
durable in {events-dir} before {state-file} has the carts as they are now, so a kill anywhere loses
nothing (docs/guarantees.md has the steps). They are published at least once, and counted once by
their id. An answer longer than 256 MB, when unpacked, is refused.

State and events folder are made for one API and one destination; another one is exit code 2, or
a new snapshot of all carts with --new-snapshot.

exit codes:
  0  done, or ended by Ctrl-C or SIGTERM
  1  failed; the message says what to do
  2  wrong usage or configuration, or another process is at work
  3  nothing is lost, but something waits: the message says what to type

examples:
  near_realtime_ingestion_2.py                poll every minute, until Ctrl-C
  near_realtime_ingestion_2.py --once         poll once
  near_realtime_ingestion_2.py --local-only   files in events/, no Google Cloud
  near_realtime_ingestion_2.py --dry-run      show what has changed
  near_realtime_ingestion_2.py --status       show what waits, and do not poll
"""

from __future__ import annotations

import signal

from ingestion.project import check_packages

if __name__ == "__main__":
    # Ctrl-C while the rest is imported ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    check_packages()

import argparse
import json
import logging
import os
import shlex
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ingestion import command_line
from ingestion.arguments import Parser, add_json_arguments, api_url, count, seconds
from ingestion.bucket_errors import BucketRefusedError, BucketUnreachableError
from ingestion.carts.change_list import print_changes
from ingestion.carts.changes import GATE_INTERVALS, GATE_POLLS
from ingestion.carts.checkpoint import Binding
from ingestion.carts.dead_letters import replay_dead_letters
from ingestion.carts.destination import LOCAL_ONLY, topic_destination
from ingestion.carts.event_batch import DamagedBatchError
from ingestion.carts.lease_errors import LeaseHeldError, LeaseLostError
from ingestion.carts.locks import Locks
from ingestion.carts.opening import load
from ingestion.carts.outbox import EventFolder
from ingestion.carts.poller import Ask, Poller, PollResult, PollRules
from ingestion.carts.publishing import PublishRound, PublishTotals, StopReason, acknowledge_all
from ingestion.carts.recovery import MadeForAnotherError
from ingestion.carts.replica import BUCKET_FOLDER, Replica
from ingestion.carts.state import CorruptStateError, StateError
from ingestion.carts.state_file import StateFile, TouchedStateError
from ingestion.carts.status import print_status, status_of
from ingestion.carts.stop import Stop, StopRequested, handled_signals
from ingestion.carts.summary import Summary
from ingestion.durable_files import AnotherWriterError, LockGoneError
from ingestion.exchange import FetchStopped
from ingestion.google_names import require_name, require_project
from ingestion.json_array import BadAnswer
from ingestion.logs import set_up_logging
from ingestion.project import PROJECT_FOLDER
from ingestion.settings import DEFAULT_API_URL, ConfigurationError, load_environment, setting
from ingestion.source import Answer, FetchFailed, fetch, open_session, public_url

log = logging.getLogger("near_realtime_ingestion_2")

POLL_SECONDS = 60.0
CONNECT_SECONDS = 5.0
SOURCE_SECONDS = 15.0
PUBLISH_SECONDS = 15.0
LEASE_SECONDS = 60.0
# an answer of a poll is held in memory until it is compared: 1.5 million carts
ANSWER_BYTES = 256 << 20

# what ends a run with a sentence instead of a traceback
ENDINGS = (
    AnotherWriterError,
    BadAnswer,
    BucketRefusedError,
    BucketUnreachableError,
    ConfigurationError,
    CorruptStateError,
    DamagedBatchError,
    FetchFailed,
    LeaseHeldError,
    LeaseLostError,
    LockGoneError,
    OSError,
    StateError,
    TouchedStateError,
)


def run_polls(
    poller: Poller,
    publish_once: Callable[[], PublishTotals],
    stop: Stop,
    summary: Summary,
    *,
    interval: float,
    max_polls: int | None,
) -> int:
    """Poll and publish until told to stop, from start to start `interval` seconds apart."""
    while True:
        started = time.monotonic()
        try:
            result = poll_once(poller, stop, summary)
            totals = publish_once()
        except (LeaseHeldError, LeaseLostError) as error:
            # terraform/log_metrics.tf counts the lines that begin so
            is_fenced = isinstance(error, LeaseLostError)
            log.log(
                logging.WARNING if is_fenced else logging.INFO,
                "%s poll=%d: %s, and does what is to be done",
                "fenced" if is_fenced else "stood back",
                summary.polls,
                error,
            )
            if stop() or summary.polls == max_polls:
                return 0
            stop.wait(started + interval - time.monotonic())
            continue
        if result or not stop():
            summary.log_poll(result, totals.published, time.monotonic() - started)
        # a source that is down is no reason to call a run failed that was told to stop
        poll_failed = result is None and not stop()
        if stop() or summary.polls == max_polls or totals.stopped_by is StopReason.UNUSABLE:
            return summary.exit_code(poll_failed, totals.stopped_by)
        stop.wait(started + interval - time.monotonic())
        if stop():
            return summary.exit_code(False, totals.stopped_by)


def poll_once(poller: Poller, stop: Stop, summary: Summary) -> PollResult | None:
    """Poll; None where the source gave nothing to believe, or was not waited for any longer."""
    summary.polls += 1
    try:
        result = poller.poll()
    except StopRequested:
        return None
    except (FetchFailed, BadAnswer) as error:
        summary.failed_polls += 1
        poll = {"poll": summary.polls}
        log.error("%s The poll was refused, the state is as it was.", error, extra=poll)
        return None
    except BucketUnreachableError as error:
        summary.failed_polls += 1
        log.error(
            "%s: nothing is lost, and the next poll finds out what was done.",
            error,
            extra={"poll": summary.polls},
        )
        return None
    summary.add_poll(result)
    return result


def publish(
    publish_all: Callable[[PublishRound, Replica], PublishTotals],
    publish_round: PublishRound,
    events: EventFolder,
    replica: Replica,
    summary: Summary,
) -> PublishTotals:
    """Publish the outbox or the dead letters, and say what stopped it; return the totals."""
    try:
        totals = publish_all(publish_round, replica)
    except BucketUnreachableError as error:
        totals = PublishTotals(stopped_by=StopReason.UNREACHABLE, problem=str(error))
    dead_letters = events.store.dead_letter_count()
    summary.add_published(totals, events.outbox.waiting(), dead_letters)
    if totals.rejected:
        log.error(
            "dead_lettered=%d: Pub/Sub rejected these events, the reasons stand in %s",
            totals.rejected,
            events.store.dead_letters,
        )
    if totals.stopped_by:
        level = logging.INFO if totals.stopped_by is StopReason.STOPPED else logging.ERROR
        log.log(level, "%s; waiting=%d: nothing is lost", totals.problem, summary.waiting)
    return totals


def log_what_waits(summary: Summary, args: argparse.Namespace) -> None:
    """Say what waits, where it lies, and what to type: exit code 3 is never silent."""
    if summary.held_deletions:
        log.warning(
            "held=%d: so many carts are missing at once that their deletion waits in %s until "
            "%d polls in a row, which span %d poll intervals, agree, or for '%s'",
            summary.held_deletions,
            folder_of(args, "state"),
            GATE_POLLS,
            GATE_INTERVALS,
            command(args, "--once", "--accept-deletes"),
        )
    if summary.waiting:
        log.warning(
            "waiting=%d: nothing is lost, the events wait in %s and leave with the next poll or "
            "'%s'",
            summary.waiting,
            folder_of(args, "outbox"),
            command(args, "--once"),
        )
    if summary.dead_letters:
        log.warning(
            "dead_letters=%d: Pub/Sub rejected these events, the reasons stand in %s; '%s' "
            "publishes them again",
            summary.dead_letters,
            folder_of(args, "dead_letter"),
            command(args, "--replay-dead-letters"),
        )


def folder_of(args: argparse.Namespace, name: str) -> str:
    """Return where the state, or a folder of the events, lies for good."""
    if args.state_bucket:
        return f"gs://{args.state_bucket}/{BUCKET_FOLDER}{name}"
    return str(args.state_file if name == "state" else args.events_dir / name)


def command(args: argparse.Namespace, *flags: str) -> str:
    """Return a command line that works on the same state, events and destination as this one."""
    defaults = build_parser().parse_args([])
    words = ["python", "near_realtime_ingestion_2.py", *flags]
    for name in ("project_id", "topic", "api_url", "state_bucket", "state_file", "events_dir"):
        value = getattr(args, name)
        if value != getattr(defaults, name):
            shown = public_url(value) if name == "api_url" else str(value)
            words += ["--" + name.replace("_", "-"), shown]
    if args.local_only:
        words.append("--local-only")
    return shlex.join(words)


def make_binding(args: argparse.Namespace, url: str) -> Binding:
    """Return what state and events folder are made for; who only looks goes nowhere."""
    if args.local_only:
        destination = LOCAL_ONLY
    elif args.dry_run or args.status:
        destination = ""
    else:
        destination = topic_destination(require_project(args.project_id), args.topic)
    if args.state_bucket:
        # whichever folders the working copy lies in
        state_file = f"gs://{args.state_bucket}/{BUCKET_FOLDER}"
        return Binding(source=public_url(url), destination=destination, state_file=state_file)
    try:
        state_file = os.path.relpath(args.state_file, args.events_dir)
    except ValueError:  # another drive, on Windows
        state_file = str(args.state_file)
    state_file = Path(state_file).as_posix()
    return Binding(source=public_url(url), destination=destination, state_file=state_file)


def open_replica(args: argparse.Namespace, binding: Binding, stop: Stop) -> Replica:
    """Return where state and events live besides this disk."""
    if not args.state_bucket:
        return Replica()
    from ingestion.carts.bucket_replica import open_bucket

    project_id = require_project(args.project_id)
    bucket_name = require_name(
        "name of a bucket", args.state_bucket, flag="--state-bucket", name="STATE_BUCKET_NAME"
    )
    # between two polls of a loop the head is kept
    lease_seconds = args.lease_seconds + (0 if args.once else args.poll_interval)
    return open_bucket(
        project_id,
        bucket_name,
        args.state_file,
        args.events_dir,
        binding,
        lease_seconds,
        stop.seconds_left,
    )


def open_publisher(args: argparse.Namespace, stop: Stop, stack: ExitStack) -> PublishRound:
    """Return what publishes a round; Google's libraries are imported only where they are needed."""
    if args.local_only:
        return acknowledge_all
    from ingestion.carts.publisher import PubSubPublisher

    publisher = PubSubPublisher(
        args.project_id, args.topic, stop, args.publish_timeout, args.ordering_keys
    )
    return stack.enter_context(publisher).publish


def make_ask(args: argparse.Namespace, url: str, stop: Stop) -> Ask:
    """Return what asks the source for its carts, and lets go of it once it is to stop."""
    session = open_session()

    def ask(read: Callable[[Answer], Any], etag: str | None) -> Any:
        timeout = (CONNECT_SECONDS, args.source_timeout)
        options: dict[str, Any] = {
            "etag": etag,
            "timeout": timeout,
            "max_bytes": ANSWER_BYTES,
            "stopped": stop,
        }
        try:
            return fetch(session, url, read, **options)
        except FetchStopped:
            raise StopRequested from None

    return ask


def run(args: argparse.Namespace, stop: Stop, stack: ExitStack) -> int:
    """Do what the command line asks for; print its result on stdout and return the exit code."""
    url = f"{args.api_url.rstrip('/')}/carts"
    if args.state_bucket and (args.dry_run or args.status):
        # to look is no reason to touch the working copy of a poller
        folder = Path(stack.enter_context(TemporaryDirectory()))
        args.state_file, args.events_dir = folder / "state.json", folder / "events"
    binding = make_binding(args, url)
    replica = open_replica(args, binding, stop)
    state = StateFile(args.state_file, replica)
    events = EventFolder(args.events_dir, lambda: datetime.now(UTC))
    rules = PollRules(args.poll_interval, args.accept_deletes, args.new_snapshot)
    locks = Locks()
    ask = locks.checked(make_ask(args, url, stop))
    poller = Poller(state, events, binding, ask, rules, replica)
    if args.status:
        status = status_of(replica, state, events)
        print_status(status, as_json=args.json)
        return status.exit_code()
    if args.dry_run:
        replica.look()
        print_changes(*poller.preview(), as_json=args.json)
        return 0
    # the outbox outlives a lost state, so another state does not make it another outbox
    locks.hold(stack, args.state_file, args.events_dir / "outbox")
    stack.callback(replica.release)
    publish_round = locks.checked(open_publisher(args, stop, stack))
    summary = Summary()
    if args.replay_dead_letters:
        replica.begin_poll()
        load(state, events, binding)
        totals = publish(
            lambda *how: replay_dead_letters(events.store, *how),
            publish_round,
            events,
            replica,
            summary,
        )
        code = summary.exit_code(False, totals.stopped_by)
    else:
        code = run_polls(
            poller,
            lambda: publish(events.outbox.publish, publish_round, events, replica, summary),
            stop,
            summary,
            interval=args.poll_interval,
            max_polls=1 if args.once else args.max_polls,
        )
    log_what_waits(summary, args)
    result = asdict(summary)
    print(json.dumps(result) if args.json else " ".join(f"{k}={v}" for k, v in result.items()))
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; defaults come from the environment."""
    parser = Parser(usage="%(prog)s [options]", description=__doc__)
    add = parser.add_argument_group("where from and where to").add_argument
    add(
        "--project-id",
        default=setting("GCP_PROJECT_ID"),
        metavar="ID",
        help="GCP project (default: $GCP_PROJECT_ID)",
    )
    add(
        "--topic",
        default="carts-events",
        metavar="NAME",
        help="Pub/Sub topic (default: %(default)s)",
    )
    add(
        "--ordering-keys",
        type=count,
        metavar="N",
        help="share N among all carts, for a fast first snapshot of many (default: one a cart)",
    )
    add(
        "--api-url",
        type=api_url,
        default=setting("FAKE_STORE_API_URL") or DEFAULT_API_URL,
        metavar="URL",
        help=f"the API's address (default: $FAKE_STORE_API_URL, else {DEFAULT_API_URL})",
    )
    add("--local-only", action="store_true", help="no Pub/Sub: events go to the event store only")
    add(
        "--state-file",
        type=Path,
        # a relative one in the environment is relative to the project, as all in .env
        default=PROJECT_FOLDER / (setting("STATE_FILE") or "state/carts_state.json"),
        metavar="FILE",
        help="the last snapshot (default: $STATE_FILE, else state/carts_state.json in the project)",
    )
    add(
        "--events-dir",
        type=Path,
        default=PROJECT_FOLDER / (setting("EVENTS_DIR") or "events"),
        metavar="DIR",
        help="outbox, event store, dead letters, quarantine (default: $EVENTS_DIR, else events "
        "in the project)",
    )
    add(
        "--state-bucket",
        metavar="NAME",
        help="keep state and events in this bucket; the files here are a working copy (default: "
        "$STATE_BUCKET_NAME, but not with --local-only, --state-file or --events-dir)",
    )
    group = parser.add_argument_group("what to do, instead of polling for ever")
    group.add_argument("--once", action="store_true", help="poll once")
    group.add_argument("--max-polls", type=count, metavar="N", help="end after so many polls")
    add = group.add_mutually_exclusive_group().add_argument
    add(
        "--status",
        action="store_true",
        help="show source, destination, what waits and who is at work, and do not poll",
    )
    add("--dry-run", action="store_true", help="show the changes as a table and write nothing")
    add(
        "--replay-dead-letters",
        action="store_true",
        help="publish the dead letters again, in order, and do not poll",
    )
    add = parser.add_argument_group("what the first poll may do").add_argument
    add(
        "--new-snapshot",
        action="store_true",
        help="begin anew: set the state aside and publish a snapshot of all carts, which "
        "supersedes what was published before; also for another API or destination",
    )
    add(
        "--accept-deletes",
        action="store_true",
        help="believe a poll that would delete many carts at once",
    )
    add_json_arguments(parser.add_argument_group("what it says"), "the summary, or the changes,")
    add_time_arguments(parser)
    return parser


def add_time_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how long to wait for what."""
    group = parser.add_argument_group("how long to wait, in seconds")
    for flag, default, meaning in (
        ("--poll-interval", POLL_SECONDS, "from the start of a poll to the start of the next"),
        ("--source-timeout", SOURCE_SECONDS, "of silence before the API's answer counts as lost"),
        ("--publish-timeout", PUBLISH_SECONDS, "to try before Pub/Sub counts as unreachable"),
        (
            "--lease-seconds",
            LEASE_SECONDS,
            "of silence before another process takes the state bucket over; a loop adds "
            "--poll-interval",
        ),
    ):
        group.add_argument(
            flag,
            type=seconds,
            default=default,
            metavar="N",
            help=f"{meaning} (default: {default:g})",
        )


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments, their places resolved; exit code 2 where two exclude each other."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.replay_dead_letters and args.local_only:
        parser.error("--replay-dead-letters publishes, and does not go with --local-only")
    if args.new_snapshot and (args.replay_dead_letters or args.status):
        mode = "--status" if args.status else "--replay-dead-letters"
        parser.error(f"{mode} does not poll, and does not go with --new-snapshot")
    if args.local_only and args.state_bucket:
        parser.error("--local-only keeps everything here, and does not go with --state-bucket")
    # a place that the command line names wins over a bucket that the environment names
    places = ("state_file", "events_dir")
    is_named = any(getattr(args, name) != parser.get_default(name) for name in places)
    if not (args.local_only or is_named):
        args.state_bucket = args.state_bucket or setting("STATE_BUCKET_NAME")
    # a link stays a link, and the lock lies beside what it leads to
    args.state_file = Path(os.path.realpath(args.state_file))
    args.events_dir = Path(os.path.realpath(args.events_dir))
    return args


def ending_of(error: Exception, args: argparse.Namespace) -> tuple[int, str]:
    """Return the exit code and the sentence of a run that one of ENDINGS has ended."""
    begin_anew = command(args, "--once", "--new-snapshot")
    match error:
        case AnotherWriterError():
            return 2, (
                f"{str(error).capitalize()} on {args.state_file} or {args.events_dir}: stop it "
                "first, or give this one a --state-file and an --events-dir of its own."
            )
        case MadeForAnotherError():
            place = "a --state-file and an --events-dir"
            if args.state_bucket:
                place = "a --state-bucket"
            return 2, (
                f"{error}: give this run {place} of its own, or begin a new snapshot here with "
                f"'{begin_anew}'."
            )
        case ConfigurationError():
            return 2, str(error)
        case StateError():
            return 1, (
                f"{error} '{begin_anew}' publishes what waits and a new snapshot of all carts, "
                "which supersedes what was published before."
            )
        case DamagedBatchError():
            return 1, (
                f"{error}, and the state counts on all of them. Move it away and type "
                f"'{begin_anew}': the new snapshot of all carts makes up for them."
            )
        case LeaseHeldError() | LeaseLostError() | BucketUnreachableError():
            return 1, f"{error}. Nothing is lost: run again later."
        case OSError():
            what = f"{error.strerror}: {error.filename}" if error.filename else str(error)
            return 1, (
                f"{what}. What had been written stays valid: mend this, or --state-file or "
                "--events-dir, and run again."
            )
    return 1, str(error)


def main(argv: list[str] | None = None) -> int:
    """Run the stage and return its exit code."""
    load_environment()
    args = parse_arguments(argv)
    set_up_logging(as_json=args.log_json)
    stop = Stop()
    with handled_signals(stop), ExitStack() as stack:
        try:
            return run(args, stop, stack)
        except StopRequested:
            return 0
        except ENDINGS as error:
            code, sentence = ending_of(error, args)
            log.error("%s", sentence)
            return code


if __name__ == "__main__":
    command_line.run(main)
