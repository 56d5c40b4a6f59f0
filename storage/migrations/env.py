"""Alembic's entry: runs the versions on the connection that ``storage.engine`` hands over.

The transaction is the caller's, so an upgrade happens whole or not at all, on SQLite too (whose
default under Alembic is a commit a statement).
"""

from alembic import context

from storage.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
