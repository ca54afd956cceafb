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


def test_an_id_that_begins_as_the_placeholder_does_is_none() -> None:
    assert settings.require("your-shop-4711", "GCP_PROJECT_ID", "--project-id") == "your-shop-4711"


def test_a_dotenv_with_a_byte_order_mark_is_read(env_file: Path) -> None:
    env_file.write_text("GCP_PROJECT_ID=marked\n", encoding="utf-8-sig")
    settings.load_environment(env_file)
    assert settings.os.environ["GCP_PROJECT_ID"] == "marked"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_a_dotenv_in_another_encoding_is_named(env_file: Path, encoding: str) -> None:
    env_file.write_text("# clé\nGCP_PROJECT_ID=other\n", encoding=encoding)
    with pytest.raises(settings.ConfigurationError, match=rf"{env_file} is not UTF-8"):
        settings.load_environment(env_file)


def test_a_dotenv_that_is_no_file_is_named_and_a_missing_one_is_none(env_file: Path) -> None:
    env_file.unlink()
    settings.load_environment(env_file)
    env_file.mkdir()
    with pytest.raises(settings.ConfigurationError, match=rf"{env_file} cannot be read"):
        settings.load_environment(env_file)


@pytest.mark.parametrize("value", ['"my-project"', "'my-project'", " my-project", "my-project "])
def test_quotes_and_blanks_around_a_value_are_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("GCP_PROJECT_ID", value)
    with pytest.raises(settings.ConfigurationError, match=r"GCP_PROJECT_ID .*quotes or blanks"):
        settings.setting("GCP_PROJECT_ID")


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("PUBSUB_EMULATOR_HOST", "http://127.0.0.1:8085"),
        ("PUBSUB_EMULATOR_HOST", "127.0.0.1"),
        ("PUBSUB_EMULATOR_HOST", "127.0.0.1:80850"),
        ("PUBSUB_EMULATOR_HOST", "127.0.0.1:8085/v1"),
        ("STORAGE_EMULATOR_HOST", "127.0.0.1:4443"),
        ("BIGQUERY_EMULATOR_HOST", "localhost"),
        ("BIGQUERY_EMULATOR_HOST", "http://localhost:99999"),
    ],
)
def test_an_address_that_no_client_can_ask_names_its_variable(
    name: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, address)
    with pytest.raises(settings.ConfigurationError, match=rf"^{name} is '{address}', which "):
        settings.emulator(name)


@pytest.mark.parametrize("address", ["127.0.0.1:8085", "[::1]:8085", "pubsub.internal:80"])
def test_an_emulator_of_pubsub_is_a_host_and_a_port(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", address)
    assert settings.emulator("PUBSUB_EMULATOR_HOST") == address


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"sesame", "holds no JSON"),
        (b"\xff\xfe{", "holds no JSON"),
        (b'["sesame"]', "holds no JSON object"),
        (b'{"type": "service_account", "private_key": "sesame"}', "not a usable key"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_named_with_what_is_wrong(
    env_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
    sentence: str,
) -> None:
    key_file = tmp_path / "key.json"
    if content is not None:
        key_file.write_bytes(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key_file))
    with pytest.raises(settings.ConfigurationError, match=sentence) as refused:
        settings.credentials()
    assert str(key_file) in str(refused.value)
    assert "sesame" not in str(refused.value)
