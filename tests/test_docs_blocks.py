"""Pages and README: every block of code in them is one that works, every command and file in them is there.

docs/adapters.md and docs/modalities.md have tests of their own for their YAML, docs/plugins/ for all of its blocks.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from assistant_support import make_run

from omnivit import cli, registry
from omnivit.data.records import typed_messages
from omnivit.data.sample import Target
from omnivit.options import merge_options
from omnivit.recipe import Recipe, Slot, Stage, load
from omnivit.scaffold import names_of, render, write
from omnivit.typed import hints

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/decisions").glob("*.md")),
]
OWN_TESTS = {"adapters.md": "test_docs_adapters.py", "modalities.md": "test_docs_modalities.py"}
PROGRAMS = ("omnivit", "python", "make", "pip", "pytest", "torchrun", "bash")
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", flags=re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^|\n\n)((?: {4}.*\n|\n(?= {4}))+)")
OURS = r"(?:omnivit|encoders|adapters|recipes|samples|tools|tests|benchmarks|docs)"
FILE = re.compile(rf"^{OURS}/[\w./*{{}},-]*$|^[\w-]+\.(?:md|toml)$")


class Block(NamedTuple):
    """A block of code of a page."""

    page: str
    language: str
    text: str


def blocks() -> list[Block]:
    """Those between fences, and indented ones, whose language is empty."""
    found = []
    for path in PAGES:
        page, text = path.name, path.read_text(encoding="utf-8")
        found += [Block(page, language, inside) for language, inside in FENCE.findall(text)]
        found += [Block(page, "", inside) for inside in INDENTED.findall(FENCE.sub("", text))]
    return found


def of_language(*languages: str) -> list[Block]:
    return [block for block in blocks() if block.language in languages]


def commands() -> Iterator[tuple[str, str]]:
    """Page and command: lines of blocks that begin with a program, and spans inside a paragraph that do."""
    for block in of_language("", "bash", "sh", "console"):
        lines = re.sub(r"\\\n\s*", "", block.text).splitlines()
        yield from ((block.page, line.strip().removeprefix("$ ")) for line in lines)
    for path in PAGES:
        for span in re.findall(r"`([^`\n]+)`", FENCE.sub("", path.read_text(encoding="utf-8"))):
            yield path.name, span


def found_commands() -> list[tuple[str, list[str]]]:
    """Page and words of every command, comments and explanations beside it left out."""
    found = []
    for page, line in commands():
        for part in re.split(r" && ", line):
            plain = re.sub(r"^\S*\.venv/bin/", "", part)
            if plain.split(" ")[0] in PROGRAMS and " " in plain:
                found.append((page, shlex.split(re.split(r" {2,}(?![-\[])", plain)[0], comments=True)))
    return found


def problem(words: list[str]) -> str:
    """What is wrong with a command; empty if nothing is."""
    program, *rest = words
    if program in ("python", "torchrun") and "-m" in rest:
        program, *rest = rest[rest.index("-m") + 1 :]
    if program == "omnivit":
        return omnivit_problem(rest)
    missing = [word for word in rest if FILE.match(word) and not there(word)]
    if missing:
        return f"there is no {missing[0]}"
    check = {"python": script_problem, "make": make_problem, "pip": pip_problem}.get(program)
    return check(rest) if check else ""


def there(name: str) -> bool:
    """Whether a file of the repository is there; capital letters in its last part stand for any name."""
    pattern = re.sub(r"\b[A-Z]{2,}\b(?=\.yaml)", "*", name).rstrip("/")
    alternatives = re.match(r"(.*)\{(.*)\}(.*)", pattern)
    if alternatives:
        before, inside, after = alternatives.groups()
        return all(there(f"{before}{each}{after}") for each in inside.split(","))
    return any(ROOT.glob(pattern))


def omnivit_problem(words: list[str]) -> str:
    """Whether the command line takes it. Where brackets tell what may be left out, its options have to be there."""
    verb, *rest = words
    if verb.startswith("-"):
        return "" if verb in ("--help", "--version") else f"omnivit takes no {verb}"
    if verb == "COMMAND" or verb not in cli.VERBS:
        return "" if verb == "COMMAND" else f"omnivit has no verb {verb}"
    parser = argparse.ArgumentParser(prog=verb)
    importlib.import_module(f"omnivit.commands.{verb.replace('-', '_')}").add_arguments(parser)
    options = {name for action in parser._actions for name in action.option_strings}
    unknown = set(re.findall(r"--[\w-]+", " ".join(rest))) - options
    missing = [word for word in rest if word.startswith("recipes/") and not there(word)]
    if unknown or missing:
        return f"{verb} has no {unknown.pop()}" if unknown else f"there is no {missing[0]}"
    if not rest or any(mark in " ".join(rest) for mark in "[]"):
        return ""
    try:
        parsed = parser.parse_intermixed_args(rest)
    except SystemExit:
        return f"{verb} does not take {rest}"
    recipe = getattr(parsed, "recipe", None)
    if isinstance(recipe, Path) and str(recipe).startswith("recipes/") and "NAME" not in str(recipe):
        load(ROOT / recipe, [word for word in parsed.overrides if word != "key=value"])
    return ""


def script_problem(words: list[str]) -> str:
    """Whether a script knows the options and names that it is given."""
    script, *rest = words
    if not script.endswith(".py"):
        return ""
    source = (ROOT / script).read_text(encoding="utf-8")
    unknown = [word for word in rest if word.startswith("--") and f'"{word}"' not in source]
    if script == "tools/assets.py":
        unknown += [name for name in rest if name != "all" and not (ROOT / f"tools/asset_{name}.py").is_file()]
    return f"{script} knows no {unknown[0]}" if unknown else ""


def make_problem(words: list[str]) -> str:
    """Whether the Makefile has the targets."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    unknown = [word for word in words if "=" not in word and not word.startswith("-") and word not in targets]
    return f"the Makefile has no target {unknown[0]}" if unknown else ""


