"""The first schema: search, candidate, tally, coordinator."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "search",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("target", sa.BigInteger, nullable=False),
        sa.Column("drawn", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("netsieve_version", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_search"),
        sa.UniqueConstraint("name", name="uq_search_name"),
    )
    op.create_table(
        "candidate",
        sa.Column("search_id", sa.Integer, nullable=False),
        sa.Column("draw_index", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("digest", sa.LargeBinary(16), nullable=False),
        sa.Column("layers", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(32)),
        sa.Column("layer", sa.Integer),
        sa.Column("detail", sa.Text),
        sa.Column("parameters", sa.BigInteger),
        sa.Column("macs", sa.BigInteger),
        sa.Column("train_loss", sa.Double),
        sa.Column("val_loss", sa.Double),
        sa.Column("val_accuracy", sa.Double),
        sa.Column("epochs", sa.Integer, nullable=False),
        sa.Column("curve", sa.JSON),
        sa.Column("seconds", sa.Double),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("search_id", "draw_index", name="pk_candidate"),
        sa.ForeignKeyConstraint(["search_id"], ["search.id"], name="fk_candidate_search_id"),
        sa.UniqueConstraint("search_id", "digest", name="uq_candidate_search_id_digest"),
        sa.CheckConstraint("status IN ('rejected', 'open', 'completed', 'failed')", name="status"),
        sa.CheckConstraint("(status IN ('rejected', 'failed')) = (reason IS NOT NULL)", name="reason"),
        sa.CheckConstraint("status <> 'completed' OR val_accuracy IS NOT NULL", name="measured"),
    )
    still_open, completed = sa.text("status = 'open'"), sa.text("status = 'completed'")
    op.create_index(
        "ix_candidate_open",
        "candidate",
        ["search_id", "draw_index"],
        sqlite_where=still_open,
        postgresql_where=still_open,
    )
    op.create_index(
        "ix_candidate_ranking",
        "candidate",
        ["search_id", sa.text("val_accuracy DESC"), "val_loss", "draw_index"],
        sqlite_where=completed,
        postgresql_where=completed,
    )
    op.create_table(
        "tally",
        sa.Column("search_id", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("layer", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("candidates", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("search_id", "status", "reason", "layer", name="pk_tally"),
        sa.ForeignKeyConstraint(["search_id"], ["search.id"], name="fk_tally_search_id"),
    )
    op.create_table(
        "coordinator",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("search_id", sa.Integer, nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("boot_id", sa.String(64), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("pid_started", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("ending", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_coordinator"),
        sa.ForeignKeyConstraint(["search_id"], ["search.id"], name="fk_coordinator_search_id"),
    )
    op.create_index("ix_coordinator_search_id", "coordinator", ["search_id"])
