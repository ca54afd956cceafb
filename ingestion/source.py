"""Ask the Fake Store API over HTTP: one GET, with bounded retries and bounded time.

`fetch` hands the answer to a function of the caller's, in each attempt from the start, so that a
body that stops halfway leaves nothing behind in the result.

    def read(answer: Answer) -> list[Any]:
        windows = check_records(split_records(answer.blocks()), record_type)
        return [raw for window in windows for raw in window.raws]

    records = fetch(open_session(), "https://fakestoreapi.com/carts", read)
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import tenacity

from ingestion import exchange
from ingestion.exchange import Exchange, ExchangeFailed, FetchStopped
from ingestion.json_array import BadAnswer

USER_AGENT = "fake-store-pipeline/1.0 (python-requests)"

ATTEMPTS = 3
# seconds to connect, and of silence before an answer counts as lost: the API's handlers that
# fail never answer
TIMEOUT = (5.0, 15.0)
# seconds from the first connection to the last byte, so that one that drips for ever ends too
TOTAL_SECONDS = 300.0
BACKOFF = tenacity.wait_exponential_jitter(initial=0.5, max=8.0, jitter=0.5)
# a server may ask for any pause: a longer one is cut to this many seconds
MAX_RETRY_AFTER = 30.0
# bytes of one unpacked answer: a few kilobytes of gzip may become gigabytes
MAX_ANSWER_BYTES = 2 << 30
# 408 and 429 are about the moment; every other 4xx stays what it is
RETRIED_STATUSES = frozenset({408, 429, *range(500, 600)})

# RFC 9110, and no longer than what servers and proxies take as one header among others
_ETAG = re.compile(r'(?:W/)?"[!#-~]{0,256}"')

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
    _exchange: Exchange
    _max_bytes: int

    def blocks(self) -> Iterator[bytes]:
        """Yield the body, unpacked; raise FetchFailed where it stops or takes too long."""
        size = 0
        try:
            for block in self._exchange.blocks():
                size += len(block)
                if size > self._max_bytes:
                    limit = f"{self._max_bytes >> 20:,} MB"
                    raise BadAnswer(f"answered more than {limit}, unpacked: nothing of it is kept")
                yield block
        except ExchangeFailed as error:
            raise FetchFailed(str(error), status=200, transient=error.transient) from None


def open_session(user_agent: str = USER_AGENT) -> requests.Session:
    """Return a session that says who asks; it never retries, that is for `fetch`."""
    return exchange.open_session(user_agent)


def fetch(
    session: requests.Session,
    url: str,
    read: Callable[[Answer], T],
    *,
    etag: str | None = None,
    attempts: int = ATTEMPTS,
    timeout: tuple[float, float] = TIMEOUT,
    total_seconds: float = TOTAL_SECONDS,
    max_bytes: int = MAX_ANSWER_BYTES,
    backoff: Callable[[tenacity.RetryCallState], float] = BACKOFF,
    stopped: Callable[[], bool] = lambda: False,
    sleep: Callable[[float], Any] | None = None,
) -> T:
    """GET `url` and return what `read` makes of the answer.

    With `etag` the request is conditional and the answer may be `not_modified`; a condition that
    brings no answer is not put again. What may pass (no connection, silence, 5xx, 429, a body cut
    short) is tried again after exponential backoff with jitter, or after the server's Retry-After;
    nothing else is. Each attempt calls `read` anew, and has `total_seconds` from its first
    connection to its last byte. Raises FetchFailed, BadAnswer where the source answered something
    that is no data, or FetchStopped soon after `stopped` has become true.
    """
    conditions = iter([etag] if etag and _ETAG.fullmatch(etag) else [])

    def attempt() -> T:
        condition = next(conditions, None)
        headers = {"If-None-Match": condition} if condition else {}
        try:
            asked = Exchange(
                session,
                url,
                headers,
                timeout=timeout,
                total_seconds=total_seconds,
                stopped=stopped,
            )
            with closing(asked):
                return read(_answer(asked, condition, max_bytes))
        except ExchangeFailed as error:
            raise FetchFailed(str(error), transient=error.transient or bool(condition)) from None
        except FetchFailed as error:
            error.transient = error.transient or bool(condition)
            raise

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(attempts),
        wait=lambda state: _pause_before(state, backoff),
        retry=tenacity.retry_if_exception(lambda error: getattr(error, "transient", False)),
        sleep=sleep or (lambda seconds: _pause(seconds, stopped)),
        reraise=True,
    )
    try:
        return retrying(attempt)
    except (FetchFailed, BadAnswer) as error:
        tries = f" ({attempts} attempts)" if error.transient and attempts > 1 else ""
        error.args = (f"{public_url(url)} {error}{tries}.",)
        raise


def _pause_before(
    state: tenacity.RetryCallState, backoff: Callable[[tenacity.RetryCallState], float]
) -> float:
    """Return the seconds that the server asked for, cut to MAX_RETRY_AFTER, else of `backoff`."""
    error = state.outcome.exception() if state.outcome else None
    asked: float | None = getattr(error, "retry_after", None)
    return backoff(state) if asked is None else min(asked, MAX_RETRY_AFTER)


def public_url(url: str) -> str:
    """Return `url` without the user name and password that it may hold."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _pause(seconds: float, stopped: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not stopped() and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, exchange.WAIT_SECONDS))
    if stopped():
        raise FetchStopped


def _answer(asked: Exchange, condition: str | None, max_bytes: int) -> Answer:
    now = datetime.now(UTC)
    response = asked.response
    status = response.status_code
    if status == 200 or (status == 304 and condition):
        etag = response.headers.get("ETag", "")
        # one that cannot be sent back would stop every later request
        sendable = etag if _ETAG.fullmatch(etag) else None
        return Answer(status == 304, sendable, now, asked, max_bytes)
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
        f"answered {status} {response.reason or ''}".rstrip() + exchange.proxy_of(response.url),
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
        return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())
    except (ValueError, OverflowError):
        return None