def pip_problem(words: list[str]) -> str:
    """Whether OmniViT has the extras, and the packages with models are those that `make` takes."""
    extras = {extra for word in words for extra in re.findall(r"^(?:\.|omnivit)\[(.*)\]$", word)}
    known = metadata.metadata("omnivit").get_all("Provides-Extra") or []
    unknown = [extra for each in extras for extra in each.split(",") if extra not in known]
    models = subprocess.run(["make", "-s", "models"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    packages = {model.partition("==")[0] for model in models.split()}
    named = [word for word in words if re.fullmatch(r"[a-z][\w-]+", word) and word != "install"]
    unknown += [] if set(named) <= {*packages, "omnivit"} else named
    return f"pip cannot install {unknown[0]}" if unknown else ""


@pytest.mark.parametrize(
    ("page", "words"), found_commands(), ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_a_command_is_one_that_works(page: str, words: list[str]) -> None:
    assert not problem(words), f"{page}: `{' '.join(words)}`"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("omnivit trian recipes/smoke.yaml", "no verb trian"),
        ("omnivit train recipes/smoke.yaml --run-dri x", "train has no --run-dri"),
        ("omnivit train recipes/smok.yaml", "there is no recipes/smok.yaml"),
        ("omnivit media", ""),
        ("omnivit chat a b", "chat does not take"),
        ("omnivit eval RUN --data F [--blin]", "eval has no --blin"),
        ("python -m omnivit tune x", "no verb tune"),
        ("python benchmarks/train.py --fast", "knows no --fast"),
        ("python benchmarks/trian.py", "there is no benchmarks/trian.py"),
        ("python tools/assets.py whispers", "knows no whispers"),
        ("make demos", "no target demos"),
        ("make PYTHON=python3.12 test", ""),
        ("pip install -e .[allx]", "cannot install allx"),
        ("pip install --no-deps llm-smollm3", "cannot install llm-smollm3"),
        ("pytest tests/test_clip.py", "there is no tests/test_clip.py"),
    ],
)
def test_a_command_that_does_not_work_is_seen(command: str, reason: str) -> None:
    found = problem(shlex.split(command))
    assert reason in found and bool(found) is bool(reason)


def test_commands_are_found() -> None:
    found = [words for _, words in found_commands()]
    assert len(found) > 60
    for words in (["make", "demo"], ["omnivit", "show", "recipes/smoke.yaml", "stages.align.epochs=2"]):
        assert words in found
    assert ["omnivit", "media", "FILE..."] in found  # without what stands beside it


def files() -> list[tuple[str, str]]:
    """Every file of the repository that a page names in a span or a link, from where it is reckoned."""
    found = []
    for path in PAGES:
        text = FENCE.sub("", path.read_text(encoding="utf-8"))
        found += [(path.name, name) for name in re.findall(r"`([^`\s]+)`", text) if re.match(rf"^{OURS}/", name)]
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in link:
                found.append((path.name, str((path.parent / link).resolve().relative_to(ROOT))))
    return list(dict.fromkeys(found))


@pytest.mark.parametrize(("page", "name"), files())
def test_a_file_that_is_named_is_there(page: str, name: str) -> None:
    assert there(name), f"{page} names {name}"


def whole(read: dict[str, Any]) -> dict[str, Any]:
    """A recipe in which a part of one stands in its place."""
    recipe: dict[str, Any] = {"model": {"llm": {"name": "causal", "path": "some/model"}}, "stages": []}
    if "model" in read:
        return recipe | read
    if set(read) <= set(hints(Stage)):
        return recipe | {"stages": [{"name": "s", "data": [{"path": "a.jsonl"}], "train": {"llm.*": 1e-5}, **read}]}
    slots = {"image": read} if set(read) <= set(hints(Slot)) else read.get("inputs", read)
    return recipe | {"model": {**recipe["model"], "inputs": slots}}


@pytest.mark.parametrize(
    "block", [x for x in of_language("yaml") if x.page not in OWN_TESTS], ids=lambda block: str(block.page)
)
def test_a_recipe_is_one_that_is_taken(block: Block, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    file = tmp_path / "recipes/page.yaml"
    file.write_text(yaml.safe_dump(whole(yaml.safe_load(block.text))), encoding="utf-8")
    recipe = load(file)
    heads = [("heads", new_head(found, tmp_path)) for found in recipe.model.heads.values()]
    parts = [("llms", recipe.model.llm), *heads]
    for branches in recipe.model.inputs.values():
        for branch in branches if isinstance(branches, list) else [branches]:
            parts += [("encoders", branch.encoder), ("adapters", branch.adapter)]
    for kind, named in parts:
        if "share" not in named:
            options = {key: value for key, value in named.items() if key != "name"}
            merge_options(registry.ALL[kind].get(named["name"]).Config, options, kind)
    readers = {source.reader for stage in recipe.stages for source in stage.data}
    assert readers <= set(registry.readers.names())


def new_head(block: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A head that `omnivit new` makes, as a recipe may name its class."""
    names = names_of("head", block["name"])
    write(render(names), folder / names.distribution)
    sys.path.insert(0, str(folder / names.distribution / "src"))
    return {**block, "name": f"{names.package}:{names.stem}Head"}


@pytest.mark.parametrize("block", of_language("json"), ids=lambda block: str(block.page))
def test_a_record_is_one_that_is_read(block: Block) -> None:
    parts = [part for message in typed_messages(json.loads(block.text), None) for part in message.parts]
    assert any(isinstance(part, Target) for part in parts)


def test_pages_with_yaml_have_a_test() -> None:
    pages = {block.page for block in of_language("yaml")}
    assert {"README.md", "recipes.md", *OWN_TESTS} <= pages
    assert all((ROOT / "tests" / name).is_file() for name in OWN_TESTS.values())


@pytest.mark.parametrize("block", of_language("python"), ids=lambda block: str(block.page))
def test_python_runs(
    block: Block, load_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder with a small model as runs/quickstart, beside the samples of the repository."""
    make_run(load_recipe(), tmp_path / "runs/quickstart")
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, block.page, "exec"), {})


@pytest.mark.parametrize("block", of_language("toml"), ids=lambda block: str(block.page))
def test_toml_names_our_groups(block: Block) -> None:
    groups = re.findall(r'^\[project\.entry-points\."(.+)"\]$', block.text, flags=re.MULTILINE)
    assert groups and set(groups) <= {known.group for known in registry.ALL.values()}
    assert re.search(r'^\w+ = "[\w.]+:\w+"$', block.text, flags=re.MULTILINE)


def test_no_block_is_of_another_kind() -> None:
    assert {block.language for block in blocks()} <= {
        "",
        "text",
        "yaml",
        "json",
        "python",
        "toml",
        "bash",
        "sh",
        "console",
    }
