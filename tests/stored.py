"""The candidates that a database holds, as tests compare them."""

from sqlalchemy import Connection

from search.candidates import Status
from storage.queries import CandidateRow
from storage.selection import Selection, select


def candidates(connection: Connection, search_id: int) -> list[CandidateRow]:
    """All of a search, in index order."""
    rows = select(connection, search_id, Selection())
    return [CandidateRow(index, layers, Status(status), *rest) for index, layers, status, *rest in rows]
