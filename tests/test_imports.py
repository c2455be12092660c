"""The house's rules on imports: they run downward, and the core knows no HyperSpy."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import hyperspy_fusion

PACKAGE = Path(hyperspy_fusion.__file__).parent

# The floors of the house, top first: a room may import from the floors below it, and
# what is in one room may import from each other.
FLOORS = [
    {"cli"},
    {"__init__"},
    {"repetition", "plot"},
    {"spectral_fusion"},
    {"loading", "data", "report"},
    {"signals"},
    {"widgets"},
    {"fusion", "derived", "propagation", "warm_up", "detectors"},
    {"tuning"},
    {"results"},
    {"progress", "summary", "provenance"},
    {"inputs"},
    {"execution"},
    {"core.calibrated", "core.published"},
    {"core.calibrated.convex"},
    {"core.common"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
CORE_MAY_IMPORT = {"numpy", "scipy", "numba"}
# The most lines of a module, and of the way from signals to signals.
MOST_LINES = 620
MOST_LINES_OF = {"fusion.py": 300}

MODULES = sorted(
    path.relative_to(PACKAGE)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
)
CORE = [module for module in MODULES if module.parts[0] == "core"]


def top_of(name):
    return name.split(".")[0]


def for_types_only(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(module):
    """Dotted names of all that a module imports when it runs, also in functions."""
    package = ["hyperspy_fusion", *module.parts[:-1]]
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not for_types_only(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*home, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room_of(name):
    """The room in which something of the package lies, by its dotted name."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        if ".".join(parts[:n]) in FLOOR_OF:
            return ".".join(parts[:n])
    return "__init__"


def rooms_imported(module):
    for name in imported(module):
        package, _, inside = name.partition(".")
        if package == "hyperspy_fusion" and inside != "__version__":
            yield room_of(inside)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_run_downward(module):
    room = room_of(".".join(module.with_suffix("").parts))
    assert room != "__init__", f"{module} has no floor yet: name it in FLOORS"
    for other in rooms_imported(module):
        assert FLOOR_OF[other] > FLOOR_OF[room] or other == room, (
            f"{module} imports {other}, which is not on a floor below"
        )


def test_no_circles_within_a_room():
    """A module that imports another one is not imported by it, not even on the way."""
    names = {".".join(["hyperspy_fusion", *m.with_suffix("").parts]) for m in MODULES}
    graph = {}
    for module in MODULES:
        name = ".".join(["hyperspy_fusion", *module.with_suffix("").parts])
        found = set(imported(module)) | {n.rpartition(".")[0] for n in imported(module)}
        graph[name] = found & names - {name}
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_module_is_too_long(module):
    lines = (PACKAGE / module).read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES_OF.get(str(module), MOST_LINES)


def test_dask_is_known_to_the_execution_only():
    rooms = {m.parts[0] for m in MODULES if "dask" in {*map(top_of, imported(m))}}
    assert rooms == {"execution"}


@pytest.mark.parametrize("module", CORE, ids=str)
def test_core_imports_mathematics_only(module):
    others = set(map(top_of, imported(module)))
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
