"""Terraform for the tests: the real binary, a copy of terraform/, and a provider that can be had.

The real hashicorp/google where `terraform init` finds it, else a stand-in with the real one's
schema. Plans are taken through `terraform test`, which may override data sources: no account is
needed, and the copy keeps the work tree free of .terraform and lock files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from ingestion.project import PROJECT_FOLDER

STAND_IN = PROJECT_FOLDER.parent / "shared" / "terraform-google-stub"
PROJECT_NUMBER = "424242"
VARIABLES = {"gcp_project_id": "fake-store-test", "gcs_bucket_name": "fake-store-test-raw"}
PLANNED = f"""
override_data {{
  target = data.google_project.this
  values = {{ number = "{PROJECT_NUMBER}" }}
}}

run "planned" {{
  command = plan
}}
"""


@dataclass(frozen=True)
class Terraform:
    """A copy of terraform/ and what it takes to run the binary there."""

    folder: Path
    environment: dict[str, str]
    provider: str  # "real" or "stand-in"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `terraform arguments…` in the copy and return what it said and its exit code."""
        return subprocess.run(
            ["terraform", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def test(self, *arguments: str) -> list[dict[str, Any]]:
        """Run `terraform test` and return its messages."""
        done = self.run("test", "-json", *arguments)
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def plan(self, environment: str, **variables: str) -> dict[str, dict[str, Any]]:
        """Return the planned values of each resource, by address, in one environment."""
        given = [f"-var={name}={value}" for name, value in {**VARIABLES, **variables}.items()]
        messages = self.test(
            "-verbose",
            "-filter=tests/planned.tftest.hcl",
            f"-var-file=environments/{environment}.tfvars",
            *given,
        )
        plans = [m["test_plan"] for m in messages if m["type"] == "test_plan"]
        assert plans, [m["@message"] for m in messages if m["type"] == "diagnostic"]
        return {c["address"]: c["change"]["after"] for c in plans[0]["resource_changes"]}


def one_at_a_time() -> FileLock:
    """Return what keeps tests that run side by side from installing into one place at once."""
    return FileLock(Path(sys.prefix) / "terraform.lock")


@contextmanager
def stand_in_provider() -> Iterator[dict[str, str]]:
    """Run the stand-in provider and yield the variables that attach terraform to it."""
    if not STAND_IN.is_dir():
        pytest.skip(
            "the google provider cannot be downloaded, and its stand-in "
            "../shared/terraform-google-stub/ is missing: terraform/ is NOT tested"
        )
    # its protobuf is another than the project's
    venv = Path(sys.prefix) / "terraform-stand-in"
    python = venv / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    install = [*uv, "pip", "install", "--quiet", "--python", python]
    try:
        with one_at_a_time():
            if not python.exists():
                subprocess.run([*uv, "venv", "--quiet", venv], check=True)
            subprocess.run([*install, "-r", STAND_IN / "requirements.txt"], check=True, timeout=240)
    except subprocess.SubprocessError:
        pytest.skip("the stand-in's packages cannot be installed: terraform/ is NOT tested")
    command = [python, STAND_IN / "stub" / "google_stub.py", "--reattach"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield {"TF_REATTACH_PROVIDERS": process.stdout.readline().strip()}
        finally:
            process.terminate()


@contextmanager
def terraform_with_a_provider(folder: Path) -> Iterator[Terraform]:
    """Yield Terraform with a provider; skip, loudly, where there is no binary or no provider."""
    if not shutil.which("terraform"):
        pytest.skip("there is no terraform binary: terraform/ is NOT tested")
    ignored = shutil.ignore_patterns(".terraform*", "*.tfstate*")
    shutil.copytree(PROJECT_FOLDER / "terraform", folder, ignore=ignored)
    (folder / "tests" / "planned.tftest.hcl").write_text(PLANNED)
    plugin_cache = Path(sys.prefix) / "terraform-plugins"
    plugin_cache.mkdir(exist_ok=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TF_VAR_")},
        "TF_IN_AUTOMATION": "1",
        "TF_PLUGIN_CACHE_DIR": str(plugin_cache),
        # without it a provider is downloaded anew, into the place of the one that another test runs
        "TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE": "1",
        # the real provider wants a token to start, and sends it nowhere while it plans
        "GOOGLE_OAUTH_ACCESS_TOKEN": "unused",
    }
    if not Path(environment.get("TF_CLI_CONFIG_FILE", os.devnull)).exists():
        environment["TF_CLI_CONFIG_FILE"] = os.devnull
    real = Terraform(folder, environment, "real")
    try:
        with one_at_a_time():
            found = real.run("init", "-backend=false", "-input=false").returncode == 0
    except subprocess.TimeoutExpired:
        found = False
    if found:
        yield real
        return
    with stand_in_provider() as attach:
        yield Terraform(folder, {**environment, **attach}, "stand-in")
