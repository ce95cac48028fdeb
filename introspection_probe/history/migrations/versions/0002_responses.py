"""What a model wrote where its answers are free, and how many answers no judge gave a verdict on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A table of its own: `rollout` is too large to be copied, which is how SQLite would add foreign keys to it.
    op.create_table(
        "response",
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("included_id", sa.Integer(), nullable=False),
        sa.Column("ablated_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["round_id"], ["round.id"], name=op.f("fk_response_round_id_round"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["included_id"], ["text.id"], name=op.f("fk_response_included_id_text")),
        sa.ForeignKeyConstraint(["ablated_id"], ["text.id"], name=op.f("fk_response_ablated_id_text")),
        sa.PrimaryKeyConstraint("round_id", "position", name=op.f("pk_response")),
        sqlite_with_rowid=False,
    )
    op.add_column("round", sa.Column("unjudged", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("probe_example", sa.Column("included_response", sa.Text(), nullable=True))
    op.add_column("probe_example", sa.Column("ablated_response", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("probe_example", "ablated_response")
    op.drop_column("probe_example", "included_response")
    op.drop_column("round", "unjudged")
    op.drop_table("response")
