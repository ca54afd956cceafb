"""The servers of a local Google Cloud: their ports, their start and their end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from local_gcp import resources
from local_gcp.clients import Clients
from local_gcp.commands import command_lines, find_jar
from local_gcp.environment import environment_of, proxy_exemptions
from local_gcp.guard import KILL
from local_gcp.processes import LocalGcpError, end, last_line, spawn
from local_gcp.shop_data import SAMPLE_DATA

# what each server needs, in the order of the ports after --port-base
PORTS = ("fake_store", "gcs", "bigquery", "pubsub", "bigquery_grpc", "gcs_behind")
# far more than it takes: a busy machine needs its time
START_SECONDS = 180.0
PROBE_SECONDS = 10.0
LOOK_SECONDS = 0.05
STOP_SECONDS = 60.0


class UsageError(LocalGcpError):
    """The command line asks for what cannot be; exit code 2."""


def hold_port(port: int) -> socket.socket:
    """Bind a port, 0 for a free one, which is given to nobody else while the socket is open.

    On Linux a server may listen there meanwhile, where it sets SO_REUSEADDR, as all of ours do.
    """
    held = socket.socket()
    try:
        if os.name == "posix":
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", port))
    except BaseException:
        held.close()
        raise
    return held


def choose_ports(base: int | None, held: ExitStack) -> dict[str, int]:
    """Return a port for each server: from `base` on, or free ones.

    On Linux they are held until `held` is closed, elsewhere until the last is found.
    """
    ports: dict[str, int] = {}
    with ExitStack() as found:
        for offset, name in enumerate(PORTS):
            port = base + offset if base else 0
            try:
                one = found.enter_context(hold_port(port))
            except (OSError, OverflowError) as error:
                raise LocalGcpError(
                    f"Port {port} is not free for {name}: give another --port-base, or none."
                ) from error
            ports[name] = one.getsockname()[1]
        if sys.platform == "linux":
            held.enter_context(found.pop_all())
    return ports


class LocalGcp:
    """A local Google Cloud in one folder, as a context manager."""

    project_id = resources.PROJECT_ID

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
        self._held = ExitStack()
        self.ports = choose_ports(port_base, self._held)
        self._environment = environment_of(root, self.ports)
        self._commands = command_lines(root, self.ports, data_folder, jar)
        self.clients = Clients(self._environment)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        for folder in ("gcs", "logs"):
            (root / folder).mkdir(parents=True, exist_ok=True)

    @property
    def api_url(self) -> str:
        """The Fake Store's address."""
        return self._environment["FAKE_STORE_API_URL"]

    @property
    def environment(self) -> dict[str, str]:
        """What the scripts and dbt need to run on this instead of Google Cloud."""
        return self._environment | proxy_exemptions(os.environ)

    @property
    def servers(self) -> dict[str, str]:
        """What stands for what, and where it listens."""
        pubsub = "Google's emulator"
        if self.jar is None:
            why = "as asked for" if self.asked_for_stand_in else "as Java or its jar is missing"
            pubsub = f"our stand-in for Google's emulator, {why}"
        return {
            "fake_store": f"{self.api_url}  the Fake Store",
            "gcs": f"{self._environment['STORAGE_EMULATOR_HOST']}  Cloud Storage: fake-gcs-server",
            "strict_gcs": "our proxy before it, which refuses preconditions that it would ignore",
            "bigquery": f"{self._environment['BIGQUERY_EMULATOR_HOST']}  BigQuery: bqemulator",
            "pubsub": f"{self._environment['PUBSUB_EMULATOR_HOST']}  Pub/Sub: {pubsub}",
            "subscription": "our stand-in for Pub/Sub's BigQuery subscriptions",
        }

    def __enter__(self) -> LocalGcp:
        """Start every server at once, and return when each answers and holds what it should."""
        # our own clients ask the environment too
        os.environ.update(proxy_exemptions(os.environ))
        try:
            for name in self._commands:
                self._spawn(name)
            with ThreadPoolExecutor() as pool:
                try:
                    for done in as_completed(
                        pool.submit(self._await, one) for one in self._commands
                    ):
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
        self._held.close()

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
        command = [*self._commands[name], *arguments]
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
            "gcs": resources.make_buckets,
            "bigquery": resources.make_datasets,
            "pubsub": resources.make_topics,
        }.get(name, lambda _: None)(self.clients)

    def _probes(self) -> dict[str, Callable[[], object]]:
        once: dict[str, Any] = {"retry": None, "timeout": PROBE_SECONDS}
        project = {"project": f"projects/{resources.PROJECT_ID}"}
        return {
            "fake_store": lambda: self.clients.fake_store.requests,
            "gcs": lambda: list(self.clients.storage.list_buckets(**once)),
            "bigquery": lambda: list(self.clients.bigquery.list_datasets(**once)),
            "pubsub": lambda: self.clients.publisher.list_topics(request=project, **once),
            # the probe of what stands behind it goes through it
            "strict_gcs": lambda: None,
            # has no address; it waits for the others by itself
            "subscription": lambda: None,
        }
