"""Keeping leases: a coordinator shows that it lives, from a thread of its own, whatever its main thread waits for."""

import threading
from contextlib import suppress
from typing import Protocol, Self

RENEWALS_PER_LEASE = 6  # so that some may fail, or the database may be slow, before the lease expires


class Renewable(Protocol):
    """What has leases."""

    @property
    def lease_s(self) -> float:
        """Seconds after which a lease expires that was not renewed."""
        ...

    def renew(self) -> None:
        """Put off the expiry of all leases that are held. Raises NetsieveError."""
        ...


class Renewal:
    """Renews a coordinator's leases; a context manager around its run.

    A renewal that fails is tried again when the next one is due: if the database is away, the coordinator
    itself learns so from what it records, and if the leases are lost then, that others have them.
    """

    def __init__(self, store: Renewable) -> None:
        self._store = store
        self._every_s = store.lease_s / RENEWALS_PER_LEASE
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease renewal", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; not waited for longer than a renewal may take where the database answers."""
        self._ended.set()
        self._thread.join(timeout=self._every_s)

    def _renew(self) -> None:
        while not self._ended.wait(self._every_s):
            with suppress(Exception):  # whatever it was: what is recorded under a lost lease does not count
                self._store.renew()
