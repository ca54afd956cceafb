"""Stand in for Pub/Sub's BigQuery subscriptions, which no emulator has.

Every subscription with a `bigquery_config` is pulled, and its messages are written as the real
service writes them with `write_metadata` and without a schema: subscription_name, message_id,
publish_time, data, attributes (the ordering key among them). As there, delivery is at least once:
a message is acknowledged after its row is written, and `--deliver-twice` writes each row twice.
Data that is no JSON is given back, and goes to the dead-letter topic in the end.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import grpc
import requests
from google.api_core.exceptions import GoogleAPIError
from google.cloud import bigquery
from google.pubsub_v1 import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from ingestion.arguments import Parser
from ingestion.project import DEFAULT_REGION
from ingestion.settings import bigquery_client

if TYPE_CHECKING:
    from google.pubsub_v1 import types

log = logging.getLogger("local_gcp.subscription")

BATCH = 500
IDLE_SECONDS = 0.2
REQUEST_SECONDS = 10.0


def bronze_row(subscription_name: str, message: types.PubsubMessage) -> dict[str, Any]:
    """Return the row that a message becomes; ValueError where its data is no JSON."""
    json.loads(message.data)
    attributes = dict(message.attributes)
    if message.ordering_key:
        attributes["orderingKey"] = message.ordering_key
    return {
        "subscription_name": subscription_name,
        "message_id": message.message_id,
        "publish_time": message.publish_time.isoformat(),
        "data": message.data.decode(),
        "attributes": json.dumps(attributes),
    }


def sort_messages(
    subscription_name: str, received: Iterable[types.ReceivedMessage]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the rows by acknowledgement id, and the ids of what cannot be a row."""
    rows, refused = {}, []
    for one in received:
        try:
            rows[one.ack_id] = bronze_row(subscription_name, one.message)
        except ValueError:
            log.warning("refused message_id=%s: its data is no JSON", one.message.message_id)
            refused.append(one.ack_id)
    return rows, refused


def write_rows(warehouse: bigquery.Client, table: str, rows: list[dict[str, Any]]) -> None:
    """Append rows; GoogleAPIError where BigQuery refuses one."""
    errors = warehouse.insert_rows_json(
        table,
        rows,
        row_ids=bigquery.AutoRowIDs.DISABLED,
        retry=None,  # type: ignore[arg-type]
        timeout=REQUEST_SECONDS,
    )
    if errors:
        raise GoogleAPIError(f"{table} refused {len(errors)} rows: {errors[0]['errors']}")


def move_messages(
    subscriber: SubscriberClient,
    warehouse: bigquery.Client,
    subscription: types.Subscription,
    copies: int,
) -> int:
    """Move what waits in one subscription into its table; return how many messages it was."""
    bounds: dict[str, Any] = {"retry": None, "timeout": REQUEST_SECONDS}
    name = subscription.name
    received = subscriber.pull(
        request={"subscription": name, "max_messages": BATCH, "return_immediately": True}, **bounds
    ).received_messages
    if not received:
        return 0
    rows, refused = sort_messages(name, received)
    if rows:
        for _ in range(copies):
            write_rows(warehouse, subscription.bigquery_config.table, list(rows.values()))
        subscriber.acknowledge(request={"subscription": name, "ack_ids": list(rows)}, **bounds)
        log.info("wrote table=%s rows=%d", subscription.bigquery_config.table, len(rows))
    if refused:
        give_back = {"subscription": name, "ack_ids": refused, "ack_deadline_seconds": 0}
        subscriber.modify_ack_deadline(request=give_back, **bounds)
    return len(received)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--project-id", required=True)
    parser.add_argument("--deliver-twice", action="store_true", help="write each row twice")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Deliver until SIGINT or SIGTERM; outages of Pub/Sub and BigQuery are waited out."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    channel = grpc.insecure_channel(os.environ["PUBSUB_EMULATOR_HOST"])
    subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
    warehouse = bigquery_client(args.project_id, DEFAULT_REGION)
    copies = 2 if args.deliver_twice else 1
    project = {"project": f"projects/{args.project_id}"}
    moved = 0
    while not stop.wait(0 if moved else IDLE_SECONDS):
        moved = 0
        try:
            listed = subscriber.list_subscriptions(
                request=project, retry=None, timeout=REQUEST_SECONDS
            )
            for subscription in [one for one in listed if one.bigquery_config.table]:
                moved += move_messages(subscriber, warehouse, subscription, copies)
        except (GoogleAPIError, requests.RequestException) as error:
            log.warning("waited: %s", str(error)[:200])
    return 0


if __name__ == "__main__":
    sys.exit(main())
