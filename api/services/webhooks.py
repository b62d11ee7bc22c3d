"""Webhooks: where they may lead, and what an owner's are signed with."""

from __future__ import annotations

from urllib.parse import urlsplit

from api.deps import Caller, Resources
from api.errors import Invalid
from api.schemas.jobs import Webhook
from store.addresses import literal, may_be_called


def refuse_private(webhook: Webhook | None, resources: Resources) -> None:
    """Raises Invalid for an address that is never called.

    Names are looked up when they are called, since what they lead to may change until then.
    """
    if webhook is None:
        return
    address = literal(urlsplit(webhook.url).hostname or "")
    if address is not None and not may_be_called(address, resources.webhook_allowed_networks):
        raise Invalid.one("webhook.url", "forbidden_address", "leads to a private or reserved address")


def secret(resources: Resources, caller: Caller, *, renewed: bool = False) -> str:
    with resources.database.write() as work:
        webhooks = work.webhooks
        return webhooks.renew_secret(caller.owner) if renewed else webhooks.secret(caller.owner)
