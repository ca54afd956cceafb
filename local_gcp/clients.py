"""Google's clients, and the Fake Store's, on a local Google Cloud; made when they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.cloud import bigquery
    from google.cloud.storage import Client as StorageClient
    from google.pubsub_v1 import PublisherClient, SubscriberClient

    from local_gcp.fake_store import FakeStore


class Clients:
    """One client of each server, by the environment that the scripts get too."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Connect nothing yet."""
        self._environment = environment

    @cached_property
    def fake_store(self) -> FakeStore:
        """The Fake Store, to switch its faults on and to read what it was asked."""
        from local_gcp.fake_store import FakeStore

        return FakeStore(self._environment["FAKE_STORE_API_URL"])

    @cached_property
    def storage(self) -> StorageClient:
        """A Cloud Storage client."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.storage import Client

        return Client(
            project=self._environment["GCP_PROJECT_ID"],
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options={"api_endpoint": self._environment["STORAGE_EMULATOR_HOST"]},
        )

    @cached_property
    def bigquery(self) -> bigquery.Client:
        """A BigQuery client."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import bigquery

        return bigquery.Client(
            project=self._environment["GCP_PROJECT_ID"],
            location=self._environment["GCP_REGION"],
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options={"api_endpoint": self._environment["BIGQUERY_EMULATOR_HOST"]},
        )

    @cached_property
    def publisher(self) -> PublisherClient:
        """A Pub/Sub publisher of single requests, without batching."""
        import grpc
        from google.pubsub_v1 import PublisherClient
        from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport

        channel = grpc.insecure_channel(self._environment["PUBSUB_EMULATOR_HOST"])
        return PublisherClient(transport=PublisherGrpcTransport(channel=channel))

    @cached_property
    def subscriber(self) -> SubscriberClient:
        """A Pub/Sub subscriber of single requests."""
        import grpc
        from google.pubsub_v1 import SubscriberClient
        from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

        channel = grpc.insecure_channel(self._environment["PUBSUB_EMULATOR_HOST"])
        return SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
