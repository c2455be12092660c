"""HyperSpy finds the extension however the package is installed.

A broken extension breaks HyperSpy for everyone in an environment, so each way of
installing is tried in an environment of its own.
"""

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import hyperspy_fusion

REPOSITORY = Path(__file__).parents[1]
PACKAGE = Path(hyperspy_fusion.__file__).parent
EXTENSION = yaml.safe_load((PACKAGE / "hyperspy_extension.yaml").read_text())

needs_repository = pytest.mark.skipif(
    not (REPOSITORY / "pyproject.toml").is_file(),
    reason=f"{REPOSITORY} has no pyproject.toml: the tests lie outside the repository",
)

# What a user of a fresh environment does, and where the answers came from.
SESSION = """
import json
import hyperspy.api as hs
import numpy as np

hs.print_known_signal_types()
image = hs.signals.Signal2D(np.ones((2, 3)))
classes = []
for signal in (image, image.as_lazy()):
    for signal_type in ("elemental_map", "HAADF"):
        signal.set_signal_type(signal_type)
        classes.append(type(signal).__name__)

import hyperspy_fusion
print(json.dumps([hyperspy_fusion.__file__, sorted(hyperspy_fusion.__all__), classes]))
"""


def run(*command, **options):
    """Standard output of a command; a failing one shows all that it said."""
    done = subprocess.run(  # noqa: S603
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder]
    run(*build, REPOSITORY)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return {"sdist": [sdist], "wheel": [wheel], "editable": ["-e", REPOSITORY]}


@pytest.fixture
def environment(tmp_path):
    """A fresh virtual environment: its python and its site-packages.

    The dependencies come from the environment that runs the tests, at the very end of
    the path, so that a package installed into the fresh one goes first.
    """
    venv.create(tmp_path, symlinks=os.name != "nt")
    scheme = "nt" if os.name == "nt" else "posix_prefix"
    paths = sysconfig.get_paths(scheme, {"base": tmp_path, "platbase": tmp_path})
    site_packages = Path(paths["purelib"])
    outer = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "zz_dependencies.pth").write_text("\n".join(sorted(outer)))
    return Path(paths["scripts"]) / "python", site_packages


@needs_repository
@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
def test_hyperspy_finds_the_extension(kind, built, environment):
    python, site_packages = environment
    pip = [sys.executable, "-m", "pip", "--python", python, "install"]
    # Without --ignore-installed pip is content with the one that runs the tests.
    alone = ["--ignore-installed", "--no-deps", "--no-index", "--no-build-isolation"]
    run(*pip, *alone, *built[kind])

    *known_types, answer = run(python, "-I", "-c", SESSION).splitlines()
    file, public, classes = json.loads(answer)

    home = REPOSITORY if kind == "editable" else site_packages
    assert Path(file) == home / "hyperspy_fusion" / "__init__.py"
    for signal_type in ("elemental_map", "HAADF"):
        assert any(signal_type in line.split() for line in known_types), known_types
    assert classes == [
        "ElementalMap",
        "HAADFImage",
        "LazyElementalMap",
        "LazyHAADFImage",
    ]
    assert public == sorted(hyperspy_fusion.__all__)


@needs_repository
def test_wheel_holds_the_package_only(built):
    names = zipfile.ZipFile(*built["wheel"]).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {
        "hyperspy_fusion",
        f"hyperspy_fusion-{hyperspy_fusion.__version__}.dist-info",
    }
    assert not [name for name in names if "test" in name]
    assert {
        "hyperspy_fusion/__init__.pyi",
        "hyperspy_fusion/hyperspy_extension.yaml",
        "hyperspy_fusion/py.typed",
    } <= set(names)


@needs_repository
def test_lower_bounds_are_the_oldest_versions_tested():
    lines = (REPOSITORY / ".github" / "oldest.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if not line.startswith("#"))
    for requirement in map(Requirement, importlib.metadata.requires("hyperspy-fusion")):
        if requirement.marker is None:  # no extra
            (bound,) = requirement.specifier
            assert bound.operator == ">="
            assert Version(oldest[requirement.name]) in requirement.specifier
            assert (
                Version(bound.version).release
                == Version(oldest[requirement.name]).release[
                    : len(Version(bound.version).release)
                ]
            )


@needs_repository
def test_top_level_yaml_is_a_relative_link():
    link = REPOSITORY / "hyperspy_extension.yaml"
    assert link.readlink() == Path("hyperspy_fusion", "hyperspy_extension.yaml")
    assert yaml.safe_load(link.read_text()) == EXTENSION


@needs_repository
def test_the_installed_package_is_under_test():
    """`python -m pytest` in a checkout would test the files beside it instead."""
    distribution = importlib.metadata.distribution("hyperspy-fusion")
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        assert PACKAGE == REPOSITORY / "hyperspy_fusion"
    else:
        assert Path(distribution.locate_file("hyperspy_fusion")) == PACKAGE


@pytest.mark.parametrize("name", EXTENSION["signals"])
def test_yaml_agrees_with_the_class(name):
    entry = EXTENSION["signals"][name]
    signal_class = getattr(importlib.import_module(entry["module"]), name)
    for key in set(entry) - {"module", "signal_type_aliases"}:
        assert getattr(signal_class, f"_{key}") == entry[key]
    aliases = signal_class._signal_type_aliases
    assert list(aliases) == entry["signal_type_aliases"]
    assert name in hyperspy_fusion.__all__


def test_entry_point_is_named_as_the_package():
    """HyperSpy looks for the yaml beside the package that bears the entry's name."""
    entries = importlib.metadata.entry_points(group="hyperspy.extensions")
    (entry,) = (e for e in entries if e.dist.name == "hyperspy-fusion")
    assert (entry.name, entry.value) == ("hyperspy_fusion", "hyperspy_fusion")
    assert entry.load() is hyperspy_fusion
