"""Names that Google would refuse are refused here, in one sentence, by every script."""

from __future__ import annotations

import importlib

import pytest

from ingestion.google_names import FORMS, require_name
from ingestion.settings import ConfigurationError

PROJECT = ["--project-id", "my-shop-4711"]
BUCKET = ["--bucket-name", "my-shop-4711-raw"]

GOOD = {
    "project id": ["my-shop-4711", "local-project", "a12345", "a" * 30, "example.com:my-project"],
    "name of a bucket": ["abc", "a" * 63, "my_shop.raw-1", "www.example.com", f"{'a' * 63}.com"],
    "name of a dataset": ["bronze_data", "Ana_1", "_", "7", "a" * 1024],
    "name of a Pub/Sub topic": ["carts-events", "T.1", "a-_.~+%", "a" * 255],
    "region": ["europe-west9", "EU", "us", "northamerica-northeast1", "azure-eastus2"],
}
BAD = {
    "project id": [
        *("Fake Store", "my-project # of mine", "123456789012", "a2345", "a" * 31),
        *("a12345-", "a_12345", "projects/my-shop"),
    ],
    "name of a bucket": [
        *("gs://raw", "Raw", "ab", "a" * 64, f"{'a' * 64}.com", "goog-raw"),
        *("192.168.5.4", "raw-", ".raw", "a..b", "raw/x", "a." * 111 + "aa"),
    ],
    "name of a dataset": ["my-shop.bronze", "bronze-data", "bronze data", "a" * 1025, "données"],
    "name of a Pub/Sub topic": [
        *("no/topic", "projects/p/topics/t", "ab", "a" * 256, "goog-t"),
        *("1st", "carts events", ""),
    ],
    "region": ["europe-west9-a", "europe west9", "europe_west9", "9"],
}


@pytest.mark.parametrize("kind", FORMS)
def test_names_that_google_takes_are_taken_and_no_others(kind: str) -> None:
    for name in GOOD[kind]:
        assert require_name(kind, name, flag="--flag") == name
    for name in [*BAD[kind], f"{GOOD[kind][0]}\n"]:
        with pytest.raises(ConfigurationError, match=rf"is no {kind}: give --flag; it "):
            require_name(kind, name, flag="--flag")


@pytest.mark.parametrize(
    ("script", "given", "wrong"),
    [
        ("start_apis_GCP", [], "--project-id"),
        ("batch_ingestion", [], "--project-id"),
        ("batch_ingestion", PROJECT, "--bucket-name"),
        ("batch_ingestion", [*PROJECT, *BUCKET], "--dataset-id"),
        ("batch_ingestion", [*PROJECT, *BUCKET], "--region"),
        ("near_realtime_ingestion_2", ["--once"], "--project-id"),
        ("near_realtime_ingestion_2", ["--once", *PROJECT], "--topic"),
        ("near_realtime_ingestion_2", ["--once", *PROJECT], "--state-bucket"),
        ("kpi_report", [], "--project-id"),
        ("kpi_report", PROJECT, "--dataset-id"),
    ],
)
def test_a_script_names_flag_and_value_and_asks_nobody(
    script: str,
    given: list[str],
    wrong: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A request would need credentials, which are looked for after the names are checked."""
    assert importlib.import_module(script).main([*given, wrong, "no/Name"]) == 2
    said = caplog.text or capsys.readouterr().err
    assert "'no/Name' is no " in said
    assert f": give {wrong}" in said


def test_the_report_refuses_a_bucket_and_a_region_before_it_reads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = importlib.import_module("kpi_report")
    assert report.main([*PROJECT, "--output", "gs://My Bucket/index.html"]) == 2
    assert "'My Bucket' is no name of a bucket: give --output; " in capsys.readouterr().err
    monkeypatch.setenv("GCP_REGION", "Paris, France")
    assert report.main(PROJECT) == 2
    said = capsys.readouterr().err
    assert said.startswith("'Paris, France' is no region: set GCP_REGION in .env; it is one such")
