"""Ask the Fake Store API over HTTP: one GET, with bounded retries and bounded time.

`fetch` hands the answer to a function of the caller's, in each attempt from the start, so that a
body that stops halfway leaves nothing behind in the result.

    def read(answer: Answer) -> list[Any]:
        windows = check_records(split_records(answer.blocks()), record_type)
        return [record for window in windows for record in window.records]

    records = fetch(open_session(), "https://fakestoreapi.com/carts", read)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import tenacity
import urllib3

from ingestion.json_array import WINDOW_BYTES, BadAnswer

USER_AGENT = "fake-store-pipeline/1.0 (python-requests)"

ATTEMPTS = 3
# seconds to connect, and of silence before an answer counts as lost: the API's handlers that
# fail never answer
TIMEOUT = (5.0, 15.0)
# seconds for one whole body, so that one that drips for ever ends too
TOTAL_SECONDS = 300.0
BACKOFF = tenacity.wait_exponential_jitter(initial=0.5, max=8.0, jitter=0.5)
# a server may ask for any pause: a longer one is cut to this many seconds
MAX_RETRY_AFTER = 30.0
# 408 and 429 are about the moment; every other 4xx stays what it is
RETRIED_STATUSES = frozenset({408, 429, *range(500, 600)})

T = TypeVar("T")


class FetchFailed(Exception):  # noqa: N818
    """The source could not be reached or answered an error, after the bounded retries.

    The message is one sentence. `status` is the HTTP status, if there was one; `transient` says
    that another attempt may succeed, and `retry_after` in how many seconds the server wants it.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        transient: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.transient = transient
        self.retry_after = retry_after


@dataclass(frozen=True)
class Answer:
    """One answer of the source: 200 with a body that can be read once, or 304 without one."""

    not_modified: bool
    etag: str | None
    received_at: datetime
    _response: requests.Response
    _seconds: float

    def blocks(self) -> Iterator[bytes]:
        """Yield the body, decompressed; raise FetchFailed where it stops or takes too long."""
        raw: urllib3.HTTPResponse = self._response.raw
        deadline = time.monotonic() + self._seconds
        # the socket's own timeout begins anew with each byte: only the outside ends a drip
        watchdog = threading.Timer(self._seconds, _stop_reading, (raw,))
        watchdog.daemon = True
        watchdog.start()
        try:
            yield from raw.stream(WINDOW_BYTES, decode_content=True)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if time.monotonic() < deadline:
                message = f"stopped in the middle of its answer ({type(error).__name__})"
                raise FetchFailed(message, status=200, transient=True) from None
        finally:
            watchdog.cancel()
        if time.monotonic() >= deadline:
            message = f"did not end its answer within {self._seconds:g} seconds"
            raise FetchFailed(message, status=200, transient=True)


def open_session(user_agent: str = USER_AGENT) -> requests.Session:
    """Return a session that says who asks; it never retries, that is for `fetch`."""
    session = requests.Session()
    session.headers.update({"User-Agent": user_agent, "Accept": "application/json"})
    return session


def fetch(
    session: requests.Session,
    url: str,
    read: Callable[[Answer], T],
    *,
    etag: str | None = None,
    attempts: int = ATTEMPTS,
    timeout: tuple[float, float] = TIMEOUT,
    total_seconds: float = TOTAL_SECONDS,
    backoff: Callable[[tenacity.RetryCallState], float] = BACKOFF,
    sleep: Callable[[float], Any] = time.sleep,
) -> T:
    """GET `url` and return what `read` makes of the answer.

    With `etag` the request is conditional and the answer may be `not_modified`. What may pass
    (no connection, silence, 5xx, 429, a body cut short) is tried again after exponential backoff
    with jitter, or after the server's Retry-After; nothing else is. Each attempt calls `read`
    anew. Raises FetchFailed, or BadAnswer where the source answered something that is no data.
    """

    def attempt() -> T:
        with _get(session, url, etag, timeout) as response:
            return read(_answer(response, etag, total_seconds))

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked: float | None = getattr(error, "retry_after", None)
        return backoff(state) if asked is None else min(asked, MAX_RETRY_AFTER)

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(attempts),
        wait=wait,
        retry=tenacity.retry_if_exception(lambda error: getattr(error, "transient", False)),
        sleep=sleep,
        reraise=True,
    )
    try:
        return retrying(attempt)
    except (FetchFailed, BadAnswer) as error:
        tries = f" ({attempts} attempts)" if error.transient and attempts > 1 else ""
        error.args = (f"{public_url(url)} {error}{tries}.",)
        raise


def public_url(url: str) -> str:
    """Return `url` without the user name and password that it may hold."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _get(
    session: requests.Session, url: str, etag: str | None, timeout: tuple[float, float]
) -> requests.Response:
    headers = {"If-None-Match": etag} if etag else {}
    try:
        return session.get(url, headers=headers, timeout=timeout, stream=True)
    except requests.Timeout:
        message = f"did not answer within {timeout[1]:g} seconds"
        raise FetchFailed(message, transient=True) from None
    except requests.ConnectionError as error:
        message = f"could not be reached: {_root_cause(error)}"
        raise FetchFailed(message, transient=True) from None
    except requests.RequestException as error:
        raise FetchFailed(f"could not be asked: {type(error).__name__}") from None


def _answer(response: requests.Response, etag: str | None, total_seconds: float) -> Answer:
    now = datetime.now(UTC)
    status = response.status_code
    if status == 200 or (status == 304 and etag):
        return Answer(status == 304, response.headers.get("ETag"), now, response, total_seconds)
    if status == 403:
        raise FetchFailed(
            "answered 403: it refuses the addresses of data centres (cloud machines, CI runners) "
            "whatever the client. Run this from another network, or name a copy of the API with "
            "--api-url, such as the one that `python -m local_gcp up` starts",
            status=status,
        )
    if status < 400:
        raise BadAnswer(f"answered {status} instead of a list of records")
    raise FetchFailed(
        f"answered {status} {response.reason or ''}".rstrip(),
        status=status,
        transient=status in RETRIED_STATUSES,
        retry_after=_retry_after(response.headers.get("Retry-After"), now),
    )


def _retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for, given as seconds or as a date."""
    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())


def _root_cause(error: BaseException) -> str:
    """Return the operating system's words, without the address that requests puts into its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _stop_reading(raw: urllib3.HTTPResponse) -> None:
    # the answer may have ended meanwhile
    with suppress(OSError, RuntimeError, ValueError):
        raw.shutdown()
