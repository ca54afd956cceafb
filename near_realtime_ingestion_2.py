"""Watch the carts of the Fake Store API and publish every change of one, in order, to Pub/Sub.

Each poll compares the API's answer with the last one that was believed, and each difference
becomes one CloudEvents document: cart_created, cart_modified or cart_deleted. In this order,
each step durable before the next, so that a kill anywhere loses nothing:

    1. the poll's events       {events-dir}/outbox/       all of them, or the poll has not happened
    2. the state after them    {state-file}               the old state plus what lies in step 1
    3. publish, acknowledged   Pub/Sub                    again after a kill, with the same ids
    4. the event store         {events-dir}/published/    what has left; also without Pub/Sub
    5. forget                  {events-dir}/outbox/       the poll's file is removed

A restart finds a poll that has step 1 and not step 2 and takes step 2 from the file, whatever
the API says by then. Events are published at least once, and counted once by their id. An answer
longer than 256 MB, when unpacked, is refused.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration, or another process is at work;
3 nothing is lost, but something waits here: the message says what, and what to type.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":
    # Ctrl-C while the rest is imported ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from ingestion import command_line
from ingestion.arguments import api_url, count, seconds
from ingestion.carts.changes import GATE_POLLS, Change
from ingestion.carts.outbox import DamagedBatchError, Delivery, EventFolder, Obstacle, Send, Sending
from ingestion.carts.poller import Ask, Poller, PollResult, StateError
from ingestion.carts.state import CorruptStateError
from ingestion.durable_files import AnotherWriterError, single_writer
from ingestion.exchange import FetchStopped
from ingestion.json_array import BadAnswer
from ingestion.settings import (
    DEFAULT_API_URL,
    ConfigurationError,
    load_environment,
    require,
    setting,
)
from ingestion.source import Answer, FetchFailed, fetch, open_session, public_url

log = logging.getLogger("near_realtime_ingestion_2")

# a wait is cut into such pieces: no signal ends a longer one on Windows
WAIT_SECONDS = 0.2

CONNECT_SECONDS = 5.0
SOURCE_SECONDS = 15.0
PUBLISH_SECONDS = 15.0
# an answer of a poll is held in memory until it is compared: 1.5 million carts
ANSWER_BYTES = 256 << 20

# command line that finishes what exit code 3 leaves behind
ONCE = "python near_realtime_ingestion_2.py --once"


class StopRequested(Exception):  # noqa: N818 - no error
    """A signal came while the source was being asked."""


class Stop:
    """Set by the first signal. Without a lock, because a signal may come while it would be held."""

    def __init__(self) -> None:
        self._is_set = False

    def __call__(self) -> bool:
        """Tell whether the work is to end."""
        return self._is_set

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """End the wait, or at the second signal the process: every step of it may be the last."""
        if self._is_set:
            os._exit(1)
        self._is_set = True

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or soon after the first signal."""
        end = time.monotonic() + seconds
        while not self._is_set and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, WAIT_SECONDS))


@dataclass
class Summary:
    """What a run did, and what it leaves behind: `held_deletions`, `waiting`; goes to stdout."""

    polls: int = 0
    failed_polls: int = 0
    carts: int = 0
    created: int = 0
    modified: int = 0
    deleted: int = 0
    held_deletions: int = 0
    quarantined: int = 0
    published: int = 0
    dead_lettered: int = 0
    waiting: int = 0

    def add_poll(self, result: PollResult) -> None:
        """Count a poll that was believed; what is held or quarantined is so now."""
        self.carts = result.carts
        self.created += result.created
        self.modified += result.modified
        self.deleted += result.deleted
        if result.changed:
            self.held_deletions = result.held
            self.quarantined = result.quarantined

    def add_delivery(self, delivery: Delivery, waiting: int) -> None:
        """Count a delivery."""
        self.published += delivery.published
        self.dead_lettered += delivery.refused
        self.waiting = waiting

    def exit_code(self, poll_failed: bool, obstacle: Obstacle | None) -> int:
        """Return the exit code of a run that ends after this poll and this delivery."""
        if poll_failed or obstacle is Obstacle.UNUSABLE:
            return 1
        if obstacle is Obstacle.UNREACHABLE or self.dead_lettered or self.held_deletions:
            return 3
        return 0


