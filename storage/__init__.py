"""WHAT HAPPENED: searches, candidates and outcomes, through SQLAlchemy Core.

    schema.py      the tables, each column with its meaning
    engine.py      from a URL to a connection: SQLite pragmas, schema revision, foreign files refused
    store.py       every write
    queries.py     every read
    summary.py     but those of a report, which take in all of a search
    migrations/    Alembic, from the first day

Imports the search core, never workers.
"""
