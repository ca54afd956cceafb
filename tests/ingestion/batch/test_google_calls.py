"""What Google's clients raise is an outage or a refusal, and nothing else reaches the stage."""

from __future__ import annotations

from collections import defaultdict

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from ingestion.batch.google_calls import Unavailable, calling
from tests.support.scripted_http import Respond, answer, reset, scripted_server, stop_halfway


@pytest.mark.parametrize(
    "respond", [reset, stop_halfway, answer(503)], ids=["reset", "cut", "refused"]
)
def test_an_answer_that_does_not_come_whole_is_an_outage(respond: Respond) -> None:
    with scripted_server(defaultdict(lambda: [respond])) as server:
        client = bigquery.Client(
            project="p",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": server.url},
        )
        with pytest.raises(Unavailable, match="BigQuery could not be reached"):  # noqa: SIM117
            with calling("BigQuery"):
                client.get_job("j", location="EU", retry=None, timeout=30)
