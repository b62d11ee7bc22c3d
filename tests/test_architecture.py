"""The rules that hold the parts together: what may import what, what must be documented and tested."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pydantic_settings import BaseSettings

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "torchvision", "timm", "onnx", "onnxruntime")
SERVER = ("api", "core", "store", "worker")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_import_rules_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    result = run(str(lint), "--no-cache")
    assert result.returncode == 0, result.stdout


def modules_loaded_by(package: str) -> set[str]:
    """What a new process has in `sys.modules` once it has imported every module of `package`."""
    code = (
        "import importlib, pkgutil, sys\n"
        f"package = importlib.import_module({package!r})\n"
        f"for found in pkgutil.walk_packages(package.__path__, {package + '.'!r}):\n"
        "    if not found.name.endswith('__main__'):\n"
        "        importlib.import_module(found.name)\n"
        "print('\\n'.join(sys.modules))\n"
    )
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize("package", ["api", "store", "zsq"])
def test_torch_and_onnx_stay_out(package: str) -> None:
    assert modules_loaded_by(package).isdisjoint(HEAVY)


def test_the_client_loads_none_of_the_server() -> None:
    assert modules_loaded_by("zsq").isdisjoint(SERVER)


def test_the_command_line_starts_without_what_only_some_commands_need() -> None:
    code = "import sys, zsq.cli; print('\\n'.join(sys.modules))"
    loaded = set(run(sys.executable, "-c", code).stdout.split())
    assert loaded.isdisjoint({*HEAVY, *SERVER, "pydantic", "zsq.stack"})


def settings_classes() -> list[type[BaseSettings]]:
    modules: list[ModuleType] = [
        importlib.import_module(f"{package}.settings") for package in ("api", "store", "worker", "zsq.stack")
    ]
    return [
        cls
        for module in modules
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, BaseSettings) and cls.__module__ == module.__name__
    ]


def settings() -> list[str]:
    """`ZSQ_…` of every setting there is."""
    return sorted({f"ZSQ_{name.upper()}" for cls in settings_classes() for name in cls.model_fields})


def test_every_settings_class_is_found_and_takes_the_prefix() -> None:
    text = "".join(path.read_text() for package in SERVER for path in (ROOT / package).rglob("*.py"))
    text += "".join(path.read_text() for path in (ROOT / "zsq").rglob("*.py"))
    declared = re.findall(r"^class (\w+)\((?:BaseSettings|\w+Settings)\)", text, re.MULTILINE)
    assert sorted(declared) == sorted(cls.__name__ for cls in settings_classes())
    assert {cls.model_config.get("env_prefix") for cls in settings_classes()} == {"ZSQ_"}


@pytest.mark.parametrize("place", [".env.example", "docs/guides/configuration.md"])
def test_every_setting_is_documented_and_nothing_else_is(place: str) -> None:
    documented = set(re.findall(r"\bZSQ_[A-Z0-9_]+\b", (ROOT / place).read_text()))
    # The client's and the compose file's own variables are no settings of a class.
    others = {"ZSQ_API_KEY", "ZSQ_SERVER_URL", "ZSQ_POSTGRES_PASSWORD", "ZSQ_TORCH_INDEX"}
    assert documented - others == set(settings())


def test_the_example_says_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied to `.env` it changes nothing."""
    for name in settings():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    for cls in settings_classes():
        assert cls(_env_file=ROOT / ".env.example") == cls(_env_file=None), cls


def method_names() -> list[str]:
    from core.spec import METHOD_CONFIGS

    return sorted(METHOD_CONFIGS)


@pytest.mark.parametrize("name", method_names())
def test_every_method_has_a_page_with_all_its_options_and_a_test(name: str) -> None:
    from core.spec import METHOD_CONFIGS

    page = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    fields = set(METHOD_CONFIGS[name].__dataclass_fields__) - {"name"}
    assert {field for field in fields if f"`{field}`" not in page} == set()
    assert (ROOT / "tests" / "core" / "methods" / f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", method_names())
def test_methods_never_import_each_other(name: str) -> None:
    """A method is `core/methods/<name>.py`; import-linter's contract must name every one of them."""
    rules = (ROOT / ".importlinter").read_text()
    assert f"    core.methods.{name}\n" in rules


def test_every_method_can_be_run() -> None:
    from core.methods.registry import METHODS

    assert sorted(METHODS) == method_names()


def test_every_task_that_is_sent_has_a_handler_on_a_queue_that_is_served() -> None:
    from store import queue

    code = "import worker.tasks, worker.app; print('\\n'.join(worker.app.app.tasks))"
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    handled = {name for name in result.stdout.split() if name.startswith("zsq.")}
    assert handled == set(queue.ROUTES)
    assert set(queue.ROUTES.values()) | set(queue.DEVICE_QUEUES.values()) == set(queue.QUEUES)


@pytest.mark.parametrize("folder", ["architecture", "decisions", "guides", "methods"])
def test_links_between_pages_lead_somewhere(folder: str) -> None:
    for page in [*(ROOT / "docs" / folder).glob("*.md"), ROOT / "README.md"]:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)} links to {link}"


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert numbers == list(range(1, len(numbers) + 1))
