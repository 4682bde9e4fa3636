"""docs/plugins: blocks of code do what the page says, and the contract page has every rule of omnivit.testing."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from docs_support import Block, blocks, said_at, script, unsaid
from scratch_support import Scratch

from omnivit.commands.plugins.check import CONTRACTS, contract_of
from omnivit.testing.plugin import ConfiguredContract, PluginContract
from omnivit.testing.rules import Contract, Rule

FOLDER = Path(__file__).parents[2] / "docs/plugins"
RULE = re.compile(r"\*\*`(\w+)`\*\*: (.*) \*Why:\* (.*)")
TRIED = (
    "write-an-encoder.md",
    "write-a-metric.md",
    "change-the-llm.md",
    "pretrained-weights.md",
    "contract.md",
    "publishing.md",
)
"""Pages whose blocks are run."""
SECTIONS = {"Every plugin": PluginContract, "Every plugin with options": ConfiguredContract}
"""Sections of rules that several kinds share; the others are called after their kind."""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    return Scratch(tmp_path_factory.mktemp("environment") / "venv")


@pytest.mark.slow
@pytest.mark.parametrize("page", TRIED)
def test_every_block_works(page: str, scratch: Scratch, tmp_path: Path) -> None:
    code = blocks(FOLDER / page)
    text = script(code)
    if "http.server" in text:
        text = "unset PIP_NO_INDEX; " + text.replace("8765", str(free_port()))
    output = scratch.run("bash", "-c", text, page, cwd=tmp_path)
    for shown in (block for block in code if block.language == "text"):
        part = said_at(before(code, shown), output)
        assert not unsaid(shown.text, part), f"{page}:{shown.line}: {unsaid(shown.text, part)!r} is not in\n{part}"


def before(found: list[Block], shown: Block) -> Block:
    """The commands whose output a block shows."""
    return [block for block in found if block.line < shown.line and block.language == "bash"][-1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.name)
def test_every_page_is_tried(page: Path) -> None:
    """A block in a language that is run belongs to a page whose blocks are run; others parse, or are output."""
    for block in blocks(page):
        assert page.name in TRIED or block.language not in ("bash", "python"), f"{page.name}:{block.line} is not tried"
        assert block.language in ("bash", "python", "yaml", "toml", "text", ""), f"{page.name}:{block.line}"
        if block.language == "yaml":
            yaml.safe_load(block.text)


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (FOLDER / target).exists(), f"{page.name}: {target}"


def rules_of_the_page() -> Iterator[tuple[str, str, str]]:
    """Section, name and wording of every rule on the contract's page."""
    parts = re.split(r"^## (.+)\n", (FOLDER / "contract.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for section, text in zip(parts[1::2], parts[2::2], strict=True):
        for item in re.findall(r"^- (.+(?:\n  .+)*)", text, flags=re.MULTILINE):
            found = RULE.fullmatch(" ".join(item.split()))
            assert found, f"{section}: {item!r} is no rule with its reason"
            assert len(found[3].split()) > 3, f"{section}: {found[1]} gives no reason"
            yield section, found[1], found[2]


def rules_of_the_contracts() -> Iterator[tuple[str, str, str]]:
    """The same by omnivit.testing."""
    shared: set[str] = set()
    for section, contract in SECTIONS.items():
        yield from new_rules(section, contract, shared)
        shared |= {rule.name for rule in contract.rules()}
    for kind in CONTRACTS:
        yield from new_rules("LLMs" if kind == "llms" else kind.capitalize(), contract_of(kind), shared)


def new_rules(section: str, contract: type[Contract], shared: set[str]) -> Iterator[tuple[str, str, str]]:
    """Of a contract, the rules that are in no section yet."""
    rules: list[Rule] = [rule for rule in contract.rules() if rule.name not in shared]
    yield from ((section, rule.name, rule.wants) for rule in rules)


def test_the_contract_page_has_every_rule_in_its_own_words() -> None:
    found, expected = list(rules_of_the_page()), list(rules_of_the_contracts())
    assert [rule for rule in found if rule not in expected] == [], "not, or no longer, in omnivit.testing"
    assert [rule for rule in expected if rule not in found] == [], "not on the page"
    assert found == expected, "in another order"
