"""Objects below one prefix of a bucket: written once and never changed, every call bounded in time.

The name of an object is never used twice, so what lies under a name is whole and for ever what
was written there first. The one exception is an object given to `replace`, which is exchanged
only by whoever has seen the generation that lies there.

Google's client waits for minutes where nothing answers. Here each attempt is given
`Patience.seconds`, the attempts together as long again, and neither more than what is left once
a signal has asked to end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import google.auth.exceptions
import google_crc32c
import msgspec
from google.api_core import exceptions
from google.cloud.storage import Blob, Bucket
from google.cloud.storage.retry import DEFAULT_RETRY

from ingestion.bucket_errors import BucketRefusedError, BucketUnreachableError, ReplacedError
from ingestion.checksum import crc32c_of, crc32c_of_file, spelled_crc32c
from ingestion.google_outages import BYTES_PER_SECOND, OUTAGES

# a larger object goes up in pieces, a request each, with which no precondition is given
SINGLE_REQUEST_BYTES = 8 << 20
PIECE_BYTES = 16 << 20
# what is left of a time that has run out: the client takes no 0
LEAST_SECONDS = 0.05


class StoredObject(msgspec.Struct, frozen=True):
    """An object as it was written: its name below the prefix, its size and its checksum."""

    name: str
    size: int
    crc32c: str


@dataclass(frozen=True)
class Patience:
    """How long to wait: `seconds` for an answer, `left` in all, which a signal makes finite."""

    seconds: float
    left: Callable[[], float] = lambda: math.inf

    def bounds(self, size: int = 0) -> dict[str, Any]:
        """Return the bounds of a call that moves `size` bytes in all.

        The answer to the last piece may take as long as all of them: the object is put together.
        """
        left = max(LEAST_SECONDS, self.left())
        seconds = min(self.seconds + size / BYTES_PER_SECOND, left)
        retry = DEFAULT_RETRY.with_delay(initial=0.1, maximum=1.0).with_timeout(seconds)
        return {"retry": retry.with_predicate(self._may_try_again), "timeout": seconds}

    def _may_try_again(self, error: Exception) -> bool:
        # once a signal has come, every call has one attempt, the one in hand included
        return math.isinf(self.left()) and bool(DEFAULT_RETRY._predicate(error))


@contextmanager
def reaching(address: str, bucket_name: str, flag: str) -> Iterator[None]:
    """Turn the exceptions of Google's client into ours; `flag` is what names the bucket."""
    try:
        yield
    except OUTAGES as error:
        cause = getattr(error, "cause", None) or error
        raise BucketUnreachableError(
            f"{address} could not be reached ({type(cause).__name__})"
        ) from None
    except exceptions.NotFound:
        raise BucketRefusedError(
            f"The bucket {bucket_name} does not exist: make it with "
            f"'terraform -chdir=terraform apply', or name another with {flag}."
        ) from None
    except exceptions.Forbidden as error:
        raise BucketRefusedError(
            f"{address} was refused to these credentials: grant roles/storage.objectUser on the "
            f"bucket ({error.message})."
        ) from None
    except exceptions.GoogleAPICallError as error:
        raise BucketRefusedError(f"{address} was refused: {error.message}") from None
    except google.auth.exceptions.GoogleAuthError as error:
        raise BucketRefusedError(
            f"{address} was not asked, the credentials fail: {error}"
        ) from None