def run_polls(
    poller: Poller,
    events: EventFolder,
    send: Send,
    stop: Stop,
    summary: Summary,
    *,
    interval: float,
    max_polls: int | None,
) -> int:
    """Poll and deliver until told to stop, from start to start `interval` seconds apart."""
    while True:
        started = time.monotonic()
        result = poll_once(poller, events, stop, summary)
        delivery = deliver_once(events.deliver, events, send, summary)
        if result or not stop():
            log_poll(summary, result, delivery, time.monotonic() - started)
        # a source that is down is no reason to call a run failed that was told to stop
        poll_failed = result is None and not stop()
        if stop() or summary.polls == max_polls or delivery.obstacle is Obstacle.UNUSABLE:
            return summary.exit_code(poll_failed, delivery.obstacle)
        stop.wait(started + interval - time.monotonic())
        if stop():
            return summary.exit_code(False, delivery.obstacle)


def poll_once(
    poller: Poller, events: EventFolder, stop: Stop, summary: Summary
) -> PollResult | None:
    """Poll; None where the source gave nothing to believe, or was not waited for any longer."""
    summary.polls += 1
    try:
        result = poller.poll(events)
    except StopRequested:
        return None
    except (FetchFailed, BadAnswer) as error:
        summary.failed_polls += 1
        log.error("%s The poll was refused, the state is as it was.", error)
        return None
    summary.add_poll(result)
    if result.held:
        log.warning(
            "held=%d: so many carts are missing at once that their deletion waits in %s until "
            "%d polls in a row agree, or for '%s --accept-deletes'",
            result.held,
            poller.state_file,
            GATE_POLLS,
            ONCE,
        )
    return result


def log_poll(
    summary: Summary, result: PollResult | None, delivery: Delivery, seconds: float
) -> None:
    """Write the one line of a poll."""
    shown = result or PollResult(changed=False, carts=summary.carts)
    log.info(
        "%s poll=%d carts=%d created=%d modified=%d deleted=%d held=%d quarantined=%d "
        "published=%d waiting=%d seconds=%.3f",
        "polled" if result else "failed",
        summary.polls,
        shown.carts,
        shown.created,
        shown.modified,
        shown.deleted,
        summary.held_deletions,
        summary.quarantined,
        delivery.published,
        summary.waiting,
        seconds,
    )


def deliver_once(
    deliver: Callable[[Send], Delivery], events: EventFolder, send: Send, summary: Summary
) -> Delivery:
    """Deliver the outbox or the dead letters, and say what waits; return it."""
    delivery = deliver(send)
    summary.add_delivery(delivery, events.waiting())
    if delivery.refused:
        log.error(
            "dead_lettered=%d: Pub/Sub refused these events, the reasons stand in %s; "
            "'python near_realtime_ingestion_2.py --replay-dead-letters' sends them again",
            delivery.refused,
            events.dead_letters,
        )
    if delivery.obstacle:
        level = logging.INFO if delivery.obstacle is Obstacle.STOPPED else logging.ERROR
        log.log(
            level,
            "%s; waiting=%d: nothing is lost, the events wait in %s and leave with the next poll "
            "or '%s'",
            delivery.problem,
            summary.waiting,
            events.outbox,
            ONCE,
        )
    return delivery


