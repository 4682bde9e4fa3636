"""Servers for benchmarks/serve.py, asked over HTTP: started on a free port and stopped again, or running already."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

QUESTION = "What is in this image? Describe it."
Ask = Callable[[int, int, Callable[[], None]], int]
"""(Seed of the image, most tokens, what is called when text comes) -> the number of new tokens."""
Cpu = Callable[[], float]
"""-> CPU seconds that the server has used so far, with its child processes."""
START = 300
"""Seconds that a server may take to load its model."""
NATIVE = "LlavaForConditionalGeneration"


def image(seed: int) -> Image.Image:
    """An image of noise; every seed gives another one."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (128, 128, 3), dtype=np.uint8))


def over_http(url: str, key: str | None = None, model: str | None = None) -> Ask:
    """Questions to a server; `url` ends with /v1. Tokens are counted as its `usage` says."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    if model is None:
        with _call(url, headers, "/models") as answer:
            model = json.load(answer)["data"][0]["id"]

    def ask(seed: int, tokens: int, heard: Callable[[], None]) -> int:
        file = io.BytesIO()
        image(seed).save(file, "PNG")
        address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        parts = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": QUESTION}]
        body = {"model": model, "messages": [{"role": "user", "content": parts}], "max_tokens": tokens}
        body |= {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
        count = 0
        with _call(url, headers, "/chat/completions", body) as stream:
            for line in stream:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise RuntimeError(f"{url}: {chunk['error']}")
                if any(choice["delta"].get("content") for choice in chunk["choices"]):
                    heard()
                count = (chunk.get("usage") or {}).get("completion_tokens", count)
        if not count:
            raise RuntimeError(f"{url}: the stream ended without `usage`")
        return int(count)

    return ask


@contextmanager
def omnivit_serve(run: str, slots: int, device: str | None) -> Iterator[tuple[Ask, Cpu]]:
    """`omnivit serve RUN` until the block ends."""
    command = [sys.executable, "-m", "omnivit", "serve", run, "--port", "0", "--slots", str(slots)]
    with _running([*command, *(["--device", device] if device else [])]) as log:
        address = _until(log, lambda text: re.search(r"^Serving .* at (http://\S+)", text, re.MULTILINE))
        yield over_http(f"{address[1]}/v1"), partial(_cpu_seconds, log[1].pid)


@contextmanager
def transformers_serve(run: str, device: str | None) -> Iterator[tuple[Ask, Cpu]]:
    """`transformers serve` for the LLaVA that a run is exported as, until the block ends."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "llava"
        exported = [sys.executable, "-m", "omnivit", "export", run, "--to", "hf", "--out", str(folder)]
        subprocess.run(exported, check=True, stdout=subprocess.DEVNULL)
        kinds = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
        if kinds != [NATIVE]:
            raise SystemExit(f"{run} is exported as {kinds}, but `transformers serve` is to serve a {NATIVE}.")
        with socket.socket() as place:  # it cannot choose a port by itself
            place.bind(("127.0.0.1", 0))
            port = place.getsockname()[1]
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--port", str(port)]
        with _running([*command, "--host", "127.0.0.1", *(["--device", device] if device else [])]) as log:
            _until(log, lambda _: _is_healthy(f"http://127.0.0.1:{port}/health"))
            yield over_http(f"http://127.0.0.1:{port}/v1", model=str(folder)), partial(_cpu_seconds, log[1].pid)


def _call(url: str, headers: dict[str, str], path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    try:
        return urllib.request.urlopen(urllib.request.Request(url.rstrip("/") + path, data, headers))
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{url}{path}: status {error.code}: {error.read()[:500]!r}") from error


@contextmanager
def _running(command: list[str]) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A process, and the file of what it prints."""
    with tempfile.TemporaryDirectory() as temporary:
        log = Path(temporary) / "log"
        with log.open("wb") as file:
            environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            yield log, process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until(log: tuple[Path, subprocess.Popen[bytes]], ready: Callable[[str], Any]) -> Any:
    """Wait for a server; returns what `ready` gives for its output."""
    file, process = log
    end = time.monotonic() + START
    while not (result := ready(text := file.read_text(encoding="utf-8", errors="replace"))):
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"The server did not start:\n{text[-2000:]}")
        time.sleep(0.1)
    return result


def _cpu_seconds(pid: int) -> float:
    """Of a process and its children; 0 where the system has no /proc."""
    place = Path("/proc") / str(pid)
    try:
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        children = (place / "task" / str(pid) / "children").read_text().split()
    except OSError:
        return 0.0
    user, system = int(fields[11]), int(fields[12])  # fields 14 and 15 of proc_pid_stat(5)
    return (user + system) / os.sysconf("SC_CLK_TCK") + sum(_cpu_seconds(int(child)) for child in children)


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
