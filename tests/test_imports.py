"""The house's rules on imports: they run downward, and the core knows no HyperSpy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hyperspy_fusion

PACKAGE = Path(hyperspy_fusion.__file__).parent

# The rooms of the house, top floor first: a room may import from the floors below it.
FLOORS = [
    {"cli", "gui"},
    {"__init__"},
    {"loading", "data", "plot"},
    {"signals"},
    {"fusion"},
    {"pairing", "progress"},
    {"tiling"},
    {"core"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
CORE_MAY_IMPORT = {"numpy", "scipy", "numba", "llvmlite"}

MODULES = sorted(
    path.relative_to(PACKAGE)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
)
CORE = [module for module in MODULES if module.parts[0] == "core"]


def imported(module):
    """Dotted names of all that a module imports, also inside functions."""
    package = ["hyperspy_fusion", *module.parts[:-1]]
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*home, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def rooms_imported(module):
    for name in imported(module):
        package, *inside = name.split(".")
        if package == "hyperspy_fusion" and inside != ["__version__"]:
            yield inside[0] if set(inside[:1]) & set(FLOOR_OF) else "__init__"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_run_downward(module):
    room = module.with_suffix("").parts[0]
    assert room in FLOOR_OF, f"{module} has no floor yet: name it in FLOORS"
    for other in rooms_imported(module):
        within_core = room == other == "core"
        assert FLOOR_OF[other] > FLOOR_OF[room] or within_core, (
            f"{module} imports {other}, which is not on a floor below"
        )


@pytest.mark.parametrize("module", CORE, ids=str)
def test_core_imports_mathematics_only(module):
    others = {name.split(".")[0] for name in imported(module)}
    others -= sys.stdlib_module_names | {"hyperspy_fusion"}
    assert others <= CORE_MAY_IMPORT


def test_the_face_imports_nothing_heavy():
    """`import hyperspy_fusion` is what HyperSpy's users pay for at every start."""
    heavy = "{'hyperspy', 'exspy', 'rsciio', 'numba', 'dask', 'matplotlib', 'numpy'}"
    program = f"import sys, hyperspy_fusion; print(*{heavy} & set(sys.modules))"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-I", "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


def test_the_stub_names_the_public_face():
    assert [getattr(hyperspy_fusion, name) for name in hyperspy_fusion.__all__]
