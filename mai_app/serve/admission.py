"""Admission control: limits on concurrent requests, bytes in flight, and the request rate of a client address."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from starlette.exceptions import HTTPException

from mai_app.config import ServeLimits
from mai_app.serve.backend import BusyError

MAX_ADDRESSES: Final = 10_000
"""Client addresses tracked; beyond that, the least recently seen are forgotten."""


class AdmissionControl:
    """Admits requests within the limits; for one event loop."""

    def __init__(self, limits: ServeLimits, clock: Callable[[], float] = time.monotonic) -> None:
        """Use `clock`, in seconds, for the rate limit."""
        self._limits, self._clock = limits, clock
        self._requests = self._bytes = 0
        # Token buckets by client: tokens left, and the time of that count.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @contextmanager
    def admit(self, address: str) -> Iterator[Callable[[int], None]]:
        """Admit a request of a client address; yields `reserve(size)`, to call as bytes of the body arrive.

        Leaving the context releases the request and its bytes. Raises HTTPException 429 if the address exceeds the
        rate limit, BusyError if too many requests are in progress; `reserve` raises BusyError if too many bytes are.
        """
        self._check_rate(address)
        if self._requests >= self._limits.max_requests:
            raise BusyError("too many requests at a time; try again in a moment")
        reserved = 0

        def reserve(size: int) -> None:
            nonlocal reserved
            if self._bytes + size > self._limits.max_bytes_in_flight:
                raise BusyError("too many images at a time; try again in a moment")
            reserved += size
            self._bytes += size

        self._requests += 1
        try:
            yield reserve
        finally:
            self._requests -= 1
            self._bytes -= reserved

    def _check_rate(self, address: str) -> None:
        """Take a token from the address's bucket of one minute's requests; raise HTTPException 429 if it is empty."""
        client, now, capacity = _client_of(address), self._clock(), float(self._limits.requests_per_minute)
        tokens, since = self._buckets.pop(client, (capacity, now))
        tokens = min(capacity, tokens + (now - since) * capacity / 60)
        self._buckets[client] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        if tokens < 1:
            wait = math.ceil(round((1 - tokens) * 60 / capacity, 3))
            raise HTTPException(429, "too many requests in a minute from this address", {"Retry-After": str(wait)})


def _client_of(address: str) -> str:
    """Return what the rate limit applies to: an IPv4 address, or an IPv6 /64 network, which one household has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # not an IP address: a socket's path, or a name in tests
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
