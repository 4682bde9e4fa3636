"""docs/data.md: its table of data sets has the readers and options with which the fixtures are read."""

from __future__ import annotations

import re

import yaml
from docs_support import ROOT

ROW = re.compile(r"^\| (\d+) \| (.*?) \| (?:`(\w+)`|-) \| (?:`(.*?)`)? *\| .*\|$", re.MULTILINE)


def test_the_table_has_every_set_as_its_fixture_is_read() -> None:
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8").partition("## The data sets of the survey")[2]
    rows = [
        (int(number), name, reader, yaml.safe_load(options.replace("\\|", "|")) if options else {})
        for number, name, reader, options in ROW.findall(text)
    ]
    table = yaml.safe_load((ROOT / "tests/readers/table_one.yaml").read_text(encoding="utf-8"))
    expected = [(row["number"], row["name"], row["reader"], row.get("options", {})) for row in table["sets"]]
    expected += [(number, why.partition(": ")[0], "", {}) for number, why in table["unknown"].items()]
    assert rows == sorted(expected, key=lambda row: row[0])
