"""The model card of an export: what it says of a run that was evaluated, and of one that was not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from omnivit.recipe import load as load_recipe
from omnivit.run.export import export
from omnivit.run.export.opened import open_run


@pytest.fixture(scope="module")
def cards(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Of the trained and evaluated run, and of its copy without a report."""
    home = tmp_path_factory.mktemp("card")
    shutil.copytree(trained_run, home / "run")
    shutil.copytree(trained_run, home / "bare")
    (home / "bare" / "report.md").unlink()
    export(open_run(home / "run"), "safetensors", home / "a", {})
    export(open_run(home / "bare"), "peft", home / "b", {})
    texts = [(home / name / "README.md").read_text(encoding="utf-8") for name in "ab"]
    return texts[0], texts[1]


def section(card: str, title: str) -> str:
    return card.partition(f"\n## {title}\n")[2].partition("\n## ")[0].strip()


def test_a_card_has_recipe_data_versions_table_licences_and_limits(cards: tuple[str, str], trained_run: Path) -> None:
    card = cards[0]
    report = (trained_run / "report.md").read_text(encoding="utf-8")
    table = [line for line in report.partition("## Evaluation")[2].splitlines() if line.startswith("|")]
    evaluation = section(card, "Evaluation")
    assert table[0] in evaluation and table[2] in evaluation and "true media" in table[2]
    assert report.partition("## Evaluation\n\n")[2].partition("\n")[0] in evaluation, "the verdict"
    assert "sha256:" in section(card, "Training") and "train.jsonl" in section(card, "Training")
    recipe = yaml.safe_load(section(card, "Recipe").removeprefix("```yaml").removesuffix("```"))
    original = load_recipe(trained_run / "recipe.yaml")
    assert recipe["model"]["llm"]["lora"] == original.model.llm["lora"]
    assert [stage["train"] for stage in recipe["stages"]] == [stage.train for stage in original.stages]
    for library in ("omnivit", "torch", "transformers"):
        assert f"| {library} | " in section(card, "Versions")
    licences = section(card, "Licences")
    assert "CLIP (OpenAI): MIT" in licences and "| data: train.jsonl | not stated |" in licences
    assert "Check answers before you rely on them" in section(card, "Limits")
    assert "evaluated" not in section(card, "Limits")
    assert str(trained_run.parent) not in card


def test_a_card_of_a_run_without_evaluation_says_so(cards: tuple[str, str]) -> None:
    card = cards[1]
    assert section(card, "Evaluation") == "The run has no evaluation."
    assert "It was not evaluated" in section(card, "Limits") and "It is the LLM alone" in section(card, "Limits")
    assert "PeftModel.from_pretrained" in section(card, "How to load it")


def test_the_hub_reads_the_head_of_a_card(cards: tuple[str, str]) -> None:
    heads = [ModelCard(card).data.to_dict() for card in cards]
    assert heads[0] == {"library_name": "omnivit", "tags": ["omnivit"]}
    assert heads[1] == {"library_name": "peft", "tags": ["omnivit"], "pipeline_tag": "text-generation"}
