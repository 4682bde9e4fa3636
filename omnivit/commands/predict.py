"""`omnivit predict`: answer all questions of a data file, or one question about every file of a folder, into a file."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivit.commands.eval import check_writable, open_questions, positive
from omnivit.commands.generate import add_checkpoint_argument
from omnivit.console import Display, Pace, reserved
from omnivit.errors import DataError, suggest
from omnivit.interrupts import explained
from omnivit.run.opening import open_assistant
from omnivit.run.questions import media_root
from omnivit.run.trust import add_trust_argument

if TYPE_CHECKING:
    from omnivit.run.assistant import Assistant
    from omnivit.run.predict import Prediction, Source

EXIT_SOME_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a trained run")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE|FOLDER",
        help="a data file, whose records need no answers, or a folder of media",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE",
        help="the answers, as JSON lines; the command continues a file that it has begun",
    )  # fmt: skip
    parser.add_argument(
        "--question", metavar="TEXT", help="the question about every medium of a folder, or instead of the file's own"
    )
    parser.add_argument("--slot", help="the input for the media of a folder (default: the only one of the model)")
    parser.add_argument(
        "--folders", action="store_true", help="every folder in FOLDER is one medium, such as the slices of a scan"
    )
    parser.add_argument(
        "--reader", help="reader of the file (default: that of the data of the run; auto: chosen by the first record)"
    )
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="folder of relative media paths (default: the folder of FILE)"
    )
    parser.add_argument("--batch-size", type=positive, default=16, metavar="N", help="default: 16")
    parser.add_argument("--max-new-tokens", type=positive, default=64, metavar="N", help="default: 64")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    add_checkpoint_argument(parser)
    add_trust_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Answer; the status is 1 if a record could not be answered."""
    began = time.monotonic()
    with reserved():
        ended = _predict(args)
    if args.json:
        print(json.dumps(_as_record(ended, args.out, time.monotonic() - began), indent=1))
    else:
        print(_sentence(ended, args.out))
    return EXIT_SOME_FAILED if ended.errors else 0


def _predict(args: argparse.Namespace) -> Prediction:
    check_writable(args.out)
    is_folder = args.data.is_dir()
    if is_folder and not (args.question or "").strip():
        raise DataError(f"--data {args.data} is a folder of media. Say with --question what to ask about each.")
    if not is_folder and (args.slot or args.folders):
        raise DataError("--slot and --folders belong to a folder of media, but --data is a file.")
    source = None if is_folder else _file(args)
    assistant = open_assistant(args.run, args.device, args.trust, args.checkpoint, True, args.set)
    from omnivit.run.predict import Folder, predict

    if source is None:
        source = Folder(args.data.resolve(), _slot(assistant, args.slot), args.question, args.folders)
    pace, written = Pace(), list[int | None]([None])
    with Display("answering", len(source), "record") as display:

        def show(done: int, total: int, resumed: int) -> None:
            written[0] = done
            display.show(done, pace.text(done - resumed, total - resumed, "record"))

        settings = _settings(args, assistant)
        with explained(lambda: _remains(args.out, written[0], len(source))):
            return predict(assistant, source, args.out, settings, args.max_new_tokens, args.batch_size, show)


def _remains(out: Path, written: int | None, total: int) -> str:
    """What a signal leaves."""
    of = "" if written is None else f" has the answers to {written} of {total} records. It"
    return f"{out}{of} is continued when you repeat the command."


def _file(args: argparse.Namespace) -> Source:
    from omnivit.run.predict import Unanswered

    root = media_root(args.data, args.root)
    reader = open_questions(args, root)
    # readers of question and answer pairs take any constant as the answer, where records have none yet
    takes_constant = any(name == "answer" for name in getattr(reader.Config, "__dataclass_fields__", {}))
    unanswered = open_questions(args, root, {"answer": "-"}) if takes_constant else None
    return Unanswered(reader, unanswered, args.question)


def _slot(assistant: Assistant, name: str | None) -> str:
    if name is None and len(assistant.slots) == 1:
        return assistant.slots[0]
    if name not in assistant.slots:
        asked = "the model has several inputs" if name is None else f"this model has no input slot {name!r}"
        raise DataError(f"{asked}: name the input for the media with --slot; {suggest(name or '', assistant.slots)}")
    return name


def _settings(args: argparse.Namespace, assistant: Assistant) -> dict[str, Any]:
    """What the answers depend on beside data and sizes."""
    from omnivit.recipe import fingerprint
    from omnivit.train.checkpoint import CHECKPOINTS
    from omnivit.train.manifest import MANIFEST

    manifests = sorted((args.run / CHECKPOINTS).glob(f"*/{MANIFEST}"))

    return {
        "recipe": fingerprint(assistant.recipe),
        "checkpoint": args.checkpoint,
        "weights": {path.parent.name: path.read_text(encoding="utf-8") for path in manifests},
        "question": args.question,
        "slot": args.slot,
        "folders": args.folders,
    }


def _as_record(ended: Prediction, out: Path, seconds: float) -> dict[str, Any]:
    answered = ended.records - ended.errors
    counts = {"records": ended.records, "answered": answered, "errors": ended.errors, "resumed": ended.resumed}
    return {**counts, "seconds": round(seconds, 3), "out": str(out)}


def _sentence(ended: Prediction, out: Path) -> str:
    resumed = f", {ended.resumed} of them by an earlier process" if ended.resumed else ""
    line = f"{out}: {ended.records - ended.errors} of {ended.records} records are answered{resumed}."
    if not ended.errors:
        return line
    return f"{line} {ended.errors} could not be: their lines have the reason as `error`."
