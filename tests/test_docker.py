"""The image, and the two ways to start it: `make run` and Start-project.bat.

What needs a Docker daemon or wine is in the long ring (`make test-slow`).
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestion.project import PROJECT_FOLDER

TOOLS = Path(sys.executable).parent
DOCKERFILE = (PROJECT_FOLDER / "Dockerfile").read_text(encoding="utf-8")
MAKEFILE = (PROJECT_FOLDER / "Makefile").read_text(encoding="utf-8")
BATCH_FILE = PROJECT_FOLDER / "Start-project.bat"
BANNER = PROJECT_FOLDER / "docker.bashrc"
IMAGE = "fake-store-pipeline"
# what the long ring lays into the project before it builds, and then looks for in the image
NOT_FOR_THE_IMAGE = secrets.token_hex()
PLANTED = ("credentials/gcp-key.json", "state/carts_state.json", ".env", "terraform/x.tfvars")
# the daemon may run as root, and so may the tests: the user in the container is to be neither
USER_ID = os.getuid() or 12345


def image_version(name: str) -> str:
    """Return the value of the Dockerfile's `ARG <name>_VERSION=`."""
    found = re.search(rf"^ARG {name}_VERSION=(\S+)$", DOCKERFILE, re.M)
    assert found, f"the Dockerfile has no ARG {name}_VERSION"
    return found[1]


def docker_commands(script: str) -> list[list[str]]:
    """Return the `docker build` and `docker run` command lines in `script`, split into words."""
    joined = re.sub(r"[\\^]\n\s*", " ", script)
    lines = re.findall(r"^(?:\w+=\S+ )?(docker (?:build|run) .*)$", joined, re.M)
    return [shlex.split(line) for line in lines]


def make_dry_run(target: str, project: Path = PROJECT_FOLDER) -> str:
    """Return what `make <target>` would run in `project`."""
    make = ["make", "--no-print-directory", "--dry-run", target]
    return subprocess.run(make, cwd=project, capture_output=True, text=True, check=True).stdout


def test_batch_file_runs_the_commands_of_make_run() -> None:
    of_make = docker_commands(make_dry_run("run"))
    (user,) = [i for i, word in enumerate(of_make[1]) if word == "--user"]
    # Docker Desktop on Windows has no users to keep apart
    del of_make[1][user : user + 2]
    windows = BATCH_FILE.read_text(encoding="ascii").replace("%CD%", str(PROJECT_FOLDER))
    of_batch_file = docker_commands(windows.replace(r"\credentials", "/credentials"))
    assert of_batch_file == of_make
    assert [command[1] for command in of_make] == ["build", "run"]


def test_make_run_mounts_the_project_and_the_key_read_only_and_passes_dotenv() -> None:
    _, run = docker_commands(make_dry_run("run"))
    mounts = [run[i + 1] for i, word in enumerate(run) if word == "--mount"]
    assert mounts == [
        f"type=bind,source={PROJECT_FOLDER},target=/app",
        f"type=bind,source={PROJECT_FOLDER}/credentials,target=/app/credentials,readonly",
    ]
    assert run[run.index("--env-file") + 1] == ".env"
    assert run[-1] == IMAGE


def test_batch_file_has_windows_line_ends_here_and_in_every_checkout() -> None:
    content = BATCH_FILE.read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n") > 0
    assert "*.bat text eol=crlf" in (PROJECT_FOLDER / ".gitattributes").read_text(encoding="utf-8")