class ObjectFolder:
    """The objects of `bucket` whose names begin with `prefix`; other names are relative to it."""

    def __init__(self, bucket: Bucket, prefix: str, patience: Patience) -> None:
        """Name a folder; nothing is asked yet."""
        self.url = f"gs://{bucket.name}/{prefix}"
        self._bucket = bucket
        self._prefix = prefix
        self._patience = patience
        self._reaching = partial(reaching, self.url, bucket.name, "--state-bucket")
        # called between two pieces of a large object, and may end its way
        self.between_pieces: Callable[[], None] = lambda: None

    def read(self, name: str) -> tuple[bytes, int] | None:
        """Return the content and the generation of an object, or None where there is none."""
        blob = self._blob(name)
        with self._reaching():
            try:
                content = blob.download_as_bytes(checksum="crc32c", **self._patience.bounds())
            except exceptions.NotFound:
                return None
        # both are of one answer, so they belong together
        return content, int(blob.generation)

    def replace(self, name: str, content: bytes, generation: int) -> int:
        """Put `content` in the place of `generation`, 0 for none, and return its generation.

        Raises ReplacedError where another generation lies there, or something that may not be
        overwritten; then, as after a lost answer, only reading tells whose content it is.
        """
        blob = self._blob(name)
        with self._reaching():
            try:
                self._upload(blob, content, generation)
            except (exceptions.PreconditionFailed, exceptions.Forbidden) as error:
                # who may create and not overwrite gets 403 for an object that is there
                raise ReplacedError(error.message) from error
        return int(blob.generation)

    def write_once(self, name: str, content: bytes) -> StoredObject:
        """Create an object; one of the same content that is there already is ours."""
        written = StoredObject(name, len(content), crc32c_of([content]))
        blob = self._blob(name)
        with self._reaching():
            try:
                # what goes up in pieces is checked for after it, and has a name of its own
                is_small = len(content) <= SINGLE_REQUEST_BYTES
                self._upload(blob, content, 0 if is_small else None)
            except (exceptions.PreconditionFailed, exceptions.Forbidden) as error:
                try:
                    blob.reload(**self._patience.bounds())
                except exceptions.NotFound:
                    raise BucketRefusedError(f"{self.url} was refused: {error.message}") from None
        self._check(blob, written)
        return written

    def upload_once(self, name: str, file: Path) -> StoredObject:
        """Create an object from a file of any size, under a name that nobody else can think of."""
        with file.open("rb") as content:
            size = file.stat().st_size
            if size <= SINGLE_REQUEST_BYTES:
                return self.write_once(name, content.read())
            blob = self._blob(name, chunk_size=PIECE_BYTES)
            passed = _Passed(content, self._go_on)
            with self._reaching():
                blob.upload_from_file(
                    passed, size=size, checksum="crc32c", **self._patience.bounds(size)
                )
                blob.reload(**self._patience.bounds())
        written = StoredObject(name, size, crc32c_of_file(file))
        self._check(blob, written)
        return written

    def download(self, stored: StoredObject, file: Path) -> None:
        """Write an object into `file`; FileNotFoundError where it has gone or is another."""
        file.parent.mkdir(parents=True, exist_ok=True)
        blob = self._blob(stored.name)
        with file.open("wb") as content, self._reaching():
            passed = _Passed(content, self._go_on)
            try:
                blob.download_to_file(
                    passed, checksum="crc32c", **self._patience.bounds(stored.size)
                )
                if (passed.size, passed.crc32c) == (stored.size, stored.crc32c):
                    return
                blob.reload(**self._patience.bounds())
            except exceptions.NotFound:
                raise FileNotFoundError(f"{self.url}{stored.name} has gone") from None
        if (blob.size, blob.crc32c) != (stored.size, stored.crc32c):
            raise FileNotFoundError(f"{self.url}{stored.name} is not what was written there")
        raise BucketUnreachableError(f"{self.url}{stored.name} did not arrive whole")

    def names(self, folder: str, start: str = "") -> list[str]:
        """Return the names that begin with `folder`, in order, from `start` on."""
        with self._reaching():
            found = self._bucket.list_blobs(
                prefix=self._prefix + folder,
                start_offset=self._prefix + start if start else None,
                fields="items(name),nextPageToken",
                **self._patience.bounds(),
            )
            names = sorted(blob.name.removeprefix(self._prefix) for blob in found)
        # an emulator may not know start_offset
        return [name for name in names if name >= start]

    def delete(self, name: str) -> None:
        """Delete an object; none there is as good."""
        with self._reaching():
            try:
                self._blob(name).delete(**self._patience.bounds())
            except exceptions.NotFound:
                return

    def _upload(self, blob: Blob, content: bytes, generation: int | None) -> None:
        blob.upload_from_string(
            content,
            content_type="application/json",
            if_generation_match=generation,
            checksum="crc32c",
            **self._patience.bounds(len(content)),
        )

    def _go_on(self) -> None:
        if self._patience.left() <= 0:
            raise BucketUnreachableError("A signal came before an object had gone")
        self.between_pieces()

    def _check(self, blob: Blob, written: StoredObject) -> None:
        if (blob.size, blob.crc32c) != (written.size, written.crc32c):
            raise BucketRefusedError(f"{self.url}{written.name} holds something else")

    def _blob(self, name: str, **options: Any) -> Blob:
        return self._bucket.blob(self._prefix + name, **options)


class _Passed:
    """A file on its way up or down, which `go_on` may end between two pieces."""

    def __init__(self, file: BinaryIO, go_on: Callable[[], None]) -> None:
        self.size = 0
        self._crc = 0
        self._file = file
        self._go_on = go_on

    @property
    def crc32c(self) -> str:
        return spelled_crc32c(self._crc)

    def read(self, size: int = -1) -> bytes:
        self._go_on()
        return self._file.read(size)

    def write(self, piece: bytes) -> int:
        self._go_on()
        self.size += len(piece)
        self._crc = google_crc32c.extend(self._crc, piece)
        return self._file.write(piece)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)
