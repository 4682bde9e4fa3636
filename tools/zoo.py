"""The table of the zoo, from recipes/zoo/systems.yaml.

    python tools/zoo.py            write recipes/zoo/README.md
    python tools/zoo.py --count    print how many systems there are of each state

A system is `whole` if it has a recipe without deviations, whose special parts have tests against the original. The test
on small models (`make zoo`) holds for every recipe that is listed.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[1] / "recipes" / "zoo"
DATA, README = FOLDER / "systems.yaml", FOLDER / "README.md"
WHOLE, DEVIATIONS, NOT_YET = "whole", "deviations", "not yet"
HEAD = """\
# The zoo: 65 systems of visual instruction tuning

The systems of the survey "Visual Instruction Tuning towards General-Purpose Multimodal Model" (arXiv 2312.16602, Tables
II and III). Each recipe has the published sizes and hub ids; its first lines say how to run it, which data it needs and
how it differs from the paper. To try one without downloads, with small random models under the same hub ids:

    omnivit zoo tiny hub
    OMNIVIT_HUB=hub omnivit check recipes/zoo/llava.yaml --without-data data.root=.

- **whole**: as in the paper. On small models the recipe trains, resumes and answers, trains exactly the parts that the
  paper trains, and gives as many tokens (`make zoo`); its special parts were compared with the original.
- **deviations**: it runs, with the named differences.
- **not yet**: a part is missing, which is named.

`python tools/zoo.py` writes this page from systems.yaml.
"""


def main() -> None:
    """Write the page, or print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", action="store_true", help="print the number of systems of each state")
    content = read()
    if parser.parse_args().count:
        print(count(content))
        return
    README.write_text(page(content), encoding="utf-8")


def read() -> dict[str, Any]:
    """The content of systems.yaml."""
    content: dict[str, Any] = yaml.safe_load(DATA.read_text(encoding="utf-8"))
    return content


def state(system: Mapping[str, Any]) -> str:
    """Of a system: whole, deviations or not yet."""
    if "recipe" not in system:
        return NOT_YET
    return DEVIATIONS if system.get("deviations") or not system.get("parity") else WHOLE


def count(content: Mapping[str, Any]) -> str:
    """The numbers of all states, in one line."""
    numbers = Counter(state(system) for system in content["systems"])
    total = len(content["systems"])
    others = f"{numbers[DEVIATIONS]} with deviations, {numbers[NOT_YET]} not yet"
    return f"zoo: {numbers[WHOLE]} of {total} systems whole, {others}"


def page(content: Mapping[str, Any]) -> str:
    """The text of README.md."""
    return "\n".join([HEAD, f"{count(content)[5:].capitalize()}.", "", *_rows(content), ""])


def _rows(content: Mapping[str, Any]) -> Iterator[str]:
    yield "| system | state | what differs, or is missing | group | encoder | adapter | LLM |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for system in content["systems"]:
        name = f"[{system['name']}]({system['recipe']}.yaml)" if "recipe" in system else system["name"]
        missing = [content["capabilities"][code] for code in system.get("missing", [])]
        differs = "; ".join(system.get("deviations", missing)) or "-"
        cells = (name, state(system), differs, *(system[key] for key in ("group", "encoder", "adapter", "llm")))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    main()
