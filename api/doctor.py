"""`python -m api.doctor`: whether the API's settings are valid and its application can be made."""

from __future__ import annotations

from api.settings import ApiSettings
from store.findings import Check, Finding, examine, settings_finding, tell, variables


def findings() -> list[Finding]:
    found = settings_finding("API settings", ApiSettings)
    if found.level == "failure":
        return [found]
    return [found, *examine([Check("API", application, "Install zsq with its api extra again.", 30.0)])]


def application() -> str:
    from api.app import create_app

    return f"{len(create_app().openapi()['paths'])} addresses"


if __name__ == "__main__":
    tell(findings(), variables(ApiSettings))
