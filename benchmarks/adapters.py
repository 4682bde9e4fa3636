"""What each adapter costs: tokens out, parameters, time and memory of a forward and a backward pass.

    python benchmarks/adapters.py                    every block of `benchmarks/_blocks.py`, and the LLM-side layers
    python benchmarks/adapters.py --only resampler   those whose name holds this
    python benchmarks/adapters.py --rounds 9         more rounds (the least time of all counts)

Input side: 576 rows of width 1024 on a grid of 24 x 24 (a picture of CLIP ViT-L/14 at 336 pixels; 8 frames of 8 x 9
where an adapter needs a clip), to an LLM of width 4096. LLM side: one layer of Llama 7B's width (4096, MLP 11008)
over 1152 tokens, half of them rows of a medium, against the plain layer in the same process, turn by turn; all of the
layer's and the adapter's weights train in both. float32, each adapter in a process of its own; memory is the peak
above what the process held before the first pass. Linux, CPU only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _blocks import COSTED, INSTALLED
from _timing import measure

ROWS, WIDTH, LLM_WIDTH, MLP_WIDTH = 576, 1024, 4096, 11008
GRIDS = {"image": (24, 24), "video": (8, 8, 9)}


def input_side(block: dict[str, Any], kind: str, rounds: int) -> dict[str, Any]:
    """One adapter over one medium."""
    import torch

    from omnivit.contracts.adapter import Instruction
    from omnivit.contracts.features import Features, Layout
    from omnivit.contracts.nested import build_adapter

    torch.manual_seed(0)
    adapter = build_adapter(block, "block", WIDTH, LLM_WIDTH)
    adapter.install(_Table(), torch.nn.Identity(), "image")  # type: ignore[arg-type]  # what an input side looks at
    grid = torch.cartesian_prod(*(torch.arange(size) for size in GRIDS[kind]))[None]
    features = Features(torch.randn(1, ROWS, WIDTH), torch.ones(1, ROWS, dtype=torch.bool), grid)
    words = Instruction(torch.ones(1, 16, dtype=torch.long), torch.ones(1, 16, dtype=torch.bool))
    instruction = words if adapter.instruction_tokenizer else None

    def forward() -> Features:
        out: Features = adapter(features, instruction)
        return out

    def step() -> None:
        forward().values.sum().backward()

    before = _forget_peak()
    with torch.no_grad():
        seconds = measure({"forward": forward}, rounds)
    if any(p.requires_grad for p in adapter.parameters()):
        seconds |= measure({"step": step}, rounds)
    rows = adapter.length(Layout(ROWS, GRIDS[kind])).tokens
    return {"rows": rows, "parameters": _count(adapter), "memory": _memory("VmHWM") - before, **seconds}


class _Table:
    """What an adapter may ask of an LLM that it does not change: the embeddings of a vocabulary of 32000."""

    width = LLM_WIDTH

    def __init__(self) -> None:
        import torch

        self.table = torch.randn(32000, LLM_WIDTH) * 0.02

    def embedding(self) -> Any:
        """[V, D]."""
        return self.table


def llm_side(block: dict[str, Any], rounds: int) -> dict[str, Any]:
    """One decoder layer with the adapter installed, and the plain one."""
    import copy

    import torch

    from omnivit.contracts.batch import Batch, MediaBatch
    from omnivit.contracts.context import Context
    from omnivit.contracts.features import Features
    from omnivit.contracts.nested import build_adapter
    from omnivit.model.causal import CausalConfig, CausalLM

    settings = {"model_type": "llama", "hidden_size": LLM_WIDTH, "intermediate_size": MLP_WIDTH, "vocab_size": 300,
                "num_hidden_layers": 1, "num_attention_heads": 32, "num_key_value_heads": 32}  # fmt: skip
    torch.manual_seed(0)
    plain = CausalLM(CausalConfig(config=settings, tokenizer="bytes"))
    changed = copy.deepcopy(plain)
    adapter = build_adapter(block, "block", LLM_WIDTH, LLM_WIDTH)
    adapter.install(changed, torch.nn.Identity(), "image")  # type: ignore[arg-type]
    changed.add_peft()
    tokens = 2 * ROWS
    positions = torch.arange(tokens)[None]
    mask, route = torch.ones(1, tokens, dtype=torch.bool), (positions < ROWS).long()
    medium = Features(torch.randn(1, _rows_before(block), LLM_WIDTH), mask[:, : _rows_before(block)])
    media = MediaBatch({}, torch.tensor([ROWS]), torch.tensor([0]), (0,))
    batch = Batch(positions, positions, mask, positions, route, ("image",), {"image": media}, ("one",))
    embeds = torch.randn(1, tokens, LLM_WIDTH)

    def step(llm: CausalLM, told: bool) -> Callable[[], None]:
        def run() -> None:
            context = Context.of(batch, {"image": adapter(medium)}) if told else None
            llm(embeds, mask, positions, positions >= tokens - 8, context).logits.sum().backward()

        return run

    seconds = measure({"plain": step(plain, False)}, 1)
    before = _forget_peak()
    seconds = measure({"plain": step(plain, False), "step": step(changed, True)}, rounds)
    return {"parameters": _count(adapter), "memory": _memory("VmHWM") - before, **seconds}


def _rows_before(block: dict[str, Any]) -> int:
    """Rows of the medium that reach the adapter: a prefix wants as many as it has prompts."""
    return int(block.get("prompts", 10)) if block["name"] == "prefix" else ROWS


def _count(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def _forget_peak() -> float:
    """Let the peak of resident memory begin anew (Linux) -> MB that are resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _memory("VmRSS")


def _memory(name: str) -> float:
    """MB, as Linux counts them for this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith(name))


def in_a_process(name: str, rounds: int) -> dict[str, Any]:
    """Measure one adapter in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="adapters whose name holds this text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        found = (
            llm_side(INSTALLED[options.one], options.rounds)
            if options.one in INSTALLED
            else input_side(*COSTED[options.one], options.rounds)
        )
        print(json.dumps(found))
        return 0
    print("| input side | tokens out | parameters | forward ms | forward and backward ms | memory MB |")
    print("|---|---|---|---|---|---|")
    for name in (name for name in COSTED if options.only in name):
        f = in_a_process(name, options.rounds)
        both = f"{1e3 * f['step']:.1f}" if "step" in f else "-"
        cells = [f"`{name}`", f["rows"], f"{f['parameters'] / 1e6:.1f}M", f"{1e3 * f['forward']:.1f}", both]
        print(f"| {' | '.join(map(str, cells))} | {f['memory']:.0f} |", flush=True)
    print("\n| LLM side | parameters | plain layer ms | with it ms | ratio | memory MB |")
    print("|---|---|---|---|---|---|")
    for name in (name for name in INSTALLED if options.only in name):
        f = in_a_process(name, options.rounds)
        cells = [f"`{name}`", f"{f['parameters'] / 1e6:.1f}M", f"{1e3 * f['plain']:.0f}", f"{1e3 * f['step']:.0f}"]
        print(f"| {' | '.join(cells)} | {f['step'] / f['plain']:.2f} | {f['memory']:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
