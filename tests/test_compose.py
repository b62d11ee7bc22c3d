"""The container files against what they refer to; no engine is needed."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILES = sorted((ROOT / "docker").glob("*Dockerfile"))
SCHEMA = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def validator() -> jsonschema.Draft7Validator:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    return jsonschema.Draft7Validator(SCHEMA)


def test_compose_file_satisfies_the_specification(compose: dict[str, Any]) -> None:
    assert [error.message for error in validator().iter_errors(compose)] == []


@pytest.mark.parametrize(
    "change",
    [{"services": {"api": {"imagee": "x"}}}, {"services": {"api": {"ports": 8000}}}, {"service": {}}],
)
def test_the_schema_does_refuse(change: dict[str, Any]) -> None:
    assert not validator().is_valid(change)


def test_every_service_starts_after_what_it_needs(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name in ("api", "worker-control", "worker-cpu", "worker-gpu"):
        waits = services[name]["depends_on"]
        assert waits["migrate"]["condition"] == "service_completed_successfully", name
        assert waits["postgres"]["condition"] == waits["valkey"]["condition"] == "service_healthy", name
    assert services["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name, service in services.items():
        # What is waited for as healthy must be able to say so.
        awaited = {
            n
            for s in services.values()
            for n, c in s.get("depends_on", {}).items()
            if c["condition"] == "service_healthy"
        }
        assert name not in awaited or "healthcheck" in service, name


def test_services_share_one_blob_volume_and_name_only_declared_ones(compose: dict[str, Any]) -> None:
    services = compose["services"]
    used = {name: [v.split(":") for v in s.get("volumes", ())] for name, s in services.items()}
    assert {source for volumes in used.values() for source, _ in volumes} == set(compose["volumes"])
    blobs = services["api"]["environment"]["ZSQ_BLOBS_URL"].removeprefix("file://")
    for name in ("api", "worker-control", "worker-cpu", "worker-gpu"):
        assert any(Path(blobs).is_relative_to(target) for _, target in used[name]), name


def test_only_the_gpu_worker_waits_for_its_profile(compose: dict[str, Any]) -> None:
    profiles = {name: s["profiles"] for name, s in compose["services"].items() if "profiles" in s}
    assert profiles == {"worker-gpu": ["gpu"]}


def test_the_api_is_published_on_this_machine_only(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")


def test_builds_name_dockerfiles_that_exist(compose: dict[str, Any]) -> None:
    named = {s["build"]["dockerfile"] for s in compose["services"].values() if "build" in s}
    assert {ROOT / name for name in named} == set(DOCKERFILES)


def test_environment_names_only_settings_that_exist(compose: dict[str, Any]) -> None:
    from api.settings import ApiSettings
    from worker.settings import WorkerSettings

    known = {f"ZSQ_{name.upper()}" for cls in (ApiSettings, WorkerSettings) for name in cls.model_fields}
    for name, service in compose["services"].items():
        given = {key for key in service.get("environment", {}) if key.startswith("ZSQ_")}
        assert given <= known, name


def test_the_api_asks_for_keys_in_its_container(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from api.settings import ApiSettings

    text = (ROOT / "docker" / "api.Dockerfile").read_text()
    assert 'CMD ["python", "-m", "api"]' in text, "which reads where to listen from the settings"
    for name, value in re.findall(r"(ZSQ_\w+)=(\S+)", text):
        monkeypatch.setenv(name, value)
    for name, value in compose["services"]["api"]["environment"].items():
        if value is not None:  # taken from outside, where it is set
            monkeypatch.setenv(name, value)
    settings = ApiSettings()
    assert (settings.host, settings.port) == ("0.0.0.0", 8000) and settings.auth_required


def test_roles_of_the_workers_are_those_of_the_code(compose: dict[str, Any]) -> None:
    from store.queue import QUEUES
    from worker.__main__ import ROLES

    assert compose["services"]["worker-control"]["command"] == ["python", "-m", "worker", "control"]
    commands = {"worker.Dockerfile": "cpu", "worker.cuda.Dockerfile": "gpu"}
    for name, role in commands.items():
        assert f'CMD ["python", "-m", "worker", "{role}"]' in (ROOT / "docker" / name).read_text()
    assert {"control", *commands.values()} == set(ROLES)
    assert {queue for role in ROLES.values() for queue in role.queues} == set(QUEUES)


def test_workers_have_time_to_hand_their_jobs_back(compose: dict[str, Any]) -> None:
    from worker.settings import WorkerSettings

    for name in ("worker-control", "worker-cpu", "worker-gpu"):
        grace = float(compose["services"][name]["stop_grace_period"].removesuffix("s"))
        assert grace > WorkerSettings().shutdown_grace_seconds, name


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_copies_what_exists_and_what_the_context_holds(path: Path) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for line in re.findall(r"^COPY (?!--from)(.+)$", path.read_text(), re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert any(Path(source).is_relative_to(entry) for entry in allowed), f"{source} is ignored"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_runs_as_another_user_than_root_with_a_healthcheck(path: Path) -> None:
    last_stage = path.read_text().rsplit("\nFROM ", 1)[1]
    assert re.search(r"^USER (?!root)\w+$", last_stage, re.MULTILINE)
    assert "HEALTHCHECK" in last_stage


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_holds_every_package_that_its_command_imports(path: Path) -> None:
    """Every first-party import of the copied packages is copied too."""
    text = path.read_text()
    packages = {"api", "core", "migrations", "store", "worker", "zsq"}
    copied = {p for p in packages if re.search(rf"^COPY {p} {p}$", text, re.MULTILINE)}
    imported = {
        name
        for package in copied
        for module in (ROOT / package).rglob("*.py")
        for name in re.findall(r"^\s*(?:from|import) (\w+)", module.read_text(), re.MULTILINE)
    }
    assert imported & packages <= copied


def test_locks_are_hashed_and_hold_what_the_extras_ask_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for lock, wanted in (("api", ["api"]), ("worker", ["api", "worker"]), ("all", list(extras))):
        text = (ROOT / "requirements" / f"{lock}.lock").read_text()
        pinned = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", text, re.MULTILINE))
        assert text.count("\\\n    --hash=sha256:") >= len(pinned)
        asked = [*project["dependencies"], *(item for extra in wanted for item in extras[extra])]
        for requirement in asked:
            name = re.split(r"[\[<>=;]", requirement)[0].lower()
            assert name == "zsq" or name in pinned, f"{lock}.lock lacks {name}: run make lock"
    api = (ROOT / "requirements" / "api.lock").read_text()
    assert not re.search(r"^(torch|torchvision|onnx|onnxruntime|nvidia-)", api, re.MULTILINE)


def test_the_containers_run_the_versions_that_the_tests_ran() -> None:
    def pins(name: str) -> set[tuple[str, str]]:
        text = (ROOT / "requirements" / f"{name}.lock").read_text()
        return set(re.findall(r"^([a-z0-9.-]+)==(\S+)", text, re.MULTILINE))

    assert pins("api") - pins("all") == set()
    assert pins("worker") - pins("all") == set()
