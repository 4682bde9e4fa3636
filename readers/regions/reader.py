"""The reader `regions`: which form a record has, and its example."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnivit_readers.regions.records import RegionsConfig, boxed, located, marked, referring

from omnivit.plugin import DataError, Message, ReaderExample, RecordReader, written_example


class RegionsReader(RecordReader):
    """Boxes in questions and answers; the codec of the model (`model.boxes`) writes them as text.

    The form follows from a record's keys: Shikra-RD (`question_boxes_seq`), GRIT of Ferret (`box_x1y1x2y2`), PVIT
    (`<Region>` in conversations), or a box under the key that the option `box` names. Masks and features of regions are
    not read: a record with `masks` is refused unless the recipe ignores them.
    """

    contract = 1
    Config = RegionsConfig
    config: RegionsConfig
    mark = re.compile(rb'"image"|"img_path"')
    keys = frozenset(
        {"id", "image", "img_path", "boxes", "question", "question_boxes_seq", "answer", "cot_with_ans"}
        | {"answer_boxes_seq", "box_x1y1x2y2", "conversations", "system", "image_h", "image_w", "box"}
    )

    def messages(self, record: Mapping[str, Any]) -> tuple[Message, ...]:
        if record.get("masks") and "masks" not in self.ignore:
            raise DataError(
                "the key 'masks' is not read: boxes stand for regions here. To train with the boxes alone, write "
                "`ignore: [masks]` next to the file's `path` in the recipe."
            )
        if self.config.box is not None:
            return boxed(record, self.config, self.root)
        if "question_boxes_seq" in record:
            return referring(record, self.config, self.root)
        if "box_x1y1x2y2" in record:
            return located(record, self.config, self.root, self.ignore)
        if "conversations" in record:
            return marked(record, self.config, self.root, self.ignore)
        raise DataError(
            f"the record has the keys {', '.join(sorted(map(str, record)))}, and none of 'question_boxes_seq', "
            "'box_x1y1x2y2' and 'conversations'. If it has a box under another key, name that in the option `box`."
        )

    def reads(self) -> frozenset[str]:
        return self.keys | self.config.keys()

    @classmethod
    def example(cls, folder: Path) -> ReaderExample:
        """A record of Shikra-RD, GRIT and PVIT; and files that lose a box, have a wrong one, or have no form."""
        turns = [
            {"from": "human", "value": "<image>\nWhat is <bbox_location0>?"},
            {"from": "gpt", "value": "A boat in the harbour."},
        ]
        region = "<image>\nWhat is <Region><L100><L200><L300><L400></Region>?"
        shikra = {
            "img_path": "harbour.jpg",
            "boxes": [[10, 20, 110, 220], [30, 40, 50, 60]],
            "question": "Where does <ph_st>the boat<ph_ed> lie?",
            "question_boxes_seq": [[0]],
            "cot_with_ans": "<ph_st>The boat<ph_ed> lies in the harbour.",
            "answer_boxes_seq": [[0, 1]],
            "answer": "In the harbour.",
        }
        grit = {"image": "harbour.jpg", "conversations": turns, "box_x1y1x2y2": [[[10, 20, 110, 220]], []]}
        pvit = {"image": "harbour.jpg", "conversations": [{"from": "human", "value": region}, turns[1]]}
        bad: dict[str, dict[str, Any]] = {
            "lost-box": grit | {"box_x1y1x2y2": [[], []]},
            "wrong-box": grit | {"box_x1y1x2y2": [[[10, 20]], []]},
            "no-number": shikra | {"question_boxes_seq": [[7]]},
            "no-form": {"image": "harbour.jpg"},
        }
        return written_example(folder, [shikra, grit, pvit], bad)
