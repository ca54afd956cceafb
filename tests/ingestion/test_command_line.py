"""What is not the script's fault is no traceback, in any of the four scripts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ingestion.project import PROJECT_FOLDER
from tests.support.local_gcp_process import until
from tests.support.scripted_http import answer, hang, scripted_server

SCRIPTS = [
    "batch_ingestion.py",
    "near_realtime_ingestion_2.py",
    "start_apis_GCP.py",
    "kpi_report.py",
]
PRODUCTS = b'[{"id":1,"title":"a","price":1,"category":"c"}]'
CARTS = b'[{"id":1,"userId":1,"date":"2020-03-02T00:00:00.000Z","products":[]}]'


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of bash's, in which `python` is ours, from the project's folder."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=PROJECT_FOLDER,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def batch(url: str, folder: Path) -> str:
    return (
        f"python batch_ingestion.py --local-only --entities products --api-url {url} "
        f"--raw-dir '{folder}'"
    )


def poll(url: str, folder: Path) -> str:
    return (
        f"python near_realtime_ingestion_2.py --local-only --once --api-url {url} "
        f"--state-file '{folder}/state.json' --events-dir '{folder}/events'"
    )


STAGES: list[Callable[[str, Path], str]] = [batch, poll]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("ending", ["| true", "2>&1 | true", "2>&-", "2>/dev/full", "<&- 2>&- >&-"])
def test_who_reads_along_does_not_matter_to_the_work(
    tmp_path: Path, stage: object, ending: str
) -> None:
    assert callable(stage)
    folder = tmp_path / "raé"
    with scripted_server(
        {"/products": [answer(200, PRODUCTS)], "/carts": [answer(200, CARTS)]}
    ) as server:
        ended = shell(f"{stage(server.url, folder)} {ending}", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr and "rror" not in ended.stderr
    assert [*folder.rglob("data.json"), *folder.rglob("published/*.jsonl")]


def test_a_name_that_the_terminal_cannot_spell_is_escaped(tmp_path: Path) -> None:
    with scripted_server({"/products": [answer(200, PRODUCTS)]}) as server:
        ended = shell(batch(server.url, tmp_path / "raé"), PYTHONIOENCODING="ascii")
    assert ended.returncode == 0
    assert r"ra\xe9" in ended.stdout


def test_a_result_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    with scripted_server({"/products": [answer(200, PRODUCTS)]}) as server:
        ended = shell(f"{batch(server.url, tmp_path)} > /dev/full")
    assert ended.returncode == 1
    assert ended.stderr.endswith("stdout cannot be written: No space left on device.\n")


@pytest.mark.parametrize("script", [*SCRIPTS, "ey_test_tech/data_contracts.py"])
def test_ctrl_c_during_the_imports_is_quiet(script: str, tmp_path: Path) -> None:
    """One of the modules says when it is imported, and takes its time."""
    for name in ("dotenv", "yaml"):
        (tmp_path / f"{name}.py").write_text(
            "import time; print('importing', flush=True); time.sleep(150)"
        )
    process = subprocess.Popen(
        [sys.executable, script, "--help"],
        cwd=PROJECT_FOLDER,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert (process.returncode, told) == (-signal.SIGINT, "")


def test_ctrl_c_during_the_work_is_one_sentence(tmp_path: Path) -> None:
    with scripted_server({"/products": [hang]}) as server:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {batch(server.url, tmp_path)}"],
            cwd=PROJECT_FOLDER,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: server.requests)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "nothing is lost" in told and "Traceback" not in told


@pytest.mark.parametrize(
    ("script", "asked"),
    [("kpi_report.py", "BIGQUERY_EMULATOR_HOST"), ("start_apis_GCP.py", "SERVICE_USAGE_ENDPOINT")],
)
def test_ctrl_c_while_google_is_silent_is_one_sentence(script: str, asked: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(120)
        process = subprocess.Popen(
            [sys.executable, script, "--project-id", "some-project"],
            cwd=PROJECT_FOLDER,
            env={**os.environ, asked: f"http://127.0.0.1:{silent.getsockname()[1]}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = silent.accept()
        with connection:
            connection.recv(1)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=120)
    assert (process.returncode, told) == (1, "interrupted: run the same command again.\n")


@pytest.mark.parametrize("script", SCRIPTS[:2])
@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://a..b",
        "ftp://x",
        f"http://{'a' * 64}.org",
        "http://caf\udce9",
        "http://x/\udce9",
        "http://",
        "fakestoreapi.com",
        "http://x:99999",
        "http://x y",
        "http://x/?a=b",
    ],
)
def test_an_address_that_cannot_be_asked_is_wrong_usage(script: str, url: str) -> None:
    stage = "batch_ingestion" if script.startswith("batch") else "near_realtime_ingestion_2"
    code = (
        f"import sys, {stage} as stage; from ingestion import command_line; "
        "sys.argv[1:] = ['--local-only', '--api-url', sys.argv[1]]; command_line.run(stage.main)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, url], cwd=PROJECT_FOLDER, capture_output=True, check=False
    )
    assert ended.returncode == 2
    last = ended.stderr.decode().splitlines()[-1]
    assert "argument --api-url: " in last and "Traceback" not in ended.stderr.decode()


@pytest.mark.parametrize("script", SCRIPTS[:2])
def test_an_address_of_the_environment_is_told_as_its_setting(script: str) -> None:
    ended = shell(f"python {script} --local-only", FAKE_STORE_API_URL="fakestoreapi.com")
    assert ended.returncode == 2
    assert "--api-url: 'fakestoreapi.com', from FAKE_STORE_API_URL, is no http" in ended.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_quotes_that_docker_passes_on_are_wrong_configuration(script: str) -> None:
    ended = shell(f"python {script}", GCP_PROJECT_ID='"my-project"')
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith("GCP_PROJECT_ID is set to")


@pytest.mark.parametrize("script", SCRIPTS)
def test_another_python_than_the_environment_s_is_one_sentence(script: str) -> None:
    # -S: no package that was installed is found
    done = subprocess.run(
        [sys.executable, "-S", script, "--help"],
        cwd=PROJECT_FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    said = "The package dotenv is missing: run 'make setup', and use .venv/bin/python.\n"
    assert done.stderr == said
