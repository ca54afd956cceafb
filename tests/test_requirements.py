"""Where the pinned packages can be installed: asked of the index, installed nowhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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


def test_checking_goes_on_without_a_linter_says_so_and_tries_again(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("mypy", "ruff", "sqlfluff", "terraform"):
        (tools / name).write_text("#!/bin/sh\n")
    # knows no package for this machine whose name stands in `unknown`, and installs the others
    (tools / "uv").write_text(
        f'#!/bin/sh\nfor pin; do :; done; echo "$pin" >> {tmp_path}/asked\n'
        f'! grep -q "^${{pin%%[-=]*}}$" {tmp_path}/unknown || exit 1\n'
        f'ln -sf terraform "{tools}/${{pin%%[-=]*}}"\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    for made in (".installed", ".installed-dev"):
        (tmp_path / made).touch()

    def check(unknown: str) -> tuple[list[str], list[str]]:
        """Return what was asked for, and what the check says that it went without."""
        (tmp_path / "unknown").write_text(unknown)
        (tmp_path / "asked").write_text("")
        done = subprocess.run(
            ["make", "check", f"VENV={tmp_path}"],
            cwd=PROJECT_FOLDER,
            env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        asked = (tmp_path / "asked").read_text().splitlines()
        return asked, re.findall(r"^(\w+) is missing", done.stdout, re.M)

    linters = pins("requirements-lint.txt")
    assert check("hadolint\n") == (linters, ["hadolint"])
    assert check("hadolint\nshellcheck\n") == (linters, ["hadolint"])
    assert check("") == (linters, [])
    assert check("") == ([], [])


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
