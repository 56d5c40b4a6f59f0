"""Every error that netsieve raises on purpose, in one tree.

    NetsieveError            something went wrong that the user can read about in one line
    ├── InvalidInput         what was given cannot be used; nothing was written        (exit 2)
    │   ├── LayerStringError     a layer string is malformed, at a position
    │   ├── SpaceError           a search space contradicts itself, or holds nothing valid
    │   │   └── Uncountable          a search space is too large for the census
    │   ├── SettingsError        a setting is out of range, or differs from the stored search's
    │   ├── DataError            a dataset cannot be read, or does not fit the space
    │   ├── DatabaseError        a database cannot be opened, or is not netsieve's
    │   └── QueryError           a person's SQL cannot be answered
    ├── UnknownSearch        no search of that name in the database                    (exit 2)
    ├── NotWritten           a file cannot be written; what was there before still is   (exit 1)
    ├── DatabaseLost         the database file was deleted or replaced in a run        (exit 1)
    └── Stopped              circumstances ended a run that can be resumed             (exit 75)
        └── DatabaseAway         the database cannot be reached, or is busy, now

A candidate that cannot be built or trained is not an error: it is an outcome (``candidates.py``).
"""


class NetsieveError(Exception):
    """An error that is shown to the user as one line; its message ends with the next step."""

    exit_code = 1


class InvalidInput(NetsieveError):
    """What was given cannot be used; nothing was written."""

    exit_code = 2


class LayerStringError(InvalidInput):
    """A layer string is malformed.

    ``position`` counts characters from 0; ``offending`` is the text that stands there (empty at the
    end of the string); ``allowed`` says what may stand there.
    """

    def __init__(self, position: int, offending: str, allowed: str) -> None:
        self.position = position
        self.offending = offending
        self.allowed = allowed
        super().__init__(position, offending, allowed)

    def __str__(self) -> str:
        found = quoted(self.offending) if self.offending else "the end of the string"
        return (
            f"malformed layer string: at position {self.position} (counted from 0) stands {found}, "
            f"allowed here: {self.allowed}"
        )


class SpaceError(InvalidInput):
    """A search space contradicts itself, or holds nothing valid."""


class Uncountable(SpaceError):
    """A search space is too large for the census: ``reason`` says why, ``instead`` what to do.

    It is its strings of more than ``layers`` layers that are too many, or may be.
    """

    def __init__(self, reason: str, layers: int, instead: str = "search it with --sampler rejection") -> None:
        self.reason = reason
        self.layers = layers
        self.instead = instead
        super().__init__(reason, layers, instead)

    def __str__(self) -> str:
        return f"{self.reason}; {self.instead}"


class SettingsError(InvalidInput):
    """A setting is out of range, or differs from what the stored search was created with."""


class DataError(InvalidInput):
    """A dataset cannot be read, or does not fit the search space."""


class DatabaseError(InvalidInput):
    """A database cannot be opened, or is not one of netsieve's."""


class QueryError(InvalidInput):
    """A person's SQL is malformed, would write, or cannot be worked out."""


class UnknownSearch(NetsieveError):
    """No search of that name is in the database."""

    exit_code = 2


class NotWritten(NetsieveError):
    """A file that was asked for cannot be written; what was there before still is."""


class DatabaseLost(NetsieveError):
    """The database file, or the search, was deleted or replaced while netsieve used it."""


class Stopped(NetsieveError):
    """Circumstances (workers, database) ended a run; nothing recorded is lost, resume goes on."""

    exit_code = 75


class DatabaseAway(Stopped):
    """The database cannot be reached, or is busy, now; what was asked can be tried again."""


def quoted(text: str, limit: int = 40) -> str:
    """``text`` in quotes, fit for one line of a terminal: control and odd characters escaped, cut at ``limit``."""
    shown = "".join(c if c.isprintable() and c.isascii() else ascii(c)[1:-1] for c in text[: limit + 1])
    return f"'{shown}'" if len(shown) <= limit else f"'{shown[:limit]}...'"
