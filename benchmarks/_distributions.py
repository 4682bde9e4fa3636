"""Two hundred distributions with plugins, twenty of them broken, each in its own way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

HEALTHY = 180
MODULE = '''"""Sees {name}."""

from __future__ import annotations

{first}
from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """Its options."""

    size: int = 16
    """Pixels of a side."""


class {name}:
    """A plugin, as far as its source tells."""

    Config = Config
    {body}

    def forward(self, items: object) -> object:
        return items
'''
README = (
    "\n\n# A plugin\n\n" + "It sees what others do not, and says so at length, as descriptions of packages do. " * 200
)
"""As long as such are: whoever reads METADATA whole takes his time."""


def write(folder: Path, healthy: int = HEALTHY) -> dict[str, str]:
    """Install them under `folder`, which is then put on the path.

    Returns:
        Distribution -> a part of the reason why it is broken, for the broken ones.
    """
    for number in range(healthy):
        around = [f"healthy-{(number + step) % healthy:03d}" for step in (1, 2)]  # in circles
        _install(folder, f"healthy-{number:03d}", f"healthy_{number:03d}", requires=around)
    slow = "import time; time.sleep(600)"
    _write(folder / "healthy_000.py", MODULE.format(name="Eye", first=slow, body="contract = 1"))
    for kind in (_modules, _entries, _metadata):
        kind(folder)
    return {**BROKEN}


BROKEN: Mapping[str, str] = {
    "broken-raises": "line 5 raises RuntimeError('no licence')",
    "broken-import": "line 5 imports 'no_such_library', which is not installed",
    "broken-syntax": "SyntaxError",
    "broken-module": "module 'gone' is not found",
    "broken-class": "defines no 'Ear'",
    "broken-contract": "it is written for contract 99",
    "broken-value": "'broken_value' is not of the form 'module:Class'",
    "broken-line": "line 2 of its entry_points.txt, 'thermal', is not of the form 'NAME = module:Class'",
    "broken-bytes": "line 2 of its entry_points.txt contains bytes that are not UTF-8",
    "broken-section": "']' is missing",
    "broken-folder": "its entry_points.txt cannot be read",
    "broken-escape": "a plugin may not have this name",
    "broken-alphabet": "a plugin may not have this name",
    "broken-long": "a plugin may not have this name",
    "broken-absent": "no-such-library>=2 is not installed",
    "broken-old": "packaging>=9999 is required",
    "broken-circle": "no-such-library is not installed",
    "broken-requirement": "the requirement 'not valid !' of broken-requirement cannot be read",
    "broken-encoding": "its METADATA contains bytes that are not UTF-8",
    "broken-nothing": "its METADATA is missing",
}
"""Distribution -> a part of its reason."""


def _modules(folder: Path) -> None:
    """What is wrong with modules."""
    _install(folder, "broken-raises", "broken_raises", first="raise RuntimeError('no licence')")
    _install(folder, "broken-import", "broken_import", first="import no_such_library")
    _install(folder, "broken-syntax", "broken_syntax", first="def f(:")
    _install(folder, "broken-module", "broken_module", entry="broken_module = gone:Eye")
    _install(folder, "broken-class", "broken_class", entry="broken_class = broken_class:Ear")
    _install(folder, "broken-contract", "broken_contract", body="contract = 99")


def _entries(folder: Path) -> None:
    """What is wrong with entry points. Two of them fail `import torch`, where nobody shields it."""
    _install(folder, "broken-value", "broken_value", entry="broken_value = broken_value")
    _install(folder, "broken-line", "broken_line", entry="thermal")
    info = _install(folder, "broken-bytes", "broken_bytes")
    (info / "entry_points.txt").write_bytes(b"[omnivit.encoders]\nth\xffrmal = broken_bytes:Eye\n")
    info = _install(folder, "broken-section", "broken_section")
    (info / "entry_points.txt").write_text("[omnivit.encoders\nbroken_section = broken_section:Eye\n")
    info = _install(folder, "broken-folder", "broken_folder")
    (info / "entry_points.txt").unlink()
    (info / "entry_points.txt").mkdir()
    for kind, name in {"escape": "\x1b[2J\x1b[31mclip\a", "alphabet": "\u0441l\u202eip", "long": "x" * 10_000}.items():
        _install(folder, f"broken-{kind}", f"broken_{kind}", entry=f"{name} = broken_{kind}:Eye")


def _metadata(folder: Path) -> None:
    """What is wrong with METADATA."""
    _install(folder, "broken-absent", "broken_absent", requires=["no-such-library>=2"])
    _install(folder, "broken-old", "broken_old", requires=["packaging>=9999"])
    _install(folder, "broken-circle", "broken_circle", requires=["broken-circle[a]"],
             more=["Provides-Extra: a", "Provides-Extra: b", "Requires-Dist: broken-circle[b]; extra == 'a'",
                   "Requires-Dist: broken-circle[a]; extra == 'b'",
                   "Requires-Dist: no-such-library; extra == 'b'"])  # fmt: skip
    _install(folder, "broken-requirement", "broken_requirement", requires=["not valid !"])
    info = _install(folder, "broken-encoding", "broken_encoding")
    (info / "METADATA").write_bytes(b"Metadata-Version: 2.1\nName: broken-encoding\nVersion: 1.2\nSummary: \xff\n")
    (_install(folder, "broken-nothing", "broken_nothing") / "METADATA").unlink()


def _install(
    folder: Path,
    distribution: str,
    module: str,
    *,
    entry: str = "",
    requires: list[str] | None = None,
    more: list[str] | None = None,
    first: str = "",
    body: str = "contract = 1",
) -> Path:
    """A distribution with one module and one encoder; returns its dist-info folder."""
    info = folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
    wanted = [f"Requires-Dist: {text}" for text in ["omnivit", *(requires or [])]]
    head = ["Metadata-Version: 2.1", f"Name: {distribution}", "Version: 1.2", *wanted, *(more or [])]
    _write(info / "METADATA", "\n".join(head) + README)
    _write(info / "entry_points.txt", f"[omnivit.encoders]\n{entry or f'{module} = {module}:Eye'}\n")
    _write(info / "RECORD", f"{module}.py,,\n{info.name}/METADATA,,\n")
    _write(folder / f"{module}.py", MODULE.format(name="Eye", first=first, body=body))
    return info


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
