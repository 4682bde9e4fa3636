"""Pin the versions that OmniViT is tested with, after pyproject.toml or what its packages have released has changed.

    python tools/pin.py [--constraint FILE]     renew the three files below; needs uv and a network
    python tools/pin.py --check                 say whether they fit pyproject.toml; needs neither

- constraints.txt: the newest allowed versions, of all packages that any extra brings, for every Python and platform
- .ci/oldest.txt: the oldest allowed versions of what pyproject.toml names, and newer ones of what those bring
- omnivit/tested.json: the oldest and the newest version of each package that pyproject.toml names, for `omnivit doctor`

`.ci/versions` installs both files and runs tests with them.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

ROOT = Path(__file__).parents[1]
PROJECT, NEWEST, OLDEST = ROOT / "pyproject.toml", ROOT / "constraints.txt", ROOT / ".ci/oldest.txt"
TESTED = ROOT / "omnivit/tested.json"
EVERYWHERE = ("--universal", "--python-version", "3.10")
WHERE_TESTED = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_39")
TESTED_MARKERS = {"python_version": "3.11", "python_full_version": "3.11.7", "sys_platform": "linux",
                  "platform_machine": "x86_64", "platform_system": "Linux", "os_name": "posix",
                  "implementation_name": "cpython", "platform_python_implementation": "CPython"}  # fmt: skip
TOOLS_ALONE = ("dev",)
"""Extras of which no run depends: their ranges are not told by `omnivit doctor`."""
HEADERS: Mapping[Path, str] = {
    NEWEST: """\
# A complete set of versions that works together: pip install -c constraints.txt -e ".[all]"
# Every test runs with it on Linux (x86_64) and Python 3.11. For other Pythons and platforms, which have the markers,
# versions are resolved and not tested. What torch pins itself (CUDA's libraries, triton) is left out.
# Made by tools/pin.py; do not edit.
""",
    OLDEST: """\
# The oldest versions that pyproject.toml allows, with which .ci/versions runs the tests of models, adapters, generation
# and resume. Made by tools/pin.py; do not edit.
""",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Renew the files, or check them; the status is 1 where they do not fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--constraint", type=Path, help="versions that are not to be passed, as of an index of your own"
    )
    parser.add_argument("--check", action="store_true", help="change nothing, and say what does not fit")
    arguments = parser.parse_args(argv)
    if not arguments.check:
        caps = [] if arguments.constraint is None else ["--constraint", str(arguments.constraint)]
        NEWEST.write_text(HEADERS[NEWEST] + newest(caps), encoding="utf-8")
        OLDEST.write_text(HEADERS[OLDEST] + resolved([*EVERYWHERE, *_oldest_options()]), encoding="utf-8")
        TESTED.write_text(tested_text(), encoding="utf-8")
    problems = [*unbounded(), *misfits()]
    print("\n".join(problems) or "constraints.txt, .ci/oldest.txt and omnivit/tested.json fit pyproject.toml")
    return bool(problems)


def newest(caps: Sequence[str]) -> str:
    """The newest versions where tests run, and elsewhere those or, where they do not exist there, older ones."""
    tested = resolved([*WHERE_TESTED, "--all-extras", *caps])
    with tempfile.TemporaryDirectory() as folder:
        bounds = Path(folder) / "bounds.txt"
        bounds.write_text(tested.replace("==", "<="), encoding="utf-8")
        return resolved([*EVERYWHERE, "--all-extras", *caps, "--constraint", str(bounds)])


def resolved(options: Sequence[str]) -> str:
    """What uv resolves, a line a version, without what torch pins itself."""
    command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", *options, str(PROJECT)]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"uv cannot resolve: {' '.join(command)}\n{done.stderr}")
    lines = done.stdout.splitlines(keepends=True)
    return "".join(line for line in lines if not re.match(r"(nvidia|cuda)-|triton==", line))


def requirements(extras: bool = True) -> dict[str, list[Requirement]]:
    """What pyproject.toml names: canonical name -> its requirements, those of OmniViT's own extras left out."""
    if tomllib is None:
        sys.exit("tools/pin.py needs Python 3.11 or newer.")
    project: dict[str, Any] = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    groups = project["optional-dependencies"] if extras else {}
    texts = [*project["dependencies"], *(text for name in groups if name not in TOOLS_ALONE for text in groups[name])]
    found: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, texts):
        if requirement.name != project["name"]:
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return dict(sorted(found.items()))


def pins(path: Path, everywhere: bool = True) -> dict[str, list[Version]]:
    """Canonical name -> its pinned versions, of every marker or of that where tests run."""
    found: dict[str, list[Version]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        requirement = None if line.startswith("#") else Requirement(line)
        if requirement and (everywhere or not requirement.marker or requirement.marker.evaluate(TESTED_MARKERS)):
            name, version = canonicalize_name(requirement.name), str(requirement.specifier).removeprefix("==")
            found.setdefault(name, []).append(Version(version))
    return found


def tested_text() -> str:
    """The content of omnivit/tested.json."""
    oldest, newest = pins(OLDEST, everywhere=False), pins(NEWEST, everywhere=False)
    tested = [name for name in requirements() if name in oldest and name in newest]
    ranges = {name: {"oldest": str(oldest[name][0]), "newest": str(newest[name][0])} for name in tested}
    return json.dumps(ranges, indent=1) + "\n"


def unbounded() -> Iterable[str]:
    """Requirements without a lower or an upper bound."""
    for name, wanted in requirements().items():
        for requirement in wanted:
            operators = {part.operator for part in requirement.specifier}
            if not (operators & {"==", "~="} or {">=", "<"} <= operators):
                yield f"pyproject.toml: {name} has not both a lower (>=) and an upper bound (<)"


def misfits() -> Iterable[str]:
    """What in the three files does not fit pyproject.toml."""
    for name, wanted in requirements().items():
        for path in (NEWEST, OLDEST):
            versions = pins(path).get(name, [])
            if not versions:
                yield f"{path.relative_to(ROOT)}: {name} is missing"
            for requirement in wanted:
                for version in versions:
                    if version not in requirement.specifier:
                        yield f"{path.relative_to(ROOT)}: {name} {version} is not in {requirement.specifier}"
        floors = [Version(part.version) for part in wanted[0].specifier if part.operator == ">="]
        if floors and floors[0] < min(pins(OLDEST).get(name, floors)):
            yield f"pyproject.toml: {name} >= {floors[0]} is not proven: the oldest that can be installed is newer"
    if TESTED.read_text(encoding="utf-8") != tested_text():
        yield "omnivit/tested.json: is not what the other files say"


def _oldest_options() -> list[str]:
    extras = [name for name in _extras() if name not in TOOLS_ALONE]
    return ["--resolution", "lowest-direct", *(option for name in extras for option in ("--extra", name))]


def _extras() -> Iterable[str]:
    assert tomllib is not None
    return tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]


if __name__ == "__main__":
    sys.exit(main())
