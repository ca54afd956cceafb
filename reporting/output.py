"""Where the page goes: a file, or an object in Cloud Storage where a container has no disk."""

from __future__ import annotations

from pathlib import Path

from ingestion import settings
from ingestion.durable_files import replace_file
from ingestion.google_names import require_name

UPLOAD_SECONDS = 60.0


class OutputError(Exception):
    """The file could not be written; the message is one sentence that says what to do."""


def check_output(output: str) -> None:
    """Raise ConfigurationError where `output` can be no file and no object."""
    if not output.startswith("gs://"):
        return
    bucket_name, _, object_name = output.removeprefix("gs://").partition("/")
    if not object_name:
        raise settings.ConfigurationError(
            f"'{output}' names no object: --output takes gs://BUCKET/OBJECT, or a file."
        )
    require_name("name of a bucket", bucket_name, flag="--output")


def write_page(page: str, output: str, project_id: str) -> str:
    """Write the page to a file or to gs://bucket/object, and return its address for a browser.

    Either is replaced whole; where that fails, the page before stays: OutputError for a file,
    BucketRefusedError or BucketUnreachableError for an object.
    """
    check_output(output)
    if output.startswith("gs://"):
        return _upload(page, output, project_id)
    file = Path(output)
    try:
        if file.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        replace_file(file, [page.encode()], "report")
    except OSError as error:
        raise OutputError(
            f"The report cannot be written to {output} ({error.strerror}): give another --output."
        ) from error
    return file.resolve().as_uri()


def _upload(page: str, output: str, project_id: str) -> str:
    from google.cloud.storage import Blob

    from ingestion.objects import Patience, reaching

    client = settings.storage_client(project_id)
    blob = Blob.from_uri(output, client=client)
    # a browser is to ask each time whether this is still the newest
    blob.cache_control = "no-cache"
    content = page.encode()
    with reaching(output, blob.bucket.name, "--output"):
        blob.upload_from_string(
            content,
            content_type="text/html; charset=utf-8",
            **Patience(UPLOAD_SECONDS).bounds(len(content)),
        )
    return f"https://storage.cloud.google.com/{blob.bucket.name}/{blob.name}"
