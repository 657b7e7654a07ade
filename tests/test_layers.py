"""Imports point down only, and the sandbox shares no code with the shop."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"app", "models", "amwal", "shop", "sandbox", "stage", "tests"}
SHOP = ["app.py", "models.py", "amwal.py", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "shop").rglob("*.py"))]


def imports(path: str) -> set[str]:
    """The modules of ours that a file imports, e.g. `shop.orders`."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""}
            if node.module in ("shop", "shop.ops", "shop.views"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in OURS}


FLOORS = (
    {"amwal", "shop.config", "shop.db", "shop.money", "shop.states", "shop.text"}
    | {"shop.setting_types", "shop.writer_lock"},
    {"models"},
    {
        "shop.attention",
        "shop.gateway",
        "shop.limits",
        "shop.mail",
        "shop.outbox",
        "shop.paging",
        "shop.reports",
        "shop.refusals",
    }
    | {"shop.security"},
    {
        "shop.baskets",
        "shop.spreadsheets",
        "shop.catalogue",
        "shop.orders",
        "shop.payments",
        "shop.privacy",
        "shop.reconcile",
        "shop.refunds",
        "shop.shipping",
        "shop.staff",
        "shop.order_lists",
        "shop.timeline",
    }
    | {"shop.stock"},
    {"shop.worker"},
    {"shop.ops", "shop.views"},
    {"app"},
)
"""The modules from the ground up; each imports only what stands no higher."""


def floor(module: str) -> int:
    """The floor on which a module stands."""
    room = re.sub(r"^(shop\.(?:ops|views))\b.*", r"\1", module)
    return next(number for number, modules in enumerate(FLOORS) if room in modules)


@pytest.mark.parametrize("path", SHOP)
def test_imports_point_down(path: str) -> None:
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for imported in imports(path) - {"shop"}:
        assert module == "shop" or floor(imported) <= floor(module), f"{module} imports {imported}, which stands above"


@pytest.mark.parametrize("path", ["amwal.py", "shop/money.py", "shop/text.py"])
def test_what_can_be_copied_anywhere_imports_nothing_of_ours(path: str) -> None:
    assert not imports(path)


def test_only_the_settings_read_the_environment() -> None:
    """Everything else asks `settings`. (pg_dump gets its password by the environment.)"""
    readers = {path for path in SHOP if "environ" in names(path)}
    of_requests = {"shop/ops/logs.py", "shop/security.py", "shop/views/browser.py"}
    assert readers - of_requests == {"shop/config.py", "shop/ops/backup.py"}


def names(path: str) -> set[str]:
    """The attributes that a file uses."""
    return {node.attr for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.Attribute)}


def test_nothing_imports_app() -> None:
    assert not [path for path in SHOP if "app" in imports(path)]


@pytest.mark.parametrize(("program", "allowed"), [("sandbox", {"sandbox"}), ("stage", {"stage"})])
def test_sandbox_and_stage_share_no_code_with_the_shop(program: str, allowed: set[str]) -> None:
    for path in (ROOT / program).rglob("*.py"):
        roots = {name.split(".")[0] for name in imports(str(path.relative_to(ROOT)))}
        assert roots <= allowed, f"{path.name} imports {roots - allowed}"


def test_the_clients_module_knows_no_flask() -> None:
    tree = ast.parse((ROOT / "amwal.py").read_text())
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in named if "flask" in name]
