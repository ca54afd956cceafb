"""What every test may ask for: a Fake Store of its own, and one local GCP per session."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture.providers import HypothesisProvider
from hypothesis.internal.constants_ast import Constants

from ingestion.durable_files import FAILPOINTS_ARMED
from local_gcp.environment import environment_of, proxy_exemptions
from local_gcp.fake_store import FakeStore, running_fake_store
from local_gcp.servers import PORTS, LocalGcp
from tests.support.local_gcp_process import Started
from tests.support.terraform_cli import Terraform, terraform_with_a_provider

# for the crash tests, whose processes inherit it
os.environ.update([FAILPOINTS_ARMED])
# what this machine is set up for, its proxy included, is nothing to the tests
for name in environment_of(Path(), dict.fromkeys(PORTS, 0)):
    os.environ.pop(name, None)
os.environ.update(proxy_exemptions(os.environ))
# else each of the processes that they start compiles the project anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# the same examples in every run, however long a busy machine takes for them
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("same")
# Hypothesis tries the numbers that stand in the project's modules, those imported so far: which
# they are depends on the tests that this worker was given before
HypothesisProvider._local_constants = Constants()


# they share the thirty days of `history`, which take longer to make than all else
NAMES = ("data_contracts", "googlesql", "history", "metrics", "project")
ONE_AFTER_ANOTHER = tuple(f"ey_test_tech/test_{name}.py" for name in NAMES)
LONG_FIXTURES = {"history", "make_warehouse", "shop"}


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Begin with what takes long, so that the workers end together: dbt, then whole stages."""
    items.sort(
        key=lambda item: (
            not LONG_FIXTURES.intersection(item.fixturenames),
            item.path.parent.name != "tests",
        )
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each file to one worker, and the files that share `history` to the same."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "history" if file.endswith(ONE_AFTER_ANOTHER) else file

    return Scheduling(config, log)


def pytest_configure() -> None:
    """Hear Ctrl-C again: a shell script starts what it puts into the background deaf to it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _environment_of_its_own() -> Iterator[None]:
    """Undo what a script that runs in this process takes from .env: no test depends on another."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def fake_store() -> Iterator[FakeStore]:
    """A fresh Fake Store with the sample data, in a thread: fast, and no Google Cloud needed."""
    with running_fake_store() as store:
        yield store


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalGcp]:
    """Cloud Storage alone, as the local GCP has it: it starts in half a second."""
    alone = LocalGcp(tmp_path_factory.mktemp("storage"))
    try:
        alone.start("strict_gcs")
        alone.start("gcs")
        yield alone
    finally:
        alone.__exit__()


@pytest.fixture(scope="session")
def gcp(storage: LocalGcp) -> LocalGcp:
    """The session's Cloud Storage and BigQuery; each test uses a bucket, a dataset of its own."""
    storage.start("bigquery")
    return storage


@pytest.fixture(scope="session")
def pubsub_emulator(gcp: LocalGcp) -> None:
    """Pub/Sub beside them; each test uses a topic of its own."""
    gcp.start("pubsub")


@pytest.fixture(scope="module")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terraform]:
    """A copy of terraform/ of the module's own, with a provider."""
    with terraform_with_a_provider(tmp_path_factory.mktemp("terraform") / "copy") as found:
        yield found


@pytest.fixture(autouse=True)
def _environment_of_gcp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the local GCP's environment for a test that uses it, and for no other."""
    if "gcp" in request.fixturenames:
        for name, value in request.getfixturevalue("gcp").environment.items():
            monkeypatch.setenv(name, value)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Start python -m local_gcp with arguments and environment."""
    if not Path("/proc").is_dir():
        pytest.skip("/proc is missing: descendants cannot be found on this system")
    all_started: list[Started] = []

    def launch(*arguments: str, **environment: str) -> Started:
        all_started.append(Started(tmp_path, *arguments, **environment))
        return all_started[-1]

    yield launch
    for one in all_started:
        one.close()
