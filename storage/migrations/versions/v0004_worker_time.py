"""What the workers of a coordinator have done with their time."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add columns; of runs that ended before nothing is known."""
    op.add_column("coordinator", sa.Column("worker_s", sa.Double))
    op.add_column("coordinator", sa.Column("training_s", sa.Double))
