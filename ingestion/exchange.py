"""One GET over HTTP for which nobody waits longer than he wants to.

A thread of its own asks, and hands over what comes to the one who waits. So neither a name
server, nor a handshake, nor a header that drips can outlast the deadline, or hide a signal. Who
has waited enough shuts the connections down, which ends the thread.
"""

from __future__ import annotations

import http.client
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy

from ingestion.addresses import check_address
from ingestion.json_array import WINDOW_BYTES

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5
# in such pieces the caller waits, so that it hears a signal on every system
WAIT_SECONDS = 0.2
# blocks that may lie between the thread and the caller
BLOCKS_AHEAD = 2

_END = b""
_asking = threading.local()


class ExchangeFailed(Exception):  # noqa: N818
    """No answer came; the message is the end of a sentence that begins with the address."""

    def __init__(self, message: str, *, transient: bool) -> None:
        super().__init__(message)
        self.transient = transient


class FetchStopped(Exception):  # noqa: N818
    """The caller was told to stop while it waited."""


class Exchange:
    """A GET under way: `response`, and then the blocks of its body, until `close`."""

    def __init__(
        self,
        session: requests.Session,
        url: str,
        headers: dict[str, str],
        *,
        timeout: tuple[float, float],
        total_seconds: float,
        stopped: Callable[[], bool],
    ) -> None:
        """Ask, and wait for the answer's head; ExchangeFailed without one, or FetchStopped."""
        self._total_seconds = total_seconds
        self._deadline = time.monotonic() + total_seconds
        self._stopped = stopped
        self._arrived: queue.Queue[Any] = queue.Queue(BLOCKS_AHEAD)
        self._connections = _Connections()
        arguments = (session, url, headers, timeout)
        threading.Thread(target=self._ask, args=arguments, daemon=True).start()
        try:
            self.response: requests.Response = self._next()
        except BaseException:
            self.close()
            raise

    def blocks(self) -> Iterator[bytes]:
        """Yield the body, decompressed, in blocks of WINDOW_BYTES at most."""
        while block := self._next():
            yield block

    def close(self) -> None:
        """End the thread, wherever it is."""
        self._connections.shut_down()

    def _next(self) -> Any:
        while not self._stopped():
            left = self._deadline - time.monotonic()
            if left <= 0:
                message = f"did not end its answer within {self._total_seconds:g} seconds"
                raise ExchangeFailed(message, transient=True)
            with suppress(queue.Empty):
                arrived = self._arrived.get(timeout=min(left, WAIT_SECONDS))
                if isinstance(arrived, Exception):
                    raise arrived
                return arrived
        raise FetchStopped

    def _hand_over(self, item: Any) -> None:
        while not self._connections.is_shut_down:
            with suppress(queue.Full):
                self._arrived.put(item, timeout=WAIT_SECONDS)
                return

    def _ask(
        self,
        session: requests.Session,
        url: str,
        headers: dict[str, str],
        timeout: tuple[float, float],
    ) -> None:
        _asking.connections = self._connections
        try:
            response = _follow(session, url, headers, timeout)
            with response:
                self._hand_over(response)
                if response.status_code == 200:
                    for block in _body(response):
                        self._hand_over(block)
                self._hand_over(_END)
        except Exception as error:
            self._hand_over(error)
        finally:
            self._connections.shut_down()


class _Connections:
    """The connections of one exchange. A second handle of each reaches it even inside of TLS."""

    def __init__(self) -> None:
        self.is_shut_down = False
        self._handles: list[socket.socket] = []
        self._lock = threading.Lock()

    def add(self, connection: socket.socket) -> None:
        with self._lock:
            if not self.is_shut_down:
                self._handles.append(connection.dup())
                return
        connection.close()
        raise OSError("the connection is not wanted any more")

    def shut_down(self) -> None:
        with self._lock:
            self.is_shut_down = True
            while self._handles:
                with self._handles.pop() as handle, suppress(OSError):
                    handle.shutdown(socket.SHUT_RDWR)


