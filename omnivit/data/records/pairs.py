"""Questions and answers without roles, as ms-swift and LLaMA-Factory document them -> turns.

- `{"query": ..., "response": ..., "history": [[query, response], ...]}`;
- Alpaca's `{"instruction": ..., "input": ..., "output": ..., "history": ...}`, whose question is instruction, line
  break, input;
- `{"conversation": [{"human": ..., "assistant": ...}, ...]}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omnivit.data.records import values
from omnivit.data.records.turns import Turn
from omnivit.errors import DataError


def paired(record: Mapping[str, Any]) -> list[Turn] | None:
    """The turns of a record in one of these forms; None: it has another form.

    Raises:
        DataError: a value is of a wrong type.
    """
    if "conversation" in record:
        return _rounds(record["conversation"])
    if "query" in record and "response" in record:
        query = values.text(record["query"], "query")
        return [*_history(record.get("history")), *_round(query, "query", record["response"], "response")]
    if "instruction" in record and "output" in record:
        parts = [values.text(record["instruction"], "instruction")]
        parts += [] if values.empty(record.get("input")) else [values.text(record["input"], "input")]
        return [*_history(record.get("history")), *_round("\n".join(parts), "instruction", record["output"], "output")]
    return None


def _round(question: object, question_place: str, answer: object, answer_place: str) -> list[Turn]:
    return [Turn("user", question, question_place), Turn("assistant", answer, answer_place)]


def _history(given: object) -> list[Turn]:
    if values.empty(given):
        return []
    if not isinstance(given, (list, tuple)) or any(not isinstance(p, (list, tuple)) or len(p) != 2 for p in given):
        raise DataError("history is not a list of pairs; expected [[question, answer], ...].")
    rounds = [_round(query, f"history[{k}][0]", answer, f"history[{k}][1]") for k, (query, answer) in enumerate(given)]
    return [turn for pair in rounds for turn in pair]


def _rounds(given: object) -> list[Turn]:
    if not isinstance(given, (list, tuple)) or not given:
        raise DataError(f"conversation is {values.spelled(given)}; expected a list of {{human, assistant}}.")
    turns: list[Turn] = []
    for k, item in enumerate(given):
        place = f"conversation[{k}]"
        entry = values.mapping(item, place)
        if set(entry) != {"human", "assistant"}:
            raise DataError(f"{place} has the keys {sorted(map(str, entry))}; expected 'human' and 'assistant'.")
        turns += _round(entry["human"], f"{place}.human", entry["assistant"], f"{place}.assistant")
    return turns
