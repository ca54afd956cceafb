"""Measure the batch stage against dlt and against a naive script, in one run on this machine.

N products from a local server to a local file: CPU seconds and peak memory of the process that
does it, start included, in rounds in which the contenders take turns; medians. Then, once,
through Cloud Storage and BigQuery on the local GCP.

    batch_ingestion   checked record by record, with envelope, to NDJSON
    splitter          the array cut into lines, unchecked: the least that there is to do
    naive             requests.get().json(), json.dumps of each record, to NDJSON
    naive, gzip       the same to NDJSON compressed by Python's gzip, as dlt writes it
    dlt               rest_api source to filesystem, jsonl.gz; installed for this run only
"""

from __future__ import annotations

import argparse
import gzip
import http.server
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import reference_splitter
from ingestion import arguments
from ingestion.project import PROJECT_FOLDER

DLT = "dlt[filesystem]==1.31.0"
MEGABYTE = 1_000_000

# at least so many times less CPU than dlt and the naive script with gzip
MARKS = {100_000: (12.0, 5.0), 1_000_000: (25.0, 8.0)}
# and at most so many times the CPU of the splitter
SPLITTER_MARKS = {1_000_000: 1.8}
MEMORY_MARK_MEGABYTES = 60
START_MARK_SECONDS = 0.25
# times the CPU without the word
REDACTION_MARK = 1.5
MEMORY_MARK_GROWTH = 1.2
# dlt takes minutes for so many, and gigabytes; a mark of a few tenths needs the rounds all the same
MEASURED_ONCE = 1_000_000
ALWAYS_IN_ROUNDS = {"batch_ingestion", "splitter"}

# texts of random words compress as texts do
_letters = random.Random(0)  # noqa: S311
WORDS = ["".join(_letters.choices("abcdefghijklmnoprstuvyé", k=k % 9 + 2)) for k in range(5000)]

STARTS = {"batch_ingestion.py": (), "near_realtime_ingestion_2.py": ("--once",)}

DLT_SCRIPT = """
import sys, dlt
from dlt.sources.rest_api import rest_api_source
url, folder = sys.argv[1:]
products = {"name": "products", "endpoint": {"path": "products", "paginator": "single_page"}}
pipeline = dlt.pipeline(
    "bench",
    pipelines_dir=folder + "/pipelines",
    destination=dlt.destinations.filesystem("file://" + folder),
    dataset_name="raw",
)
source = rest_api_source({"client": {"base_url": url}, "resources": [products]})
pipeline.run(source, loader_file_format="jsonl").raise_on_failed_jobs()
"""


@dataclass(frozen=True)
class Cost:
    """What one process has used."""

    cpu_seconds: float
    wall_seconds: float
    peak_megabytes: float


def products(count: int) -> Iterator[bytes]:
    """Yield a JSON array of `count` products of the Fake Store's shape and size, in pieces."""
    dice = random.Random(1)  # noqa: S311
    for number in range(1, count + 1):
        product = {
            "id": number,
            "title": " ".join(dice.choices(WORDS, k=6)) + " ",
            "price": round(dice.uniform(1, 999), 2),
            "description": " ".join(dice.choices(WORDS, k=30)),
            "category": "men's clothing",
            "image": f"https://fakestoreapi.com/img/{number}-AC_SL1500_t.png",
            "rating": {"rate": 3.9, "count": number % 500},
        }
        text = json.dumps(product, separators=(",", ":"), ensure_ascii=False)
        yield (b"[" if number == 1 else b",") + text.encode()
    yield b"]"


def serve(count: int) -> None:
    """Answer /products until this process is ended; the first line on stdout is the port."""
    body = b"".join(products(count))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, len(body), flush=True)
    server.serve_forever()


def run_naive(url: str, folder: Path, *, compressed: bool) -> None:
    """Do what a script of ten lines does."""
    import requests

    records = requests.get(f"{url}/products", timeout=600).json()
    opened = gzip.open if compressed else Path.open
    with opened(folder / "data.json", "wb") as file:
        for record in records:
            file.write(json.dumps(record).encode() + b"\n")


