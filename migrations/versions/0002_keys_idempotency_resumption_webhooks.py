"""Keys, idempotency, resumption, webhooks

Revision: 0002, after 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


# Columns come and go one by one, not in batches: SQLite's batch copies a table and drops the old one,
# and foreign keys that cascade would empty the tables that point there.


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=True),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("hash", name=op.f("uq_api_key_hash")),
    )
    with op.batch_alter_table("api_key", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_api_key_owner"), ["owner"], unique=False)

    op.create_table(
        "idempotency_key",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("response", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name=op.f("pk_idempotency_key")),
    )
    with op.batch_alter_table("idempotency_key", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_idempotency_key_created_at"), ["created_at"], unique=False)

    op.create_table(
        "partial_upload",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("resource_id", sa.String(length=40), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_partial_upload")),
    )
    with op.batch_alter_table("partial_upload", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_partial_upload_expires_at"), ["expires_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_partial_upload_owner"), ["owner"], unique=False)

    op.create_table(
        "webhook_secret",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("secret", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_webhook_secret")),
    )
    op.create_table(
        "upload_part",
        sa.Column("upload_id", sa.String(length=40), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("blob_sha256", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["partial_upload.id"], name=op.f("fk_upload_part_upload_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("upload_id", "offset", name=op.f("pk_upload_part")),
    )
    with op.batch_alter_table("upload_part", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_upload_part_blob_sha256"), ["blob_sha256"], unique=False)

    op.create_table(
        "webhook_delivery",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("url", sa.String(length=2048), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.String(length=500), nullable=True),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["job.id"], name=op.f("fk_webhook_delivery_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_delivery")),
    )
    with op.batch_alter_table("webhook_delivery", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_webhook_delivery_job_id"), ["job_id"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_webhook_delivery_status_next_at"), ["status", "next_at"], unique=False
        )

    op.add_column("checkpoint", sa.Column("attempts", sa.Integer(), server_default="0", nullable=False))

    op.add_column("dataset", sa.Column("attempts", sa.Integer(), server_default="0", nullable=False))

    op.add_column("job", sa.Column("digest", sa.String(length=64), nullable=True))
    op.add_column("job", sa.Column("device", sa.String(length=8), server_default="any", nullable=False))
    op.add_column("job", sa.Column("webhook_url", sa.String(length=2048), nullable=True))
    op.add_column("job", sa.Column("request_id", sa.String(length=128), nullable=True))
    op.add_column("job", sa.Column("traceparent", sa.String(length=64), nullable=True))
    op.add_column("job", sa.Column("handbacks", sa.Integer(), server_default="0", nullable=False))
    op.add_column("job", sa.Column("not_before", sa.DateTime(timezone=True), nullable=True))
    op.add_column("job", sa.Column("ran_seconds", sa.Float(), server_default="0", nullable=False))
    op.add_column("job", sa.Column("resume_sha256", sa.String(length=64), nullable=True))
    op.create_index(op.f("ix_job_owner_digest"), "job", ["owner", "digest"])
    op.create_index(op.f("ix_job_resume_sha256"), "job", ["resume_sha256"])


def downgrade() -> None:
    op.drop_index(op.f("ix_job_resume_sha256"), "job")
    op.drop_index(op.f("ix_job_owner_digest"), "job")
    op.drop_column("job", "resume_sha256")
    op.drop_column("job", "ran_seconds")
    op.drop_column("job", "not_before")
    op.drop_column("job", "handbacks")
    op.drop_column("job", "traceparent")
    op.drop_column("job", "request_id")
    op.drop_column("job", "webhook_url")
    op.drop_column("job", "device")
    op.drop_column("job", "digest")

    op.drop_column("dataset", "attempts")

    op.drop_column("checkpoint", "attempts")

    with op.batch_alter_table("webhook_delivery", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_webhook_delivery_status_next_at"))
        batch_op.drop_index(batch_op.f("ix_webhook_delivery_job_id"))

    op.drop_table("webhook_delivery")
    with op.batch_alter_table("upload_part", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_upload_part_blob_sha256"))

    op.drop_table("upload_part")
    op.drop_table("webhook_secret")
    with op.batch_alter_table("partial_upload", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_partial_upload_owner"))
        batch_op.drop_index(batch_op.f("ix_partial_upload_expires_at"))

    op.drop_table("partial_upload")
    with op.batch_alter_table("idempotency_key", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_idempotency_key_created_at"))

    op.drop_table("idempotency_key")
    with op.batch_alter_table("api_key", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_api_key_owner"))

    op.drop_table("api_key")
