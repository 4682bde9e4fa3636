"""What a run serves: answers a second, and how long a person waits, with several people at once.

    python benchmarks/serve.py runs/quickstart [--clients 1 4 8 16] [--tokens 32] [--requests 3] [--same-media]
    python benchmarks/serve.py --url http://127.0.0.1:8000/v1 [--api-key KEY]     a running server instead
    python benchmarks/serve.py runs/quickstart --profile                          where the time of a step goes

Each client asks one question after the other, with an image of its own that nobody asked about before (`--same-media`:
all ask about one image, which is encoded once). In the process, answers have exactly `--tokens` tokens: tokens that end
an answer do not; a server ends them where its model does. Columns: answers and tokens a second; the median and the
longest wait for the first token; the median time from one token to the next. A first round is not timed.
"""

from __future__ import annotations

import argparse
import base64
import copy
import io
import json
import os
import platform
import statistics
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

QUESTION = "What is in this image? Describe it."
Ask = Callable[[int, int], Iterator[int]]
"""(Seed of the image, most tokens) -> the number of new tokens, each time some come."""


@dataclass
class Times:
    """What one client waited for, in seconds."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    tokens: int = 0


def image(seed: int) -> Image.Image:
    """An image of noise; every seed gives another one."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (128, 128, 3), dtype=np.uint8))


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

    def ask(seed: int, tokens: int) -> Iterator[int]:
        turn = assistant.turn(QUESTION, [(slot, image(seed))])
        yield from (1 for _ in assistant.start([turn], max_new_tokens=tokens).generation)

    parameters = sum(p.numel() for p in assistant.model.parameters()) / 1e6
    dtype = str(next(assistant.model.llm.parameters()).dtype).removeprefix("torch.")
    facts = f"{parameters:.0f}M parameters, {dtype}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return ask, f"{facts}, transformers {transformers.__version__}, {slots} slots", assistant


def over_http(url: str, key: str | None) -> tuple[Ask, str, Any]:
    """A running server."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def call(path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.urlopen(urllib.request.Request(url.rstrip("/") + path, data, headers))

    with call("/models") as answer:
        model = json.load(answer)["data"][0]["id"]

    def ask(seed: int, tokens: int) -> Iterator[int]:
        file = io.BytesIO()
        image(seed).save(file, "PNG")
        address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        parts = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": QUESTION}]
        body = {"model": model, "messages": [{"role": "user", "content": parts}], "max_tokens": tokens, "stream": True}
        with call("/chat/completions", body) as stream:
            for line in stream:
                if line.startswith(b"data: {") and any(
                    choice["delta"].get("content") for choice in json.loads(line[6:])["choices"]
                ):
                    yield 1  # a piece of text, which may be several tokens

    return ask, f"{url}, model {model}; pieces of text are counted, not tokens", None


def measure(ask: Ask, clients: int, requests: int, tokens: int, seeds: Iterator[int]) -> tuple[float, list[Times]]:
    """Seconds that all clients took together, and what each of them waited for."""
    times = [Times() for _ in range(clients)]
    numbers = [[next(seeds) for _ in range(requests)] for _ in range(clients)]

    def client(mine: Times, images: list[int]) -> None:
        for seed in images:
            before, first = time.perf_counter(), True
            for count in ask(seed, tokens):
                now = time.perf_counter()
                (mine.first if first else mine.between).append(now - before)
                before, first = now, False
                mine.tokens += count

    threads = [threading.Thread(target=client, args=pair) for pair in zip(times, numbers, strict=True)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began, times


def table(ask: Ask, options: argparse.Namespace) -> list[dict[str, float]]:
    """Measure, and print a line for each number of clients."""
    seeds = iter(lambda: 0, 1) if options.same_media else iter(range(10**9))
    print("| clients | answers/s | tokens/s | first token, median | longest | next token, median | times one client |")
    print("| --: | --: | --: | --: | --: | --: | --: |")
    lines: list[dict[str, float]] = []
    for clients in options.clients:
        measure(ask, clients, 1, min(4, options.tokens), seeds)
        seconds, times = measure(ask, clients, options.requests, options.tokens, seeds)
        first = [wait for mine in times for wait in mine.first]
        between = [wait for mine in times for wait in mine.between] or [0.0]
        line = {"clients": clients, "answers": len(first) / seconds, "tokens": sum(t.tokens for t in times) / seconds}
        line |= {"first": statistics.median(first), "longest": max(first), "next": statistics.median(between)}
        lines.append(line)
        print(
            f"| {clients} | {line['answers']:.2f} | {line['tokens']:.1f} | {line['first'] * 1000:.0f} ms | "
            f"{line['longest'] * 1000:.0f} ms | {line['next'] * 1000:.0f} ms | "
            f"{line['tokens'] / lines[0]['tokens']:.1f} |",
            flush=True,
        )
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


def main(arguments: list[str] | None = None) -> list[dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="a run folder")
    parser.add_argument("--url", help="a running server instead of a run folder")
    parser.add_argument("--api-key")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--requests", type=int, default=3, help="of each client")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--device")
    parser.add_argument("--same-media", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args(arguments)
    if (options.run is None) == (options.url is None):
        parser.error("name a run folder, or a server by --url")
    if options.url:
        ask, facts, assistant = over_http(options.url, options.api_key)
    else:
        ask, facts, assistant = in_process(options.run, options.slots, options.device)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; {facts}")
    print(f"{options.requests} answers of up to {options.tokens} tokens for each client\n")
    if options.profile:
        profile(assistant, 1)
        profile(assistant, options.slots)
        return []
    return table(ask, options)


if __name__ == "__main__":
    main()