class _FinalAnswer(http.client.HTTPResponse):
    """Passes over 103 Early Hints and its kind, as http.client does over 100 only."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 102 <= status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)


class _HttpConnection(urllib3.connection.HTTPConnection):
    response_class = _FinalAnswer

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        _asking.connections.add(connection)
        return connection


class _HttpsConnection(urllib3.connection.HTTPSConnection):
    response_class = _FinalAnswer

    def _new_conn(self) -> socket.socket:
        connection = super()._new_conn()
        _asking.connections.add(connection)
        return connection


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


class _Adapter(HTTPAdapter):
    """requests' own adapter with the connections above, through a proxy too."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):  # which has connections of its own
            manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
        return manager


def open_session(user_agent: str) -> requests.Session:
    """Return a session that says who asks, and that keeps no cookies and reads no ~/.netrc.

    It keeps no connection either: between two polls the server has closed it anyway.
    """
    session = requests.Session()
    # of what the environment says only proxies and certificates count: see _send
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    session.headers.update(
        {"User-Agent": user_agent, "Accept": "application/json", "Connection": "close"}
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    return session


def _follow(
    session: requests.Session, url: str, headers: dict[str, str], timeout: tuple[float, float]
) -> requests.Response:
    """Return the answer at the end of the redirects. Nothing of their bodies is read."""
    for _ in range(MAX_REDIRECTS + 1):
        response = _send(session, url, headers, timeout)
        if response.status_code not in REDIRECTS:
            return response
        response.close()
        url = _redirected(url, response)
    raise ExchangeFailed(f"redirected more than {MAX_REDIRECTS} times", transient=False)


def _redirected(url: str, response: requests.Response) -> str:
    # http.client reads headers as Latin-1, servers write UTF-8 or that
    location = response.headers.get("Location", "").encode("latin-1")
    try:
        target = urljoin(url, location.decode()) if location else ""
        check_address(target)
    except ValueError:
        message = f"answered {response.status_code} and no address to go on to"
        raise ExchangeFailed(message, transient=False) from None
    return target


def _send(
    session: requests.Session, url: str, headers: dict[str, str], timeout: tuple[float, float]
) -> requests.Response:
    """Ask one address, and no more: what a session adds to it follows redirects and reads them."""
    through = proxy_of(url)
    certificates = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
    try:
        request = session.prepare_request(requests.Request("GET", url, headers))
        return session.get_adapter(url).send(
            request,
            stream=True,
            timeout=timeout,
            verify=certificates,
            proxies=get_environ_proxies(url),
        )
    except requests.Timeout:
        message = f"did not answer within {timeout[1]:g} seconds{through}"
        raise ExchangeFailed(message, transient=True) from None
    except requests.exceptions.InvalidSchema as error:
        missing = (
            " (SOCKS needs PySocks: pip install 'requests[socks]')" if "SOCKS" in str(error) else ""
        )
        raise ExchangeFailed(f"could not be asked{through}{missing}", transient=False) from None
    except requests.ConnectionError as error:
        message = f"could not be reached{through}: {_root_cause(error)}"
        raise ExchangeFailed(message, transient=True) from None
    # what a header, an address or a proxy's address holds that cannot be sent
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError, OSError) as error:
        message = f"could not be asked{through}: {type(error).__name__}"
        raise ExchangeFailed(message, transient=False) from None


def proxy_of(url: str) -> str:
    """Return ' through the proxy ...' with the setting that names it, or nothing without one."""
    proxy = select_proxy(url, get_environ_proxies(url))
    if not proxy:
        return ""
    scheme = url.partition(":")[0]
    names = [f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"]
    setting = next(
        (name for name in names if os.environ.get(name) == proxy), "the system's settings"
    )
    shown = proxy.rpartition("@")[2]
    return f" through the proxy {shown} of {setting}"


def _body(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.raw.stream(WINDOW_BYTES, decode_content=True)
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        message = f"stopped in the middle of its answer ({type(error).__name__})"
        raise ExchangeFailed(message, transient=True) from None


def _root_cause(error: BaseException) -> str:
    """Return the operating system's words, without the address that requests puts into its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
