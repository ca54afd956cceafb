"""What Google's clients raise where a service does not answer as it should, and may do so later."""

from __future__ import annotations

import google.auth.exceptions
import requests
from google.api_core import exceptions
from google.cloud.storage.exceptions import DataCorruption

OUTAGES = (
    ConnectionError,
    # also an answer that is cut in its middle
    requests.RequestException,
    google.auth.exceptions.TransportError,
    exceptions.RetryError,
    exceptions.ServerError,
    exceptions.TooManyRequests,
    # the bytes that arrived are not those that were sent
    DataCorruption,
)
# a call that moves bytes is given a second more for each so many of them
BYTES_PER_SECOND = 10_000_000
