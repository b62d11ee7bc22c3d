"""The dashboard: one page, which asks the API for everything else."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.templating import Jinja2Templates

from core.spec import METHOD_CONFIGS, PROFILES

WEB = Path(__file__).resolve().parent.parent / "web"

_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)

router = APIRouter(include_in_schema=False)
templates = Jinja2Templates(WEB / "templates")


@router.get("/")
def dashboard(request: Request) -> Response:
    # zaq first: it is the default.
    methods = sorted(METHOD_CONFIGS, key=lambda name: name != "zaq")
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
    choices = {"methods": methods, "profiles": PROFILES}
    return templates.TemplateResponse(request, "dashboard.html", choices, headers=headers)
