"""Where the pinned packages can be installed: asked of the index, installed nowhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from ingestion.project import PROJECT_FOLDER

PLATFORMS = (
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
)
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def pins(name: str) -> list[str]:
    """Return the lines of a requirements file that name a package."""
    lines = (PROJECT_FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-r"))]


def test_no_package_is_pinned_twice() -> None:
    files = [path.name for path in PROJECT_FOLDER.glob("requirements*.txt")]
    assert len(files) == 4
    names = [re.split(r"[=\[]", pin)[0] for name in files for pin in pins(name)]
    assert len(names) == len(set(names))


def test_what_runs_in_cloud_run_needs_no_emulator_and_no_test_tool() -> None:
    assert not [
        pin for pin in pins("requirements.txt") if re.match("bqemulator|duckdb|pytest", pin)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_package_has_a_wheel(name: str, platform: str, python: str) -> None:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--only-binary", ":all:"]
    command += ["--python-platform", platform, "--python-version", python, name]
    done = subprocess.run(
        [*command, "--output-file", os.devnull],
        cwd=PROJECT_FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
