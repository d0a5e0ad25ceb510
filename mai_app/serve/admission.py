"""Whose turn it is: how many requests, and how much of their bodies, are taken on at a time and from one address."""

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

ADDRESSES: Final = 10_000
"""Addresses remembered; of more, those not heard of for longest are forgotten."""


class Turns:
    """Counts what is going on in one event loop."""

    def __init__(self, limits: ServeLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._requests = self._bytes = 0
        # Requests that an address may still make, and when that was so.
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @contextmanager
    def turn(self, address: str) -> Iterator[Callable[[int], None]]:
        """A turn of this address, given back at the end: a function that is to be told of bytes as they come.

        Raises HTTPException 429 for an address that asks too often. Both raise BusyError where there is no room.
        """
        self._count(address)
        if self._requests >= self._limits.requests:
            raise BusyError("too many requests at a time; try again in a moment")
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            if self._bytes + size > self._limits.waiting_bytes:
                raise BusyError("too many images at a time; try again in a moment")
            held += size
            self._bytes += size

        self._requests += 1
        try:
            yield hold
        finally:
            self._requests -= 1
            self._bytes -= held

    def _count(self, address: str) -> None:
        """One request of this address: a bucket that holds a minute's requests, and fills all the time."""
        key, now, most = _network(address), self._clock(), float(self._limits.per_minute)
        left, when = self._left.pop(key, (most, now))
        left = min(most, left + (now - when) * most / 60)
        self._left[key] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > ADDRESSES:
            self._left.popitem(last=False)
        if left < 1:
            wait = math.ceil(round((1 - left) * 60 / most, 3))
            raise HTTPException(429, "too many requests in a minute from this address", {"Retry-After": str(wait)})


def _network(address: str) -> str:
    """Who has this address: of IPv6 a household has 2**64 of them."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # no address: a socket's path, or a name that a test gives
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
