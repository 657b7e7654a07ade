"""An index for the limit on unpaid orders of a network."""

from alembic import op


revision = "0f7c6a64753e"
down_revision = "8c1f2d7a4e30"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    with op.batch_alter_table("orders", schema=None) as batch_op:
        batch_op.create_index("ix_orders_network_placed_at", ["network", "placed_at"], unique=False)


def downgrade() -> None:
    """Bring them back to the one before."""
    with op.batch_alter_table("orders", schema=None) as batch_op:
        batch_op.drop_index("ix_orders_network_placed_at")
