"""The package as its users meet it: what is declared, what is built, what an import costs."""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import jepa

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PACKAGES = {"jepa": ROOT / "jepa", "jepa_widgets": ROOT / "widgets" / "jepa_widgets"}

# Imported name -> distribution, where they differ.
DISTRIBUTIONS = {
    "IPython": "ipykernel",  # comes with it, and is of no use without it
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "traitlets": "ipywidgets",  # its base classes
    "yaml": "pyyaml",
}
HEAVY = ["IPython", "ipykernel", "ipywidgets", "jupyter_client", "jupyter_core", "anywidget", "jepa_widgets"]
HEAVY += ["plotly", "matplotlib", "papermill", "pandas", "sklearn", "scipy", "PIL", "gymnasium", "wandb", "tensorboard"]
HEAVY += ["transformers", "kornia", "datasets", "av", "aeon", "minari", "h5py", "pygame"]


def requirements(*extras: str) -> dict[str, SpecifierSet]:
    """Direct requirements of the core and of `extras`, without the package itself."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(one.name): one.specifier for one in parsed if one.name != PROJECT["name"]}


def pins() -> dict[str, Version]:
    """The exact versions of `constraints.txt`."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    for one in parsed:
        assert re.fullmatch(r"==[^*,]+", str(one.specifier)), f"constraints.txt: {one} is not an exact version"
    return {canonicalize_name(one.name): Version(str(one.specifier).removeprefix("==")) for one in parsed}


def conda() -> tuple[dict[str, str], list[str]]:
    """The conda packages (name to range) and the pip lines of `environment.yml`."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    names = [re.match(r"([\w.-]+)(.*)", entry) for entry in entries if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in entries if isinstance(entry, dict)]
    return {match[1]: match[2] for match in names if match}, pip


def test_every_direct_requirement_is_pinned_and_nothing_else() -> None:
    assert set(pins()) == set(requirements(*EXTRAS))


def test_declared_ranges_admit_the_pinned_versions() -> None:
    outside = {
        name: f"{pins()[name]} is not {specifier}"
        for name, specifier in requirements(*EXTRAS).items()
        if pins()[name] not in specifier
    }
    assert not outside


def test_a_requirement_has_the_same_range_wherever_it_is_declared() -> None:
    ranges: dict[str, set[str]] = {}
    for line in [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]:
        one = Requirement(line)
        ranges.setdefault(canonicalize_name(one.name), set()).add(str(one.specifier))
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}


def test_development_installs_every_extra() -> None:
    (own,) = [Requirement(line) for line in EXTRAS["dev"] if Requirement(line).name == PROJECT["name"]]
    assert own.extras == set(EXTRAS) - {"dev"}


def test_conda_environment_installs_the_pinned_package_with_extras_that_exist() -> None:
    packages, pip = conda()
    assert "-c constraints.txt" in pip
    (editable,) = [line.removeprefix("-e ") for line in pip if line.startswith("-e ")]
    extras = re.fullmatch(r"\.\[([\w,]+)\]", editable)
    assert extras is not None, editable
    assert set(extras[1].split(",")) <= set(EXTRAS)
    others = {canonicalize_name(line) for line in pip if not line.startswith("-")}
    assert others <= set(pins()), "pip lines beside the package must be pinned by constraints.txt"
    assert "pip" in packages


def test_supported_python_versions_agree_everywhere() -> None:
    allowed = SpecifierSet(PROJECT["requires-python"])
    minors = [minor for minor in range(20) if f"3.{minor}.1" in allowed]
    named = [re.fullmatch(r"Programming Language :: Python :: 3\.(\d+)", line) for line in PROJECT["classifiers"]]
    assert [int(match[1]) for match in named if match] == minors

    of_conda = conda()[0]["python"]
    chosen = SpecifierSet(re.sub(r"^=(3\.\d+)$", r"==\1.*", of_conda))
    assert [minor for minor in range(20) if f"3.{minor}.1" in chosen] != []
    assert all(minor in minors for minor in range(20) if f"3.{minor}.1" in chosen)

    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tools["ruff"]["target-version"] == f"py3{minors[0]}"
    assert tools["pyright"]["pythonVersion"] == f"3.{minors[0]}"


def test_the_version_is_the_declared_one() -> None:
    assert jepa.__version__ == PROJECT["version"]


def imports(path: Path) -> Iterator[str]:
    """Top-level names of the absolute imports of a file, at any depth of it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_everything_imported_is_declared(package: str) -> None:
    declared = set(requirements(*(extra for extra in EXTRAS if extra not in ("dev", "docs"))))
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in PACKAGES[package].rglob("*.py")
        for name in imports(path)
        if name not in sys.stdlib_module_names
        and name not in PACKAGES
        and canonicalize_name(DISTRIBUTIONS.get(name, name)) not in declared
    }
    assert not undeclared


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_library_imports_no_front_end_and_no_plotting() -> None:
    found = run_python(f"import sys, jepa, jepa.objectives, jepa.data; print([m for m in {HEAVY} if m in sys.modules])")
    assert found.strip() == "[]"


def test_importing_the_library_says_nothing_and_changes_no_global_state() -> None:
    found = run_python(
        "import logging, random, torch\n"
        "def state():\n"
        "    handlers = len(logging.getLogger().handlers)\n"
        "    return torch.get_rng_state(), random.getstate(), torch.get_num_threads(), handlers\n"
        "before = state()\n"
        "import jepa\n"
        "after = state()\n"
        "assert torch.equal(before[0], after[0]) and before[1:] == after[1:], 'global state changed'\n"
    )
    assert found == ""


def cpu_seconds(code: str, bytecode: Path) -> float:
    """User and system time of a fresh interpreter that runs `code`, on one thread, its modules compiled before."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": str(bytecode)}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled, whatever a test machine sets
    process = subprocess.Popen([sys.executable, "-c", code], env=env)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.benchmark
def test_importing_the_library_costs_little_more_than_importing_torch(tmp_path: Path) -> None:
    rounds = [(cpu_seconds("import torch", tmp_path), cpu_seconds("import jepa", tmp_path)) for _ in range(8)][1:]
    ratio = statistics.median(own / bare for bare, own in rounds)
    print(f"import jepa / import torch, CPU time: {ratio:.3f} ({statistics.median(b for b, _ in rounds):.2f} s bare)")
    assert ratio <= 1.15


@pytest.mark.slow
def test_the_wheel_holds_both_packages_complete_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("jepa_lab-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert names == expected
    assert {"jepa/py.typed", "jepa_widgets/py.typed"} <= names