def show_changes(changes: Sequence[Change]) -> None:
    """Print changes as a table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table("change", "cart", "user", "date", "products", title=f"changes: {len(changes)}")
    for change in changes:
        kind = change.type.rpartition("_")[2]
        for label, cart in (("before", change.before), ("after", change.after)):
            if cart:
                lines = ", ".join(f"{line.quantity} x {line.product_id}" for line in cart.products)
                name = f"{kind} ({label})" if change.before and change.after else kind
                table.add_row(name, str(cart.id), str(cart.user_id), cart.date, lines)
    # where there is no terminal to fit into, nothing is cut
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def send_nowhere(events: Sequence[bytes]) -> Sending:
    """Stand in for Pub/Sub with --local-only: all events leave, for the event store alone."""
    return Sending(events)


def open_sender(args: argparse.Namespace, stop: Stop, stack: ExitStack) -> Send:
    """Return what sends events; Google's libraries are imported only where they are needed."""
    if args.local_only:
        return send_nowhere
    project_id = require(args.project_id, "GCP_PROJECT_ID", "--project-id")
    from ingestion.carts.publisher import PubSubPublisher

    return stack.enter_context(
        PubSubPublisher(project_id, args.topic, stop, args.publish_timeout)
    ).send


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
    make_poller = partial(
        Poller,
        args.state_file,
        public_url(url),
        make_ask(args, url, stop),
        accept_deletes=args.accept_deletes,
    )
    if args.dry_run:
        poller = make_poller()
        heard = poller.hear()
        show_changes(poller.compare(heard.reading, heard.index).changes if heard.reading else [])
        return 0
    # the outbox outlives a lost state, so another state does not make it another outbox
    stack.enter_context(single_writer(args.state_file))
    stack.enter_context(single_writer(args.events_dir / "outbox"))
    send = open_sender(args, stop, stack)
    events = EventFolder(args.events_dir, lambda: datetime.now(UTC))
    summary = Summary()
    if args.replay_dead_letters:
        delivery = deliver_once(events.replay_dead_letters, events, send, summary)
        code = summary.exit_code(False, delivery.obstacle)
    else:
        poller = make_poller()
        poller.recover(events)
        code = run_polls(
            poller,
            events,
            send,
            stop,
            summary,
            interval=args.poll_interval,
            max_polls=1 if args.once else args.max_polls,
        )
    result = asdict(summary)
    print(json.dumps(result) if args.json else " ".join(f"{k}={v}" for k, v in result.items()))
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; defaults come from the environment."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--project-id",
        default=setting("GCP_PROJECT_ID"),
        help="GCP project (default: $GCP_PROJECT_ID)",
    )
    add("--topic", default="carts-events", help="Pub/Sub topic (default: %(default)s)")
    add(
        "--api-url",
        type=api_url,
        default=setting("FAKE_STORE_API_URL") or DEFAULT_API_URL,
        help=f"the API's address (default: $FAKE_STORE_API_URL, else {DEFAULT_API_URL})",
    )
    add(
        "--poll-interval",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="from the start of a poll to the start of the next (default: %(default)g)",
    )
    add("--once", action="store_true", help="poll once")
    add("--max-polls", type=count, metavar="N", help="end after so many polls")
    add("--local-only", action="store_true", help="no Pub/Sub: events go to the event store only")
    add(
        "--state-file",
        type=Path,
        default=Path("state/carts_state.json"),
        metavar="FILE",
        help="the last snapshot (default: %(default)s)",
    )
    add(
        "--events-dir",
        type=Path,
        default=Path("events"),
        metavar="DIR",
        help="outbox, event store, dead letters, quarantine (default: %(default)s)",
    )
    add("--dry-run", action="store_true", help="show the changes as a table and write nothing")
    add(
        "--replay-dead-letters",
        action="store_true",
        help="send the dead letters again, in order, and do not poll",
    )
    add(
        "--accept-deletes",
        action="store_true",
        help="believe a poll that would delete many carts at once",
    )
    add(
        "--source-timeout",
        type=seconds,
        default=SOURCE_SECONDS,
        metavar="SECONDS",
        help="of silence before the API's answer counts as lost (default: %(default)g)",
    )
    add(
        "--publish-timeout",
        type=seconds,
        default=PUBLISH_SECONDS,
        metavar="SECONDS",
        help="to keep trying before Pub/Sub counts as unreachable (default: %(default)g)",
    )
    add("--json", action="store_true", help="print the summary as JSON")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the stage and return its exit code."""
    load_environment()
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.local_only and args.replay_dead_letters:
        parser.error("--replay-dead-letters sends to Pub/Sub: it does not go with --local-only")
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    stop = Stop()
    with handled_signals(stop), ExitStack() as stack:
        try:
            return run(args, stop, stack)
        except AnotherWriterError as error:
            log.error(
                "%s on %s or %s: stop it first, or give this one a --state-file and an "
                "--events-dir of its own.",
                str(error).capitalize(),
                args.state_file,
                args.events_dir,
            )
            return 2
        except ConfigurationError as error:
            log.error("%s", error)
            return 2
        except DamagedBatchError as error:
            log.error(
                "%s, and the state counts on the missing ones. Move it and %s away: the next run "
                "takes a new snapshot of all carts, which makes up for them.",
                error,
                args.state_file,
            )
            return 1
        except (FetchFailed, BadAnswer, StateError, CorruptStateError) as error:
            log.error("%s", error)
            return 1
        except OSError as error:
            log.error(
                "%s. What had been written stays valid: mend this and run again, and it goes on "
                "from there.",
                error,
            )
            return 1
        except StopRequested:
            return 0


@contextmanager
def handled_signals(stop: Stop) -> Iterator[None]:
    """Let SIGINT and SIGTERM, and Ctrl-Break on Windows, end the work in hand."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if sys.platform == "win32":
        numbers.append(signal.SIGBREAK)
    before = {number: signal.signal(number, stop.on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    command_line.run(main)
