"""For the dashboard: sessions' browsers, the choice of e-mails, and indexes for lists of orders."""

import sqlalchemy as sa
from alembic import op


revision = "3b9d5e7a1c42"
down_revision = "0f7c6a64753e"
branch_labels = None
depends_on = None


UNPAID = sa.text("state IN ('placed', 'awaiting_payment')")
TO_HAND_OVER = sa.text("state IN ('preparing', 'ready')")
ON_ITS_WAY = sa.text("state IN ('shipped')")
KEYS = {"name_key": 240, "email_key": 254}


def upgrade() -> None:
    """Bring the tables to this revision."""
    with op.batch_alter_table("staff_session", schema=None) as batch_op:
        batch_op.add_column(sa.Column("browser", sa.String(length=60), server_default="", nullable=False))
    with op.batch_alter_table("shop", schema=None) as batch_op:
        batch_op.add_column(sa.Column("mails_paid_orders", sa.Boolean(), server_default=sa.true(), nullable=False))
    op.create_index("ix_orders_unpaid", "orders", ["id"], sqlite_where=UNPAID, postgresql_where=UNPAID)
    op.create_index("ix_product_stock", "product", ["active", "stock"])
    op.create_index("ix_refund_at", "refund", ["at"])
    op.drop_index("ix_delivery_state", "delivery")
    for name, where in (("ix_delivery_to_hand_over", TO_HAND_OVER), ("ix_delivery_on_its_way", ON_ITS_WAY)):
        op.create_index(name, "delivery", ["order_id"], sqlite_where=where, postgresql_where=where)
    compare_by("C")


def downgrade() -> None:
    """Bring them back to the one before."""
    compare_by("default")
    op.drop_index("ix_delivery_on_its_way", "delivery")
    op.drop_index("ix_delivery_to_hand_over", "delivery")
    op.create_index("ix_delivery_state", "delivery", ["state", "id"])
    op.drop_index("ix_refund_at", "refund")
    op.drop_index("ix_product_stock", "product")
    op.drop_index("ix_orders_unpaid", "orders")
    with op.batch_alter_table("shop", schema=None) as batch_op:
        batch_op.drop_column("mails_paid_orders")
    with op.batch_alter_table("staff_session", schema=None) as batch_op:
        batch_op.drop_column("browser")


def compare_by(collation: str) -> None:
    """Choose how PostgreSQL sorts what staff search by. SQLite sorts by code points anyway."""
    if op.get_bind().dialect.name == "postgresql":
        for name, length in KEYS.items():
            op.execute(f'ALTER TABLE orders ALTER {name} TYPE VARCHAR({length}) COLLATE "{collation}"')
