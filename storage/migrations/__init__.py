"""Alembic's environment and versions; run by ``storage.engine``, never by hand."""