def test_image_has_the_python_that_the_code_is_checked_for() -> None:
    pyproject = tomllib.loads((PROJECT_FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
    assert image_version("PYTHON") == pyproject["tool"]["mypy"]["python_version"]


def test_image_has_the_python_that_runs_these_tests() -> None:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if sys.version_info > (3, 12):
        pytest.skip(f"these tests run on Python {running}, the image on {image_version('PYTHON')}")
    assert image_version("PYTHON") == running


def test_image_has_the_terraform_that_the_tests_run() -> None:
    if not shutil.which("terraform"):
        pytest.skip("terraform is not installed")
    answer = subprocess.run(
        ["terraform", "version", "-json"], capture_output=True, text=True, check=True
    )
    assert image_version("TERRAFORM") == json.loads(answer.stdout)["terraform_version"]


def test_image_and_makefile_install_with_the_same_uv() -> None:
    assert f"uv=={image_version('UV')}" in MAKEFILE


def is_kept_out(path: str) -> bool:
    """Say whether .dockerignore keeps `path` out: a pattern holds for all below what it names."""
    lines = (PROJECT_FOLDER / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert not any(pattern.startswith("!") for pattern in patterns)
    expressions = [
        re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        for pattern in patterns
    ]
    return any(re.match(rf"{expression}(/|$)", path) for expression in expressions)


@pytest.mark.parametrize(
    "path",
    [
        "credentials/gcp-key.json",
        "gcp-key.json",
        "terraform/service-account-key.json",
        ".env",
        ".env.local",
        "terraform/terraform.tfvars",
        "terraform/prod.tfvars",
        "terraform/terraform.tfstate",
        "terraform/terraform.tfstate.backup",
        "terraform/.terraform/providers/x",
        "state/carts_state.json",
        "events/published/2026-11-22.jsonl",
        "raw/users/date=2026-11-22/run_id=1/data.json",
        "report/index.html",
        ".local_gcp/gcs/bucket/object",
        ".git/config",
        ".venv/bin/python",
        "ey_test_tech/target/manifest.json",
        "tests/__pycache__/test_docker.pyc",
    ],
)
def test_secrets_data_and_environments_stay_out_of_the_image(path: str) -> None:
    assert is_kept_out(path)


def test_what_git_ignores_stays_out_of_the_image() -> None:
    lines = (PROJECT_FOLDER / ".gitignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith(("#", "!"))]
    samples = [pattern.rstrip("/").replace("*", "x") for pattern in patterns]
    samples += [f"terraform/{sample}" for sample in samples if sample.startswith("x.")]
    assert [sample for sample in samples if not is_kept_out(sample)] == []


@pytest.mark.parametrize(
    "path",
    [
        "requirements.txt",
        "requirements-local.txt",
        "ingestion/settings.py",
        "Makefile",
        "terraform/schemas/users_raw.json",
    ],
)
def test_the_project_itself_is_in_the_image(path: str) -> None:
    assert (PROJECT_FOLDER / path).is_file()
    assert not is_kept_out(path)


def stage(name: str) -> str:
    """Return the lines of the Dockerfile that make one stage."""
    found = re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S)
    assert found, f"the Dockerfile has no stage {name}"
    return found[1]


def test_runtime_is_no_root_and_copies_the_stages_and_their_parts_only() -> None:
    runtime = stage("runtime")
    assert re.findall(r"^USER (.*)$", runtime, re.M) == ["1000:1000"]
    copied = [
        source
        for line in re.findall(r"^COPY --chown=1000:1000 (.*)$", runtime, re.M)
        for source in line.split()[:-1]
    ]
    assert sorted(copied) == [
        "batch_ingestion.py",
        "ey_test_tech",
        "ingestion",
        "kpi_report.py",
        "near_realtime_ingestion_2.py",
        "reporting",
        "terraform/schemas",
    ]
    assert all((PROJECT_FOLDER / path).exists() for path in copied)
    assert "requirements-local" not in runtime + stage("runtime-packages")


def test_make_image_builds_the_runtime_for_cloud_runs_processor() -> None:
    (command,) = docker_commands(make_dry_run("image"))
    assert command[command.index("--target") + 1] == "runtime"
    assert command[command.index("--platform") + 1] == "linux/amd64"


def test_make_push_prints_the_line_that_terraform_takes(tmp_path: Path) -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    registry = "europe-west9-docker.pkg.dev/my-project/fake-store"
    calls = tmp_path / "calls"
    docker = tmp_path / "docker"
    known_as = f"elsewhere/pipeline@{digest}\n{registry}/pipeline@{digest}"
    docker.write_text(
        f'#!/bin/sh\necho "$@" >> "{calls}"\nif [ "$1" = image ]; then echo "{known_as}"; fi\n'
    )
    docker.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    push = ["make", "--no-print-directory", "--silent", "push", f"REGISTRY={registry}"]
    answer = subprocess.run(
        push,
        cwd=PROJECT_FOLDER,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.splitlines() == [f'image = "{registry}/pipeline@{digest}"']
    assert [line.split()[0] for line in calls.read_text().splitlines()] == [
        *("info", "build", "tag", "push", "image")
    ]
    terraform = (PROJECT_FOLDER / "terraform/variables_unattended.tf").read_text(encoding="utf-8")
    pattern = re.search(r'can\(regex\("(.*@sha256.*)", var\.image', terraform)
    assert pattern
    assert re.fullmatch(pattern[1], f"{registry}/pipeline@{digest}")


# what Terraform answers on stdout, with exit code 0, before the first apply
NO_OUTPUTS = """Warning: No outputs found
defined in your configuration with the `output` keyword"""


@pytest.mark.parametrize("terraform", [f"cat <<'END'\n{NO_OUTPUTS}\nEND", "exit 1"])
def test_make_push_without_a_registry_says_what_to_do(tmp_path: Path, terraform: str) -> None:
    program = tmp_path / "terraform"
    program.write_text(f"#!/bin/sh\n{terraform}\n")
    program.chmod(0o755)
    answer = subprocess.run(
        ["make", "--no-print-directory", "push"],
        cwd=PROJECT_FOLDER,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    said = "There is no registry yet: run 'terraform -chdir=terraform apply'"
    assert answer.stdout.startswith(said)


NEED_DOCKER = ("run", "build", "image", "push")
# what a machine lacks, and the sentence that begins alike on Windows
LACKING = {
    "docker": "Docker is not installed: install ",
    "daemon": "Docker is not running: start ",
    ".env": "The file .env is missing: restore it with 'git checkout -- .env' and ",
}


@pytest.mark.parametrize(
    ("target", "lacking"),
    [
        ("run", ".env"),
        *((target, lacking) for lacking in ("docker", "daemon") for target in NEED_DOCKER),
    ],
)
def test_make_says_what_is_lacking_before_it_builds(
    tmp_path: Path, target: str, lacking: str
) -> None:
    sentence = LACKING[lacking]
    assert sentence in BATCH_FILE.read_text(encoding="ascii")
    shutil.copy(PROJECT_FOLDER / "Makefile", tmp_path)
    docker, calls = tmp_path / "docker", tmp_path / "calls"
    if lacking != "docker":
        code = 1 if lacking == "daemon" else 0
        docker.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexit {code}\n')
        docker.chmod(0o755)
    make = shutil.which("make")
    assert make
    answer = subprocess.run(
        [make, "--no-print-directory", target, "REGISTRY=host/project/repository"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    [said] = answer.stdout.splitlines()
    assert said.startswith(sentence)
    assert not calls.exists() or calls.read_text() == "info\n"


def banner(project_id: str) -> str:
    """Return what a shell in the container shows first."""
    answer = subprocess.run(
        ["bash", BANNER],
        env={"PATH": os.environ["PATH"], "GCP_PROJECT_ID": project_id},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stderr == ""
    return answer.stdout


def test_banner_sends_a_newcomer_to_the_demo() -> None:
    assert banner("your-project-id").startswith("Next step: make demo\n")


def test_banner_shows_who_has_a_project_the_commands_of_the_guide() -> None:
    lines = [line for line in banner("my-project").splitlines() if line.startswith(" ")]
    shown = [command.strip() for line in lines for command in line.split(";")]
    guide = (PROJECT_FOLDER / "README.md").read_text(encoding="utf-8")
    steps = guide.partition("### Step 4")[2].partition("### Step 9")[0]
    blocks = re.findall(r"^```bash\n(.*?)^```", steps, re.M | re.S)
    assert shown == [line for block in blocks for line in block.splitlines()]


def test_the_readme_shows_the_banner_as_it_is() -> None:
    readme = (PROJECT_FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"```text\n{banner('my-shop-4711')}```\n" in readme


@pytest.mark.parametrize("project_id", ["your-project-id", "my-project"])
def test_banner_names_real_commands(project_id: str) -> None:
    text = banner(project_id)
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))
    assert set(re.findall(r"make ([a-z-]+)", text)) <= targets
    for paths in re.findall(r"python (\S+)|cd (\w+)", text):
        assert (PROJECT_FOLDER / "".join(paths)).exists()
    for path in re.findall(r"-var-file=(\S+)", text):
        assert (PROJECT_FOLDER / "terraform" / path).is_file()


def windows_path(path: Path) -> str:
    """Return the path by which a program under wine knows `path`."""
    return "Z:" + str(path).replace("/", "\\")


@pytest.fixture
def wine(tmp_path: Path) -> dict[str, str]:
    """A Windows with a docker.exe that records its calls and ends with $DOCKER_RC_<COMMAND>."""
    if not Path("/usr/lib/wine/wine64").exists():
        pytest.skip("wine64 is not installed: apt-get install --no-install-recommends wine64")
    launcher = next(TOOLS.parent.glob("lib/*/site-packages/pip/_vendor/distlib/t64.exe"))
    record = tmp_path / "record.bat"
    record.write_bytes(
        b'@echo off\r\necho %* >> "%DOCKER_LOG%"\r\n'
        b"if defined DOCKER_RC_%2 call exit %%DOCKER_RC_%2%%\r\nexit 0\r\n"
    )
    # pip's launcher starts what its shebang line names and hands its arguments on
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as empty:
        empty.writestr("__main__.py", "")
    shebang = rf"#!C:\windows\system32\cmd.exe /c {windows_path(record)}".encode() + b"\r\n"
    program = tmp_path / "bin" / "docker.exe"
    program.parent.mkdir()
    program.write_bytes(launcher.read_bytes() + shebang + archive.getvalue())
    return {
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "WINEPREFIX": str(tmp_path / "prefix"),
        "WINEARCH": "win64",
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=",  # no questions about Mono and Gecko
        "WINESERVER": "/usr/lib/wine/wineserver64",
        "WINEPATH": windows_path(program.parent),
        "DOCKER_LOG": windows_path(tmp_path / "calls"),
    }


@pytest.mark.slow
def test_batch_file_ends_each_branch_with_a_sentence_and_its_code(
    wine: dict[str, str], tmp_path: Path
) -> None:
    project = tmp_path / "my project"
    project.mkdir()
    shutil.copy(BATCH_FILE, project)
    calls = tmp_path / "calls"

    def start(**environment: str) -> tuple[int, str, list[str]]:
        """Run the batch file; return its code, its first line and the calls of docker."""
        calls.write_text("")
        answer = subprocess.run(
            ["/usr/lib/wine/wine64", "cmd", "/c", r".\Start-project.bat"],
            cwd=project,
            env={**wine, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ("Press any key" in answer.stdout) == (answer.returncode != 0)
        recorded = re.findall(r'docker\.exe" (\S+)', calls.read_text())
        return answer.returncode, answer.stdout.partition("\n")[0], recorded

    checks = ["--version", "info"]
    code, sentence, made = start(WINEPATH=windows_path(tmp_path))
    assert (code, sentence[:25], made) == (1, "Docker is not installed: ", [])
    code, sentence, made = start(DOCKER_RC_info="1")
    assert (code, sentence[:23], made) == (1, "Docker is not running: ", checks)
    code, sentence, made = start()
    assert (code, sentence[:26], made) == (1, "The file .env is missing: ", checks)

    (project / ".env").touch()
    code, sentence, made = start(DOCKER_RC_build="1")
    assert (code, sentence[:29], made) == (1, "The image could not be built:", [*checks, "build"])
    code, sentence, made = start(DOCKER_RC_run="7")
    assert (code, sentence) == (7, "The container ended with exit code 7.")
    assert start() == (0, "", [*checks, "build", "run"])
    source = f'"type=bind,source={windows_path(project)},target=/app"'
    assert source in calls.read_text()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with things in it that belong into no image."""
    copy = tmp_path_factory.mktemp("docker") / "my project"
    left_out = (".git", ".venv", ".*_cache", ".local_gcp", ".terraform", "target", "logs")
    left_out += ("credentials", "state", "events", "raw", "report")
    shutil.copytree(PROJECT_FOLDER, copy, ignore=shutil.ignore_patterns(*left_out))
    for planted in PLANTED:
        (copy / planted).parent.mkdir(exist_ok=True)
        (copy / planted).write_text(f"PLANTED={NOT_FOR_THE_IMAGE}\n")
    (copy / "events").mkdir()
    return copy


@pytest.fixture(scope="module")
def image(project: Path) -> Iterator[str]:
    """The image, built by `make build` from the copy of the project, under a name of its own."""
    if not shutil.which("docker"):
        pytest.skip("docker is not installed")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker daemon answers")
    name = f"{IMAGE}-test"
    build = ["make", "build", f"IMAGE={name}"]
    subprocess.run(build, cwd=project, check=True)
    first = image_id(name)
    subprocess.run(build, cwd=project, check=True)
    assert image_id(name) == first, "nothing changed, and yet another image was built"
    yield name
    subprocess.run(["docker", "image", "rm", "--force", name], capture_output=True, check=True)


def image_id(name: str) -> str:
    """Return the id of the image, a hash of what is in it."""
    inspect = ["docker", "image", "inspect", "--format", "{{.Id}}", name]
    return subprocess.run(inspect, capture_output=True, text=True, check=True).stdout


def run_in_container(project: Path, image: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run a bash command as `make run` would, but without a terminal and as USER_ID."""
    _, words = docker_commands(make_dry_run("run", project))
    words.remove("-it")
    words[words.index("--user") + 1] = f"{USER_ID}:{USER_ID}"
    words[-1:] = [image, "bash", "-c", command]
    return subprocess.run(words, cwd=project, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_image_holds_the_tools_and_nothing_of_the_host(image: str) -> None:
    command = (
        "terraform version -json && python --version && dbt --version && java --version"
        # whatever is newer, nothing has to be installed
        " && pip check && touch requirements*.txt && make setup && ls -a"
        f" && ! grep --recursive --files-with-matches {NOT_FOR_THE_IMAGE} /app /home /tmp"
    )
    run = ["docker", "run", "--rm", "--network=none", image, "bash", "-c", command]
    answer = subprocess.run(run, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert f'"terraform_version": "{image_version("TERRAFORM")}"' in answer.stdout
    assert f"Python {image_version('PYTHON')}." in answer.stdout
    assert "No broken requirements found." in answer.stdout
    assert ".env" not in answer.stdout.split()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_container_runs_the_demo_as_the_hosts_user(project: Path, image: str) -> None:
    if os.getuid() == 0:
        for path in [project, *project.rglob("*")]:
            os.chown(path, USER_ID, USER_ID)
    answer = run_in_container(project, image, "touch credentials/written-by-the-container")
    assert "Read-only file system" in answer.stderr
    key = run_in_container(project, image, "bash -i -c 'echo $GOOGLE_APPLICATION_CREDENTIALS'")
    assert key.stdout.splitlines()[-1] == "/app/credentials/gcp-key.json"
    answer = run_in_container(project, image, f"test $PLANTED = {NOT_FOR_THE_IMAGE} && make demo")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert {path.lstat().st_uid for path in project.rglob("*")} == {USER_ID}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_runtime_image_has_what_the_stages_need_and_no_more(project: Path) -> None:
    if not shutil.which("docker"):
        pytest.skip("docker is not installed")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker daemon answers")
    name = f"{IMAGE}-test"
    subprocess.run(["make", "image", f"IMAGE={name}"], cwd=project, check=True)
    command = (
        "id -u && dbt --version && python batch_ingestion.py --help > /dev/null"
        " && python kpi_report.py --help > /dev/null && mkdir raw events && touch raw/x events/x"
        " && python near_realtime_ingestion_2.py --help > /dev/null"
        " && python -c 'import ingestion.batch.bronze, ingestion.carts.publisher, reporting.output'"
        " && ! which java terraform make uv pip"
        f" && ! grep --recursive --files-with-matches {NOT_FOR_THE_IMAGE} /app /home /tmp"
    )
    run = ["docker", "run", "--rm", f"{name}-runtime", "sh", "-c", command]
    answer = subprocess.run(run, capture_output=True, text=True, check=False)
    remove = ["docker", "image", "rm", "--force", f"{name}-runtime"]
    subprocess.run(remove, capture_output=True, check=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert answer.stdout.splitlines()[0] == "1000"
