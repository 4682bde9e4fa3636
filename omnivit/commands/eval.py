"""`omnivit eval`: score a trained model on a file of samples."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from omnivit.commands.generate import add_checkpoint_argument
from omnivit.console import reserved
from omnivit.errors import DataError
from omnivit.interrupts import explained
from omnivit.run.opening import open_assistant
from omnivit.run.questions import media_root
from omnivit.run.trust import add_trust_argument

if TYPE_CHECKING:
    from omnivit.contracts.reader import Reader
    from omnivit.evaluate.score import Answered, Score
    from omnivit.recipe.schema import Condition

ACCURACY, EXACT_MATCH = "accuracy", "exact_match"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a trained run")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="file of samples with the reference answers"
    )
    parser.add_argument(
        "--reader", help="reader of the file (default: that of the data of the run; auto: chosen by the first record)"
    )
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="folder of relative media paths (default: the folder of FILE)"
    )
    control = parser.add_mutually_exclusive_group()
    control.add_argument("--blind", action="store_true", help="ask without media")
    control.add_argument("--shuffle", action="store_true", help="ask with the media of another sample instead")
    parser.add_argument("--limit", type=positive, metavar="N", help="ask only the first N samples")
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="default: 16")
    parser.add_argument("--max-new-tokens", type=positive, default=32, metavar="N", help="default: 32")
    parser.add_argument(
        "--choices",
        choices=("generate", "likelihood"),
        help="write answers, or choose the most probable candidate (default: as the run's recipe, else generate)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all answers to this file, as JSON lines")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    add_checkpoint_argument(parser)
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Ask all questions of the file, and print exact match and token F1 with 95% intervals.

    Where the run's recipe names another `evaluation.metric`, that is printed too.
    """
    with reserved(), explained(lambda: "There are no scores yet. Start again with the same command."):
        condition, scores = _measure(args)
    print(json.dumps(summary(condition, scores), indent=1) if args.json else "\n".join(table(condition, scores)))
    return 0


def _measure(args: argparse.Namespace) -> tuple[str, Score]:
    """Ask; gives the condition and what was measured under it."""
    if args.out is not None:
        check_writable(args.out)
        if args.out.resolve() == args.data.resolve():
            raise DataError(f"--out {args.out} is the file of --data, which would be overwritten. Choose another file.")
    root = media_root(args.data, args.root)
    reader = open_questions(args, root)
    assistant = open_assistant(args.run, args.device, args.trust, args.checkpoint, overrides=args.set)
    from omnivit.run.measuring import measured, metric_of

    metric = metric_of(assistant)

    def write(answers: Sequence[Answered]) -> None:
        if args.out is not None:
            from omnivit.files import write_text

            records = (as_record(each, metric) for each in answers)
            write_text(args.out, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))

    condition: Condition = "none" if args.blind else "shuffled" if args.shuffle else "true"
    sizes = args.limit, args.batch_size, args.max_new_tokens
    return condition, measured(assistant, reader, condition, *sizes, args.choices, write)


def check_writable(out: Path) -> None:
    """Refuse a file that cannot be written before questions are asked, whose answers would be lost.

    Raises:
        DataError: says why.
    """
    folder = out.absolute().parent
    if not folder.is_dir():
        raise DataError(f"--out {out}: the folder {folder} does not exist. Create it first.")
    if out.is_dir():
        raise DataError(f"--out {out} is a folder. Name a file.")
    if out.exists() and not os.access(out, os.W_OK):
        raise DataError(f"--out {out} cannot be written to: its permissions forbid it. Choose another file.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"--out {out}: its folder cannot be written to: {error.strerror}. Choose another file."
        ) from error


def open_questions(args: argparse.Namespace, root: Path, options: Mapping[str, Any] = MappingProxyType({})) -> Reader:
    """The file of `--data`, for verbs that ask its questions; `options` replace those of the reader."""
    from omnivit.run import questions

    return questions.open_questions(args.run, args.data, root, args.reader, args.trust, args.set, options)


def as_record(answered: Answered, metric: str) -> dict[str, Any]:
    """One line of `--out`."""
    from omnivit.evaluate.score import ALWAYS, metric_named

    prediction, reference = answered.prediction, answered.reference
    record: dict[str, Any] = {
        "id": answered.sample.id,
        "origin": answered.sample.origin,
        "question": answered.sample.messages[-1].text,
        "media": [str(media) for media in answered.sample.media()],
        "reference": reference,
        "prediction": prediction,
    }
    for name in dict.fromkeys((*ALWAYS, metric)):
        if (single := metric_named(name).answer(prediction, reference)) is not None:
            record[_key(name)] = single
    return record


def summary(condition: str, score: Score) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "condition": condition,
        **{_key(name): asdict(interval) for name, interval in score.metrics.items()},
        **({"heads": {name: asdict(loss) for name, loss in score.heads.items()}} if score.heads else {}),
        "refused": list(score.refused),
        **({"choices": score.choices} if score.choices == "likelihood" else {}),
    }


def table(condition: str, score: Score) -> Sequence[str]:
    """What is printed for people."""
    from omnivit.run.scores import LABELS

    chosen = ", answered by the most probable candidate" if score.choices == "likelihood" else ""
    lines = [f"{score.accuracy.n} questions, asked with {LABELS[condition]}{chosen}"]
    measured = {_label(name): interval for name, interval in score.metrics.items()} | dict(score.heads)
    width = max(map(len, [EXACT_MATCH, *(_label(name) for name in score.metrics)]))
    for label, interval in measured.items():
        bounds = f"95% interval {interval.low:.3f} to {interval.high:.3f}"
        lines.append(f"{label:<{width + 1}} {interval.mean:.3f}   {bounds}")
    return lines + [f"left out: {' '.join(reason.split())}" for reason in score.refused]


def _key(name: str) -> str:
    """The key of a metric in JSON. The accuracy is `exact_match` there, and programs rely on that."""
    return EXACT_MATCH if name == ACCURACY else name


def _label(name: str) -> str:
    from omnivit.evaluate.score import metric_named

    return EXACT_MATCH.replace("_", " ") if name == ACCURACY else metric_named(name).label


def positive(text: str) -> int:
    """The type of options that are numbers of things."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
