"""Configuration: command line over environment over `.env` over default."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestion import settings
from ingestion.project import PROJECT_FOLDER


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GCP_PROJECT_ID", "BQ_DATASET", "GOOGLE_APPLICATION_CREDENTIALS"):
        # set first, so that what load_environment sets is undone after the test
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)
    monkeypatch.setattr(settings, "DEFAULT_KEY_FILE", tmp_path / "gcp-key.json")
    path = tmp_path / ".env"
    path.write_text("GCP_PROJECT_ID=from-file\nBQ_DATASET=\n")
    return path


def test_dotenv_lies_under_the_environment(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.load_environment(env_file)
    assert settings.os.environ["GCP_PROJECT_ID"] == "from-file"
    monkeypatch.setenv("GCP_PROJECT_ID", "from-environment")
    settings.load_environment(env_file)
    assert settings.os.environ["GCP_PROJECT_ID"] == "from-environment"


def test_a_placeholder_in_the_environment_gives_way_to_an_edited_dotenv(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GCP_PROJECT_ID", "your-project-id")
    settings.load_environment(env_file)
    assert settings.os.environ["GCP_PROJECT_ID"] == "from-file"


def test_an_empty_value_counts_as_unset(env_file: Path) -> None:
    settings.load_environment(env_file)
    assert "BQ_DATASET" not in settings.os.environ


def test_the_key_file_is_used_where_it_exists_only(env_file: Path) -> None:
    settings.load_environment(env_file)
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in settings.os.environ
    settings.DEFAULT_KEY_FILE.write_text("{}")
    settings.load_environment(env_file)
    assert settings.os.environ["GOOGLE_APPLICATION_CREDENTIALS"] == str(settings.DEFAULT_KEY_FILE)


def test_a_relative_key_file_is_found_from_any_working_directory(
    env_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "credentials/other.json")
    monkeypatch.chdir(tmp_path)
    settings.load_environment(env_file)
    expected = PROJECT_FOLDER / "credentials" / "other.json"
    assert settings.os.environ["GOOGLE_APPLICATION_CREDENTIALS"] == str(expected)


@pytest.mark.parametrize("value", [None, "", "your-project-id"])
def test_a_missing_value_or_a_placeholder_is_named_with_what_to_edit(value: str | None) -> None:
    with pytest.raises(settings.ConfigurationError, match=r"GCP_PROJECT_ID .*\.env"):
        settings.require(value, "GCP_PROJECT_ID", "--project-id")


def test_the_committed_dotenv_holds_placeholders_and_no_secret() -> None:
    text = (PROJECT_FOLDER / ".env").read_text()
    assert "GCP_PROJECT_ID=your-project-id" in text
    assert "GCS_BUCKET_NAME=your-" in text
    assert not any(word in text.lower() for word in ("private_key", "password", "token"))
