"""What a run serves: answers a second, and how long a person waits, with several people at once.

    python benchmarks/serve.py runs/quickstart [--clients 1 4 8 16] [--tokens 32] [--requests 3] [--same-media]
    python benchmarks/serve.py runs/quickstart --http             over HTTP: starts `omnivit serve`, and stops it
    python benchmarks/serve.py runs/llava --beside-transformers   and `transformers serve` for its export, in turns
    python benchmarks/serve.py --url http://127.0.0.1:8000/v1 [--api-key KEY] [--model NAME]       a running server
    python benchmarks/serve.py runs/quickstart --profile          where the time of a step goes

Each client asks one question after the other, with an image of its own that nobody asked about before (`--same-media`:
all ask about one image, which is encoded once). In the process, answers have exactly `--tokens` tokens: tokens that end
an answer do not; a server ends them where its model does. Columns: answers and tokens a second; the time to the first
token and from one token to the next, which half and 95% of them stay within. Before each count, a short round is not
timed. CPU a token: processor time of all cores, which other programs on the machine disturb less than they disturb the
clock; clients are part of it in the process. `--rounds`: each count is measured so often, servers in turns; the round
with the most tokens a second stands.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from _servers import QUESTION, Ask, Cpu, image, omnivit_serve, over_http, transformers_serve

COLUMNS = ("answers/s", "tokens/s", "first token p50", "p95", "next token p50", "p95", "CPU a token", "times 1 client")
KEYS = ("first_p50", "first_p95", "next_p50", "next_p95", "cpu")


@dataclass
class Times:
    """What one client waited for, in seconds."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    tokens: int = 0


class Waits:
    """The seconds before each piece of an answer.

    Attributes:
        seconds: from the question to the first piece, and from each to the next.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = time.perf_counter()

    def heard(self) -> None:
        """A piece is there."""
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def in_process(run: str, slots: int, device: str | None) -> tuple[Ask, str, Any]:
    """The engine of a run in this process."""
    import torch
    import transformers

    import omnivit
    from omnivit.engine import Engine

    assistant = omnivit.load(run, device)
    chat = copy.copy(assistant.preparer.chat)
    chat.stop_ids = (-1,)  # no token has this id: every answer has the same number of tokens
    assistant.engine = Engine(assistant.model, chat, slots=slots)
    slot = assistant.slots[0]

    def ask(seed: int, tokens: int, heard: Callable[[], None]) -> int:
        generation = assistant.start(
            [assistant.turn(QUESTION, [(slot, image(seed))])], max_new_tokens=tokens
        ).generation
        for _ in generation:
            heard()
        return len(generation.steps)

    parameters = sum(p.numel() for p in assistant.model.parameters()) / 1e6
    dtype = str(next(assistant.model.llm.parameters()).dtype).removeprefix("torch.")
    facts = f"{parameters:.0f}M parameters, {dtype}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return ask, f"{facts}, transformers {transformers.__version__}, {slots} slots", assistant


def measure(ask: Ask, clients: int, requests: int, tokens: int, seeds: Iterator[int]) -> tuple[float, list[Times]]:
    """Seconds that all clients took together, and what each of them waited for."""
    times = [Times() for _ in range(clients)]
    numbers = [[next(seeds) for _ in range(requests)] for _ in range(clients)]
    errors: list[BaseException] = []

    def client(mine: Times, images: list[int]) -> None:
        try:
            for seed in images:
                waits = Waits()
                mine.tokens += ask(seed, tokens, waits.heard)
                mine.first += waits.seconds[:1]
                mine.between += waits.seconds[1:]
        except BaseException as error:  # a figure without this client would be of fewer clients
            errors.append(error)

    threads = [threading.Thread(target=client, args=pair) for pair in zip(times, numbers, strict=True)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return time.perf_counter() - began, times


def figures(
    server: tuple[Ask, Cpu], clients: int, options: argparse.Namespace, seeds: Iterator[int]
) -> dict[str, float]:
    """One round of a number of clients."""
    ask, cpu = server
    measure(ask, clients, 1, min(4, options.tokens), seeds)
    before = cpu()
    seconds, times = measure(ask, clients, options.requests, options.tokens, seeds)
    first = [wait for mine in times for wait in mine.first]
    between = [wait for mine in times for wait in mine.between]
    tokens = sum(mine.tokens for mine in times)
    line = {"clients": clients, "answers": clients * options.requests / seconds, "tokens": tokens / seconds}
    line |= {"cpu": (cpu() - before) / tokens}
    line |= {"first_p50": within(first, 0.5), "first_p95": within(first, 0.95)}
    return line | {"next_p50": within(between, 0.5), "next_p95": within(between, 0.95)}


def within(waits: Sequence[float], share: float) -> float:
    """What this share of the waits does not exceed; 0 without any."""
    ordered = sorted(waits)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def tables(servers: Mapping[str, tuple[Ask, Cpu]], options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Measure, and print a line for each number of clients and each server."""
    seeds = iter(lambda: 0, 1) if options.same_media else iter(range(10**9))
    print(f"| server | clients | {' | '.join(COLUMNS)} |\n| --- |{' --: |' * (len(COLUMNS) + 1)}")
    lines: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
    for clients in options.clients:
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        for _ in range(options.rounds):
            for name, server in servers.items():
                rounds[name].append(figures(server, clients, options, seeds))
        for name, measured in rounds.items():
            line = max(measured, key=lambda each: each["tokens"])
            lines[name].append(line)
            waits = " | ".join(f"{line[key] * 1000:.0f} ms" for key in KEYS)
            gain = line["tokens"] / lines[name][0]["tokens"]
            print(f"| {name} | {clients} | {line['answers']:.2f} | {line['tokens']:.1f} | {waits} | {gain:.1f} |")
        sys.stdout.flush()
    return lines


