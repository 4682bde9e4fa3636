"""`omnivit chat`: talk with a trained model about images and other media."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from omnivit.commands.generate import add_sampling_arguments, result_lines, typed_path
from omnivit.console import reserved
from omnivit.contracts.sample import Media, Message, Text
from omnivit.errors import OmniVitError, suggest
from omnivit.run.opening import open_assistant

if TYPE_CHECKING:
    from omnivit.run.assistant import Assistant, Sampling

LEAVE, RESET, HELP = ("exit", "quit", "q", "bye"), ("reset", "clear", "new"), ("help", "?", "h")
"""Commands by all names that people try; the first is in the help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Talk until the user leaves."""
    with reserved():
        assistant = open_assistant(args.run, args.device, args.trust, args.checkpoint, True, args.set)
        from omnivit.run.assistant import Sampling

        sampling = Sampling(args.temperature, args.top_p, args.seed)
    Repl(assistant, args.max_new_tokens, sampling).run()  # line editing needs the real standard output
    return 0


class Repl:
    """A conversation over standard input and output. Answers go to standard output, everything else to standard error.

    Attributes:
        history: the turns so far.
        waiting: media (slot, file) that are added to the next question.
    """

    def __init__(self, assistant: Assistant, max_new_tokens: int, sampling: Sampling) -> None:
        self.assistant, self.max_new_tokens, self.sampling = assistant, max_new_tokens, sampling
        self.history: list[Message] = []
        self.waiting: list[tuple[str, str]] = []

    def run(self) -> None:
        """Read lines until /exit or the end of the input; neither an error nor Ctrl-C ends the conversation."""
        prompt = ""
        if sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - gives input() line editing and history
            prompt = "> "
            _say(self.help())
        leaving = False
        while not leaving:
            try:
                leaving = self.take(input(prompt).strip())
            except EOFError:
                leaving = True
            except KeyboardInterrupt:
                _say("\n(/exit or Ctrl-D leaves)")
            except OmniVitError as error:
                _say(f"error: {error}")

    def take(self, line: str) -> bool:
        """Run the command or answer the question of one line; True if the user leaves.

        Raises:
            OmniVitError: the command or question failed; the conversation is as it was before.
        """
        if line.startswith("/"):
            return self._obey(line)
        if line:
            self._answer(line)
        return False

    def help(self) -> str:
        """What can be typed."""
        lines = [f"/{slot} FILE   add this {slot} to the next question" for slot in self.assistant.slots]
        return "\n".join(
            [
                "Type a question. Ctrl-C stops an answer.",
                *lines,
                "/reset   start a new conversation",
                "/help",
                "/exit or Ctrl-D",
            ]
        )

    def _obey(self, line: str) -> bool:
        command, _, rest = line[1:].partition(" ")
        if command in LEAVE:
            return True
        if command in HELP:
            _say(self.help())
        elif command in RESET:
            self.history, self.waiting = [], []
            _say("(a new conversation)")
        elif command in self.assistant.slots:
            self._show(command, rest.strip())
        else:
            known = [f"/{name}" for name in (*self.assistant.slots, RESET[0], HELP[0], LEAVE[0])]
            begun = [name for name in known if command and name.startswith(f"/{command}")]
            advice = f"did you mean {' or '.join(map(repr, begun))}?" if begun else suggest(f"/{command}", known)
            raise OmniVitError(f"there is no command /{command}; {advice}")
        return False

    def _show(self, slot: str, name: str) -> None:
        if not name:
            raise OmniVitError(f"/{slot} needs a file: /{slot} FILE")
        file = str(Path(typed_path(name)).expanduser())
        self.assistant.preparer.slots[slot](Media(slot, file))  # a bad file is refused now, not with the question
        self.waiting.append((slot, file))
        _say(f"({file} is added to the next question)")

    def _answer(self, question: str) -> None:
        with reserved() as output:
            self._answer_to(output, question)

    def _answer_to(self, output: TextIO, question: str) -> None:
        turn = self.assistant.turn(question, self.waiting)
        texts: list[str] = []

        def print_text(text: str) -> None:
            texts.append(text)
            print(text, end="", file=output, flush=True)

        reply = None
        with contextlib.suppress(KeyboardInterrupt):
            reply = self.assistant.respond(
                [*self.history, turn], max_new_tokens=self.max_new_tokens, on_text=print_text, sampling=self.sampling
            )
        if reply is not None or texts:
            lines = (f"\n{line}" for line in (result_lines(reply) if reply else ()))
            print(*lines, sep="", file=output, flush=True)
            self.history += [turn, reply.message if reply else Message("assistant", (Text("".join(texts)),))]
            self.waiting = []
        if reply is None:
            _say("(stopped)" if texts else "(stopped; the question is not part of the conversation)")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
