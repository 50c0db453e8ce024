"""Audit the installed packages: ``python -m tests.audit_dependencies``; needs no network.

Everything that requirements.txt brings must be within its ranges, have a licence that it names, not be a version with
a known hole, and run nothing of its own when Python starts. With ``HART_STUDIO_PIP_AUDIT=1`` pip-audit asks its
databases as well.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
KNOWN = Path(__file__).with_name("known_vulnerabilities.json")
AUDIT_VARIABLE = "HART_STUDIO_PIP_AUDIT"
STARTUP_FILES = frozenset({"distutils-precedence.pth"})
"""Allowed files that run when Python starts: that of setuptools, a dependency of torch."""
KNOWN_LICENCES = {"cuda-toolkit": "holds no file of its own; names packages of NVIDIA"}
"""Licenses of distributions without license metadata."""


def read_requirements(path: Path = ROOT / "requirements.txt") -> list[Requirement]:
    """The direct requirements."""
    lines = [line.split("#")[0].strip() for line in path.read_text("utf-8").splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def find_unbounded(requirements: Iterable[Requirement]) -> list[str]:
    """Requirements without an upper bound."""
    closing = {"<", "<=", "==", "~="}
    return [each.name for each in requirements if not any(part.operator in closing for part in each.specifier)]


def list_installed(requirements: Iterable[Requirement]) -> dict[str, Distribution]:
    """Distributions of the requirements with all dependencies, by canonical name.

    Raises:
        PackageNotFoundError: If a requirement itself is not installed.
    """
    found: dict[str, Distribution] = {}
    waiting = list(requirements)
    for requirement in waiting:
        distribution(requirement.name)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        extras = ["", *requirement.extras]
        if name in found and not requirement.extras:
            continue
        try:
            found[name] = distribution(requirement.name)
        except PackageNotFoundError:
            continue  # for another system, or reported by find_outside
        needed = [Requirement(line) for line in found[name].requires or []]
        waiting += [
            each
            for each in needed
            if (each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras))
            and (canonicalize_name(each.name) not in found or each.extras - requirement.extras)
        ]
    return found


def find_outside(requirements: Iterable[Requirement], installed: dict[str, Distribution]) -> Iterator[str]:
    """Distributions whose version is out of range."""
    for each in requirements:
        version = installed[canonicalize_name(each.name)].version
        if not each.specifier.contains(version, prereleases=True):
            yield f"{each.name} {version} is not {each.specifier}"


def find_licence(found: Distribution) -> str:
    """License of a distribution, from any metadata field; at least the name of its license file."""
    data = found.metadata
    classifiers = [line for line in data.get_all("Classifier") or [] if line.startswith("License")]
    declared = (
        data["License-Expression"] or " ".join(classifiers) or (data["License"] or "").strip() or data["License-File"]
    )
    return declared or KNOWN_LICENCES.get(canonicalize_name(data["Name"]), "")


def find_vulnerable(installed: dict[str, Distribution], path: Path = KNOWN) -> Iterator[str]:
    """Distributions with a known vulnerability."""
    for advisory in json.loads(path.read_text("utf-8"))["advisories"]:
        found = installed.get(canonicalize_name(advisory["package"]))
        if found is not None and Version(found.version) < Version(advisory["below"]):
            yield f"{advisory['package']} {found.version}: {advisory['id']}, {advisory['about']}"


def find_startup_code(installed: dict[str, Distribution]) -> Iterator[str]:
    """Distributions with a ``.pth`` file that runs code whenever Python starts."""
    for name, found in installed.items():
        for file in found.files or []:
            if file.suffix == ".pth" and file.name not in STARTUP_FILES:
                lines = Path(str(file.locate())).read_text("utf-8", errors="replace").splitlines()
                if any(re.match(r"import[ \t]", line) for line in lines):
                    yield f"{name}: {file}"


def audit() -> list[str]:
    """List all problems, one per line."""
    requirements = read_requirements()
    installed = list_installed(requirements)
    return [
        *(f"no upper bound: {name}" for name in find_unbounded(requirements)),
        *(f"out of range: {problem}" for problem in find_outside(requirements, installed)),
        *(f"no licence: {name}" for name, found in sorted(installed.items()) if not find_licence(found)),
        *(f"known vulnerability: {problem}" for problem in find_vulnerable(installed)),
        *(f"runs when Python starts: {problem}" for problem in find_startup_code(installed)),
    ]


def main() -> int:
    """Print all problems; return 1 if there are any."""
    problems = audit()
    for problem in problems:
        print(problem)  # noqa: T201 - this is the command line
    print(f"{len(list_installed(read_requirements()))} distributions, {len(problems)} problems")  # noqa: T201
    code = 0
    if os.environ.get(AUDIT_VARIABLE) == "1":
        code = subprocess.run([sys.executable, "-m", "pip_audit", "-r", str(ROOT / "requirements.txt")]).returncode
    return 1 if problems or code else 0


if __name__ == "__main__":
    sys.exit(main())
