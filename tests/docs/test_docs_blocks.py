"""Pages and README: every recipe in a block of them is one that is taken, every command and file in a span is there.

docs/adapters.md and docs/modalities.md have tests of their own for their YAML, docs/plugins/ for all of its blocks.
Shell commands and Python in blocks are run by test_docs_commands.py.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from docs_support import FENCE, PAGES, ROOT, blocks, is_command

from omnivit import cli
from omnivit.contracts import registries
from omnivit.contracts.options import merge_options
from omnivit.contracts.sample import Boxes, Target, Token
from omnivit.data.records import typed_messages
from omnivit.recipe import Slot, Stage, load
from omnivit.recipe.convert import hints
from omnivit.scaffold import names_of, render, write

OWN_TESTS = {"adapters.md": "test_docs_adapters.py", "modalities.md": "test_docs_modalities.py"}
OURS = r"(?:omnivit|encoders|adapters|recipes|samples|tools|tests|benchmarks|docs)"
FILE = re.compile(rf"^{OURS}/[\w./*{{}},-]*$|^[\w-]+\.(?:md|toml)$")


def of_language(language: str) -> list[tuple[str, str]]:
    """Page and text of every block of a language."""
    return [(page.name, block.text) for page in PAGES for block in blocks(page) if block.language == language]


def spans(page: Path) -> list[str]:
    """What stands between backquotes in its paragraphs."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text(encoding="utf-8")))


def found_commands() -> list[tuple[str, list[str]]]:
    """Page and words of every span that is a command."""
    commands = []
    for page in PAGES:
        for part in (part for span in spans(page) for part in span.split(" && ")):
            plain = re.sub(r"^\S*\.venv/bin/", "", part)
            if " " in plain and is_command(plain):
                commands.append((page.name, shlex.split(plain)))
    return commands


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
    assert len(found) > 40
    for words in (["make", "PYTHON=python3.12", "test"], ["omnivit", "chat", "RUN"], ["omnivit", "media", "FILE..."]):
        assert words in found


def files() -> list[tuple[str, str]]:
    """Every file of the repository that a page names in a span or a link, from where it is reckoned."""
    names = []
    for path in PAGES:
        text = FENCE.sub("", path.read_text(encoding="utf-8"))
        names += [(path.name, name) for name in spans(path) if re.match(rf"^{OURS}/\S*$", name)]
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in link:
                names.append((path.name, str((path.parent / link).resolve().relative_to(ROOT))))
    return list(dict.fromkeys(names))


@pytest.mark.parametrize(("page", "name"), files())
def test_a_file_that_is_named_is_there(page: str, name: str) -> None:
    assert there(name), f"{page} names {name}"


def completed(read: dict[str, Any]) -> dict[str, Any]:
    """A recipe in which a part of one stands in its place."""
    recipe: dict[str, Any] = {"model": {"llm": {"name": "causal", "path": "some/model"}}, "stages": []}
    if "model" in read or "init_from" in read:
        return recipe | read
    if set(read) <= set(hints(Stage)) and set(read) != {"inputs"}:  # those alone are the model's
        return recipe | {"stages": [{"name": "s", "data": [{"path": "a.jsonl"}], "train": {"llm.*": 1e-5}, **read}]}
    slots = {"image": read} if set(read) <= set(hints(Slot)) else read.get("inputs", read)
    return recipe | {"model": {**recipe["model"], "inputs": slots}}


@pytest.mark.parametrize(
    "text", [pytest.param(text, id=page) for page, text in of_language("yaml") if page not in OWN_TESTS]
)
def test_a_recipe_is_one_that_is_taken(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    file = tmp_path / "recipes/page.yaml"
    file.write_text(yaml.safe_dump(completed(yaml.safe_load(text))), encoding="utf-8")
    recipe = load(file)
    heads = [("heads", new_head(found, tmp_path)) for found in recipe.model.heads.values()]
    parts = [("llms", recipe.model.llm), *heads]
    for branches in recipe.model.inputs.values():
        for branch in branches if isinstance(branches, list) else [branches]:
            parts += [("encoders", branch.encoder), ("adapters", branch.adapter)]
    for kind, named in parts:
        if "share" not in named:
            core = {"name"} if kind == "llms" else {"name", "lora"}
            options = {key: value for key, value in named.items() if key not in core}
            merge_options(registries.ALL[kind].get(named["name"]).Config, options, kind)
    for source in (source for stage in recipe.stages for source in stage.data):
        config = registries.readers.get(source.reader).Config
        assert not source.options or config is not None
        if config is not None:
            merge_options(config, source.options, "options")


def new_head(block: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A head that `omnivit new` makes, as a recipe may name its class."""
    names = names_of("head", block["name"])
    write(render(names), folder / names.distribution)
    sys.path.insert(0, str(folder / names.distribution / "src"))
    return {**block, "name": f"{names.package}:{names.stem}Head"}


@pytest.mark.parametrize("text", [pytest.param(text, id=page) for page, text in of_language("json")])
def test_a_record_is_one_that_is_read(text: str) -> None:
    parts = [part for message in typed_messages(json.loads(text), None) for part in message.parts]
    assert any(isinstance(part, Target | Boxes | Token) for part in parts)


def test_pages_with_yaml_have_a_test() -> None:
    pages = {page for page, _ in of_language("yaml")}
    assert {"README.md", "recipes.md", *OWN_TESTS} <= pages
    assert all((ROOT / "tests/docs" / name).is_file() for name in OWN_TESTS.values())


def test_no_block_is_of_another_kind() -> None:
    """Those are run, taken as recipes or records, or only to be read; another language needs a test of its own."""
    known = {"", "text", "yaml", "json", "python", "bash", "sh", "console"}
    assert {block.language for page in PAGES for block in blocks(page)} <= known
