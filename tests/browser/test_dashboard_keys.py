"""The dashboard on a server that asks for keys, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.settings import ApiSettings
from store.tables import Artifact
from tests.api.serving import Served, serving
from tests.browser.chromium import BINARY, Page, browser
from tests.store.blob_stores import put
from tests.store.rows import claim_job, queued_job
from tests.waiting import until

pytestmark = pytest.mark.skipif(BINARY is None, reason="there is no Chromium")

MODEL = bytes(range(256)) * 40
REPORT = {
    "accuracy": None,
    "artifact": {"bytes": len(MODEL), "float32_bytes": 4 * len(MODEL)},
    "method": {"losses": []},
}


SPEC = {
    "bits": {"weight": 4, "activation": 4},
    "method": {"name": "fast"},
    "export": {"profile": "packed"},
    "seed": 0,
    "limits": {},
}


@pytest.fixture
def server(tmp_path: Path, broker_url: str) -> Iterator[Served]:
    settings = ApiSettings(data_dir=tmp_path / "data", broker_url=broker_url, auth="required")
    with serving(settings) as served:
        yield served


def new_key(server: Served, owner: str) -> tuple[str, str]:
    """A new key, and its id."""
    with server.database.write() as work:
        row, key = work.keys.create(owner, None, None)
    return key, row.id


def succeeded_job(server: Served, owner: str) -> str:
    id = queued_job(server.database, owner=owner, spec=SPEC, method="fast")
    model = Artifact(
        name="model.onnx",
        blob_sha256=put(server.resources.blobs, MODEL),
        bytes=len(MODEL),
        media_type="application/octet-stream",
    )
    with server.database.write() as work:
        claim = claim_job(work, id, "test", 60)
        assert claim is not None and work.jobs.succeed(id, claim.fence, REPORT, [model])
    return id


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with browser(tmp_path / "browser") as found:
        yield found


def hidden(id: str) -> str:
    return f"document.getElementById('{id}').offsetParent === null"


FILL = """
    const chosen = new DataTransfer();
    chosen.items.add(new File(['weights'], 'network.pt'));
    document.getElementById('file').files = chosen.files;
    document.getElementById('architecture').value = 'cifar/resnet20';
"""


def enter(page: Page, key: str) -> None:
    page.look(f"document.getElementById('key').value = '{key}'")
    page.look("document.querySelector('#unlock button').click()")


def test_the_page_asks_for_a_key_uses_it_for_everything_and_forgets_it(
    server: Served, page: Page, tmp_path: Path
) -> None:
    mine, its_id = new_key(server, "ann")
    other, _ = new_key(server, "bob")
    job = succeeded_job(server, "ann")
    page.open(server.url)
    page.wait(f"!({hidden('unlock')})")
    assert page.look(hidden("main")) and page.look(hidden("forget"))

    enter(page, "zsq_" + 24 * "0" + "_" + 43 * "A")
    page.wait("document.getElementById('wrong-key').textContent.includes('does not take')")
    assert page.look("sessionStorage.length") == 0

    enter(page, mine)
    page.wait(f"document.getElementById('jobs').innerText.includes('{job}')")
    page.wait("document.querySelector('#jobs .links a')")
    page.wait("document.getElementById('who').innerText.startsWith('ann: ')")
    assert page.look(hidden("unlock"))
    assert page.look("location.href") == f"{server.url}/", "a key in the address would be logged"

    page.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.look("document.querySelector('#jobs .links a').click()")
    until((tmp_path / "model.onnx").exists)
    assert (tmp_path / "model.onnx").read_bytes() == MODEL

    page.look(FILL)
    page.look("document.querySelector('#quantize button').click()")
    page.wait("document.getElementById('said').textContent.startsWith('Accepted: job_')")

    page.open(server.url)
    page.wait(f"document.getElementById('jobs').innerText.includes('{job}')")

    page.look("document.getElementById('forget').click()")
    page.wait(f"!({hidden('unlock')})")
    assert page.look("sessionStorage.length") == 0
    assert job not in page.look("document.documentElement.outerHTML")

    enter(page, other)
    page.wait("document.getElementById('who').innerText.startsWith('bob: ')")
    assert job not in page.look("document.documentElement.outerHTML")

    page.look("document.getElementById('forget').click()")
    enter(page, mine)
    page.wait(f"document.getElementById('jobs').innerText.includes('{job}')")
    with server.database.write() as work:
        assert work.keys.revoke(its_id)
    page.wait(f"!({hidden('unlock')})")
    assert page.look("document.getElementById('wrong-key').textContent.includes('revoked')")
    assert job not in page.look("document.documentElement.outerHTML")
