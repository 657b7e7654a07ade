"""whose network holds an order's goods, as a keyed digest."""

import sqlalchemy as sa
from alembic import op


revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    with op.batch_alter_table("orders", schema=None) as batch_op:
        batch_op.add_column(sa.Column("network", sa.String(length=64), server_default="", nullable=False))
        batch_op.create_index("ix_orders_network", ["network", "state"], unique=False)


def downgrade() -> None:
    """Bring them back to the one before."""
    with op.batch_alter_table("orders", schema=None) as batch_op:
        batch_op.drop_index("ix_orders_network")
        batch_op.drop_column("network")
