"""What the scripts and dbt have to find in the environment to run on a local Google Cloud."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from local_gcp import resources

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# requests and dbt read the first two, gRPC the last before them
EXEMPTIONS = ("no_proxy", "NO_PROXY", "no_grpc_proxy")


def environment_of(root: Path, ports: Mapping[str, int]) -> dict[str, str]:
    """Return the variables for the local Google Cloud whose files lie in `root`."""
    return {
        "GCP_PROJECT_ID": resources.PROJECT_ID,
        "GCP_REGION": resources.REGION,
        "BQ_DATASET": resources.BRONZE_DATASET,
        "GCS_BUCKET_NAME": resources.BUCKET_NAME,
        "STATE_BUCKET_NAME": resources.STATE_BUCKET_NAME,
        "FAKE_STORE_API_URL": f"http://127.0.0.1:{ports['fake_store']}",
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{ports['gcs']}",
        "BIGQUERY_EMULATOR_HOST": f"http://127.0.0.1:{ports['bigquery']}",
        "PUBSUB_EMULATOR_HOST": f"127.0.0.1:{ports['pubsub']}",
        "DBT_TARGET": "local",
        # the servers forget everything when they end, so the scripts' files are theirs too
        "RAW_DIR": str(root / "raw"),
        "STATE_FILE": str(root / "state" / "carts_state.json"),
        "EVENTS_DIR": str(root / "events"),
    }


def proxy_exemptions(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep loopback away from a proxy, what is set already included."""
    exemptions = {}
    for name in EXEMPTIONS:
        # gRPC reads its own variable instead of the general ones, not beside them
        read = ("no_grpc_proxy", "no_proxy", "NO_PROXY") if "grpc" in name else EXEMPTIONS[:2]
        former = next((environment[one] for one in read if environment.get(one)), "")
        hosts = [host.strip() for host in former.split(",") if host.strip()]
        # a lone * exempts everything, and means nothing in a list
        exemptions[name] = "*" if "*" in hosts else ",".join(dict.fromkeys((*hosts, *LOOPBACK)))
    return exemptions
