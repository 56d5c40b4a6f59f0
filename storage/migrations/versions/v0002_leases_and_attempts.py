"""Leases and attempts: several coordinators on one search, and blame that outlives them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables; what there was stays."""
    op.add_column("search", sa.Column("claims", sa.BigInteger, server_default=sa.text("0"), nullable=False))
    op.add_column("coordinator", sa.Column("stop_asked", sa.Boolean, server_default=sa.false(), nullable=False))
    op.create_table(
        "lease",
        sa.Column("search_id", sa.Integer, nullable=False),
        sa.Column("epoch", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("coordinator_id", sa.Integer, nullable=False),
        sa.Column("first_index", sa.BigInteger, nullable=False),
        sa.Column("stop_index", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("search_id", "epoch", name="pk_lease"),
        sa.ForeignKeyConstraint(["search_id"], ["search.id"], name="fk_lease_search_id"),
        sa.ForeignKeyConstraint(["coordinator_id"], ["coordinator.id"], name="fk_lease_coordinator_id"),
        sa.CheckConstraint("first_index < stop_index", name="range"),
    )
    op.create_index("ix_lease_coordinator_id", "lease", ["coordinator_id"])
    op.create_table(
        "attempt",
        sa.Column("search_id", sa.Integer, nullable=False),
        sa.Column("draw_index", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("coordinator_id", sa.Integer, nullable=False),
        sa.Column("isolated", sa.Boolean, nullable=False),
        sa.Column("started", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("dispatched_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("ending", sa.String(32)),
        sa.Column("detail", sa.Text),
        sa.Column("forgiven", sa.Boolean, server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("search_id", "draw_index", "number", name="pk_attempt"),
        sa.ForeignKeyConstraint(["search_id"], ["search.id"], name="fk_attempt_search_id"),
        sa.ForeignKeyConstraint(["coordinator_id"], ["coordinator.id"], name="fk_attempt_coordinator_id"),
    )
    op.create_index("ix_attempt_coordinator_id", "attempt", ["coordinator_id"])
    in_flight = sa.text("ending IS NULL")
    op.create_index(
        "ix_attempt_in_flight",
        "attempt",
        ["search_id", "epoch"],
        sqlite_where=in_flight,
        postgresql_where=in_flight,
    )
