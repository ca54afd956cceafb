"""Cloud Run as Terraform plans it: each container a process with the image's files and no others.

A container begins with a folder of its own, in place of the image's /app, and an environment that
holds the plan's settings, what Cloud Run sets, and where the local Google Cloud listens.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ingestion.project import PROJECT_FOLDER

# dbt takes the longest
JOB_SECONDS = 240.0
COMPLETED = "2026-11-22T05:00:00.123456Z"

Plan = Mapping[str, Mapping[str, Any]]


class Container:
    """One execution of a job."""

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], output: Path
    ) -> None:
        self.output = output
        with output.open("w") as out, self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=out, stderr=log, start_new_session=True
            )

    @property
    def log_file(self) -> Path:
        return self.output.with_suffix(".log")

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all that runs in it; it may have ended meanwhile."""
        if self.is_running:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def end(self, seconds: float = JOB_SECONDS) -> int:
        """Wait for its end, and return its exit code; minus N where signal N ended it."""
        return self.process.wait(seconds)

    def printed(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8")


class CloudRun:
    """The jobs of a plan. As the `http` of a workflow it runs them, and keeps what they ended with.

    `environment` says where Google Cloud is, which a real container need not be told.
    """

    def __init__(self, folder: Path, plan: Plan, environment: Mapping[str, str]) -> None:
        self.containers: list[Container] = []
        # (job, arguments, exit code) of what the workflow ran
        self.ran: list[tuple[str, list[str], int]] = []
        self._folder = folder
        self._environment = environment
        self._image = folder / "image"
        self._jobs = {
            planned["name"]: planned["template"][0]["template"][0]["containers"][0]
            for address, planned in plan.items()
            if address.startswith("google_cloud_run_v2_job.")
        }
        build_image(self._image)

    def start(self, name: str, args: Sequence[str] | None = None) -> Container:
        """Start a job, with other arguments than its own where some are given."""
        job = self._jobs[name]
        root = self._folder / f"{len(self.containers)}"
        shutil.copytree(self._image, root / "app")
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
            "HOME": str(root),
            "CLOUD_RUN_JOB": name,
            "CLOUD_RUN_EXECUTION": f"{name}-{len(self.containers)}",
            **self._environment,
            **{setting["name"]: setting["value"] for setting in job["env"]},
        }
        command = [*job["command"], *(job["args"] if args is None else args)]
        folder = root / job["working_dir"].removeprefix("/")
        self.containers.append(Container(command, folder, environment, root / "output"))
        return self.containers[-1]

    def args(self, name: str) -> list[str]:
        """Return the arguments that Terraform gives a job."""
        return list(self._jobs[name]["args"])

    def http(self, method: str, url: str, sent: Mapping[str, Any]) -> Any:
        """Answer as the API of Cloud Run does; a job has ended when its start is answered."""
        path = url.removeprefix("https://run.googleapis.com/v2/")
        name = path.split("/")[5].removesuffix(":run")
        if method == "post":
            (override,) = sent["overrides"]["containerOverrides"]
            self.ran.append((name, override["args"], self.start(name, override["args"]).end()))
            return {"metadata": {"name": f"{path.removesuffix(':run')}/executions/1"}}
        code = self.ran[-1][2]
        if path.endswith("/tasks"):
            return {"tasks": [{"lastAttemptResult": {"exitCode": code}}]}
        return {"completionTime": COMPLETED, "succeededCount": int(code == 0)}

    def close(self) -> None:
        """Kill what still runs."""
        for container in self.containers:
            container.signal(signal.SIGKILL)
            container.end()


def build_image(folder: Path) -> None:
    """Put into a folder what the Dockerfile copies into the stage `runtime`."""
    dockerfile = (PROJECT_FOLDER / "Dockerfile").read_text(encoding="utf-8")
    runtime = dockerfile.partition(" AS runtime\n")[2].partition("\nFROM ")[0]
    folder.mkdir(parents=True)
    for line in re.findall(r"^COPY --chown=1000:1000 (.*)$", runtime, re.M):
        *sources, target = line.split()
        for source in sources:
            path = PROJECT_FOLDER / source
            if path.is_dir():
                left_out = shutil.ignore_patterns("__pycache__", "target", "logs", ".user.yml")
                shutil.copytree(path, folder / target, ignore=left_out)
            else:
                shutil.copy2(path, folder / target)
    subprocess.run([sys.executable, "-m", "compileall", "-q", folder], check=True)