@contextmanager
def serving(count: int) -> Iterator[tuple[str, int]]:
    """Serve `count` products in a process of its own; yield the address and the body's size."""
    command = [sys.executable, "-m", "benchmarks.batch", "--serve", str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        first_line = server.stdout.readline() if server.stdout else ""
        port, size = first_line.split()
        try:
            yield f"http://127.0.0.1:{port}", int(size)
        finally:
            server.terminate()


def measure(command: Sequence[str], environment: dict[str, str] | None = None) -> Cost:
    """Run `command` and return what it has used; raise where it fails."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=PROJECT_FOLDER,
            env={**os.environ, **(environment or {})},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_seconds = time.monotonic() - started
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read().decode()[-2000:]}")
    # Linux counts kilobytes
    peak = used.ru_maxrss * 1024 / MEGABYTE
    return Cost(used.ru_utime + used.ru_stime, wall_seconds, peak)


def count_lines(folder: Path) -> int:
    """Return the records in the data files below `folder`."""
    files = [*folder.rglob("data.json"), *folder.glob("raw/products/*.jsonl*")]
    total = 0
    for path in files:
        with path.open("rb") as raw:
            is_compressed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if is_compressed else path.open("rb") as lines:
            total += sum(1 for _ in lines)
    return total


def install_dlt(folder: Path) -> str | None:
    """Install dlt into `folder` and return its Python, or None where that is not to be had."""
    uv = [sys.executable, "-m", "uv"]
    python = str(folder / "bin" / "python")
    try:
        subprocess.run([*uv, "venv", "--quiet", str(folder)], check=True)
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, DLT], check=True)
    except subprocess.CalledProcessError:
        print(f"{DLT} could not be installed: measured without it.", file=sys.stderr)
        return None
    return python


def contenders(dlt_python: str | None) -> dict[str, Callable[[str, Path], Cost]]:
    """Return, by name, how to bring the products of an address into a folder."""

    def ours(url: str, folder: Path) -> Cost:
        where = ["--api-url", url, "--raw-dir", str(folder)]
        script = [sys.executable, "batch_ingestion.py", "--local-only", "--entities", "products"]
        return measure([*script, *where])

    def splitter(url: str, folder: Path) -> Cost:
        return measure([sys.executable, "-m", "benchmarks.batch", "--splitter", url, str(folder)])

    def naive(url: str, folder: Path) -> Cost:
        return measure([sys.executable, "-m", "benchmarks.batch", "--naive", url, str(folder)])

    def naive_gzip(url: str, folder: Path) -> Cost:
        return measure([sys.executable, "-m", "benchmarks.batch", "--naive-gzip", url, str(folder)])

    found: dict[str, Callable[[str, Path], Cost]]
    found = {"batch_ingestion": ours, "splitter": splitter}
    found |= {"naive": naive, "naive, gzip": naive_gzip}
    if dlt_python:
        quiet = {"RUNTIME__DLTHUB_TELEMETRY": "false"}
        command = [dlt_python, "-c", DLT_SCRIPT]
        found["dlt"] = lambda url, folder: measure([*command, url, str(folder)], quiet)
    return found


def compare(count: int, rounds: int, dlt_python: str | None, scratch: Path) -> dict[str, Cost]:
    """Return the median costs of `rounds` rounds, and print them as a table."""
    costs: dict[str, list[Cost]] = {}
    with serving(count) as (url, size):
        for number in range(rounds):
            for name, run in contenders(dlt_python).items():
                if number and count >= MEASURED_ONCE and name not in ALWAYS_IN_ROUNDS:
                    continue
                folder = scratch / "out"
                folder.mkdir()
                costs.setdefault(name, []).append(run(url, folder))
                lines = count_lines(folder)
                if lines != count:
                    raise SystemExit(f"{name} wrote {lines} records of {count}.")
                shutil.rmtree(folder)
    medians = {
        name: Cost(
            statistics.median(cost.cpu_seconds for cost in given),
            statistics.median(cost.wall_seconds for cost in given),
            statistics.median(cost.peak_megabytes for cost in given),
        )
        for name, given in costs.items()
    }
    few = ", naive and dlt once" if count >= MEASURED_ONCE else ""
    print(f"\n{count:,} products, {size / MEGABYTE:.0f} MB, median of {rounds}{few}")
    print(f"{'':16}{'CPU s':>9}{'wall s':>9}{'records/s':>12}{'peak MB':>9}{'CPU ratio':>11}")
    best = medians["batch_ingestion"]
    for name, cost in medians.items():
        print(
            f"{name:16}{cost.cpu_seconds:9.2f}{cost.wall_seconds:9.2f}"
            f"{count / cost.wall_seconds:12,.0f}{cost.peak_megabytes:9.0f}"
            f"{cost.cpu_seconds / best.cpu_seconds:10.1f}x"
        )
    return medians


def print_marks(measured: dict[int, dict[str, Cost]]) -> bool:
    """Print which marks are met; return whether all are."""
    verdicts = []
    for count, costs in measured.items():
        best = costs["batch_ingestion"]
        for name, times_mark in zip(("dlt", "naive, gzip"), MARKS.get(count, ()), strict=False):
            if name in costs:
                ratio = costs[name].cpu_seconds / best.cpu_seconds
                verdicts.append(
                    (ratio >= times_mark, f"{count:,}: {ratio:.1f}x {name}, mark {times_mark:.0f}x")
                )
        times = best.cpu_seconds / costs["splitter"].cpu_seconds
        if mark := SPLITTER_MARKS.get(count):
            text = f"{count:,}: {times:.2f}x the splitter's CPU, mark {mark:.1f}x"
            verdicts.append((times <= mark, text))
        peak = best.peak_megabytes
        verdicts.append(
            (
                peak < MEMORY_MARK_MEGABYTES,
                f"{count:,}: {peak:.0f} MB, mark {MEMORY_MARK_MEGABYTES}",
            )
        )
    peaks = [costs["batch_ingestion"].peak_megabytes for costs in measured.values()]
    growth = max(peaks) / min(peaks)
    verdicts.append((growth <= MEMORY_MARK_GROWTH, f"peak grows {growth:.2f}x with the answer"))
    print("\nmarks")
    for is_met, text in verdicts:
        print(f"  {'met   ' if is_met else 'MISSED'}  {text}")
    return all(is_met for is_met, _ in verdicts)


def measure_cloud(count: int, scratch: Path) -> None:
    """Bring `count` products into bronze on the local GCP, and say how long it took."""
    from local_gcp.servers import LocalGcp

    with serving(count) as (url, _), LocalGcp(scratch / "gcp") as gcp:
        script = [sys.executable, "batch_ingestion.py", "--entities", "products"]
        where = ["--api-url", url, "--raw-dir", str(scratch / "raw"), "--cloud-timeout", "60"]
        cost = measure([*script, *where], gcp.environment)
    print(f"\n{count:,} products through Cloud Storage and BigQuery on the local GCP")
    print(f"{'':16}{'CPU s':>9}{'wall s':>9}{'records/s':>12}{'peak MB':>9}")
    print(
        f"{'batch_ingestion':16}{cost.cpu_seconds:9.2f}{cost.wall_seconds:9.2f}"
        f"{count / cost.wall_seconds:12,.0f}{cost.peak_megabytes:9.0f}"
    )


def start_seconds(script: str, *flags: str) -> float:
    """Return the CPU that a stage needs until its first request, which nobody answers."""
    with tempfile.TemporaryDirectory() as name:
        places = {"RAW_DIR": name, "STATE_FILE": f"{name}/state.json", "EVENTS_DIR": f"{name}/e"}
        # the modules are compiled once, as on a user's machine and in the image
        places["PYTHONDONTWRITEBYTECODE"] = ""
        command = [sys.executable, script, "--local-only", "--api-url", "http://127.0.0.1:9"]
        used_before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [*command, *flags],
            cwd=PROJECT_FOLDER,
            env={**os.environ, **places},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    before = used_before.ru_utime + used_before.ru_stime
    return used.ru_utime + used.ru_stime - before


def redaction_seconds(title: str, count: int = 100_000) -> float:
    """Return the least CPU of three redactions of products that all have this title."""
    from ingestion.redaction import redact

    product = {"id": 1, "title": title, "price": 109.95, "description": " ".join(WORDS[:30])}
    text = (json.dumps(product, ensure_ascii=False).encode() + b"\n") * count
    seconds = []
    for _ in range(3):
        started = time.process_time()
        redact(text)
        seconds.append(time.process_time() - started)
    return min(seconds)


def print_start_and_redaction() -> None:
    """Measure what does not depend on the number of records."""
    print("\nCPU seconds from the start to the first request, median of 5")
    for script, flags in STARTS.items():
        starts = statistics.median(start_seconds(script, *flags) for _ in range(5))
        print(f"{script:32}{starts:6.3f}, mark {START_MARK_SECONDS}")
    times = redaction_seconds("a password") / redaction_seconds("a notebook")
    print(f"redaction, the word in every title  {times:.2f}x, mark {REDACTION_MARK}x")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line; the hidden options are the processes that are measured."""
    parser = arguments.Parser(description=__doc__)
    parser.add_argument(
        "--counts",
        type=arguments.count,
        nargs="+",
        default=[10_000, 100_000, 1_000_000],
        metavar="N",
    )
    parser.add_argument(
        "--rounds",
        type=arguments.count,
        default=3,
        help=f"default: %(default)s; with {MEASURED_ONCE:,} products and more, "
        "of all but the stage and the splitter there is one",
    )
    parser.add_argument(
        "--cloud-count",
        type=partial(arguments.count, least=0),
        default=100_000,
        metavar="N",
        help="0: no local GCP",
    )
    parser.add_argument("--without-dlt", action="store_true")
    parser.add_argument("--serve", type=arguments.port, help=argparse.SUPPRESS)
    parser.add_argument("--splitter", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--naive", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--naive-gzip", nargs=2, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if a mark is missed."""
    args = build_parser().parse_args(argv)
    if args.serve:
        serve(args.serve)
    elif args.splitter:
        url, folder = args.splitter
        reference_splitter.run(f"{url}/products", Path(folder))
    elif args.naive or args.naive_gzip:
        url, folder = args.naive or args.naive_gzip
        run_naive(url, Path(folder), compressed=bool(args.naive_gzip))
    else:
        with tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            dlt_python = None if args.without_dlt else install_dlt(scratch / "dlt")
            measured = {
                count: compare(count, args.rounds, dlt_python, scratch) for count in args.counts
            }
            print_start_and_redaction()
            if args.cloud_count:
                measure_cloud(args.cloud_count, scratch)
            return 0 if print_marks(measured) else 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
