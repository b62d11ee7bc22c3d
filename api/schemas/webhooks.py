from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from api.schemas.common import Time
from store.tables import WebhookDelivery


class WebhookSecretOut(BaseModel):
    """`whsec_…`, as libraries of standardwebhooks.com take it."""

    secret: str


class DeliveryOut(BaseModel):
    """`id` is the message's `webhook-id`; `attempts` counts tries, `error` is the last one's fault."""

    id: str
    url: str
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    error: str | None
    next_at: Time | None
    created_at: Time

    @classmethod
    def of(cls, row: WebhookDelivery) -> DeliveryOut:
        same = ("id", "url", "status", "attempts", "error", "created_at")
        return cls(
            **{name: getattr(row, name) for name in same},
            next_at=row.next_at if row.status == "pending" else None,
        )