def profile(assistant: Any, rows: int) -> None:
    """Print the operations in which five steps of some running requests spend their time."""
    import torch
    from torch.profiler import profile as recorded

    from omnivit.contracts.sample import Sample
    from omnivit.data.collate import collate

    turns = [assistant.turn(QUESTION, [(assistant.slots[0], image(number))]) for number in range(rows)]
    prompts = [assistant.preparer(Sample("question", (turn,)), generate=True) for turn in turns]
    batch = collate(prompts, assistant.slots, assistant.preparer.chat.pad_id, pad_left=True)
    with torch.inference_mode():
        decoding = assistant.model.llm.decoding()
        embeds, _ = assistant.model.embed(batch)
        ids = decoding.join(embeds, batch.attention_mask, batch.position_ids).argmax(dim=-1)
        ids = decoding.step(ids).argmax(dim=-1)
        with recorded() as record:
            for _ in range(5):
                ids = decoding.step(ids).argmax(dim=-1)
    print(f"\nFive steps of {rows} requests:")
    print(record.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=30))


def main(arguments: list[str] | None = None) -> dict[str, list[dict[str, float]]]:
    options = parsed(arguments)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}", end="")
    with ExitStack() as running:
        servers: dict[str, tuple[Ask, Cpu]] = {}
        if options.url:
            servers[options.url] = over_http(options.url, options.api_key, options.model), lambda: 0.0
        elif options.http or options.beside_transformers:
            servers["omnivit serve"] = running.enter_context(omnivit_serve(options.run, options.slots, options.device))
            if options.beside_transformers:
                beside = transformers_serve(options.run, options.device)
                servers["transformers serve"] = running.enter_context(beside)
        else:
            ask, facts, assistant = in_process(options.run, options.slots, options.device)
            servers["engine"] = ask, time.process_time
            print(f"; {facts}", end="")
            if options.profile:
                profile(assistant, 1)
                profile(assistant, options.slots)
                return {}
        print(f"\n{options.requests} answers of up to {options.tokens} tokens for each client\n")
        return tables(servers, options)


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="a run folder")
    parser.add_argument("--http", action="store_true", help="start `omnivit serve` for the run")
    parser.add_argument("--beside-transformers", action="store_true", help="start `transformers serve`, too")
    parser.add_argument("--url", help="a running server instead of a run folder")
    parser.add_argument("--api-key", help="of the server")
    parser.add_argument("--model", help="the server's model; default: the first that it lists")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--requests", type=int, default=3, help="of each client")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--rounds", type=int, default=1, help="of each number of clients")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--device")
    parser.add_argument("--same-media", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args(arguments)
    if (options.run is None) == (options.url is None):
        parser.error("name a run folder, or a server by --url")
    return options


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # by default the servers would stay
    main()
