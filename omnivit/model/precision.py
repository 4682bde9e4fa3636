"""Which precision is fastest here: rates of matrix products by dtype, and what they say of a recipe.

`trainer.precision: auto` and `dtype: fastest` stand for what this machine multiplies fastest, at equal safety. It is
measured, not read off the name of the processor: many CPUs compute bfloat16 through float32, tens of times slower, and
environment variables (`ATEN_CPU_CAPABILITY`, `ONEDNN_MAX_CPU_ISA`) change what the libraries use. float16 is never
chosen: it overflows at 65,504, so that it needs a scaled loss, and a loss that is scaled wrongly is a skipped step.

On a CPU one thread is measured by its own CPU time. The rate is then that of one core, and other programs that run
beside do not change it.
"""

from __future__ import annotations

import functools
import platform
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from omnivit.contracts.blocks import Block, blocks_of, with_changed_blocks
from omnivit.errors import OmniVitWarning
from omnivit.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTO, FASTEST = "auto", "fastest"
"""Values of `trainer.precision`, and of `dtype` of an LLM or encoder."""
MARGIN = 1.3
"""bfloat16 is chosen only where it is this many times as fast as float32, so that noise does not change the choice."""
EMULATED = 0.7
"""A dtype below this share of float32's speed counts as emulated."""
_SHAPE = 128, 576, 1536
"""Rows, inner and outer width of a product: a layer of a small LLM. More rows give the same rate on one core."""
_PROBE_ROWS = 8
"""Rows of a first, small product: where it is slow, the full product is not computed."""
_SECONDS = 0.03
"""Measured for each dtype."""
_GPU_WIDTH = 2048


class EmulatedPrecision(OmniVitWarning):
    """A model computes in a dtype that its machine emulates."""


@dataclass(frozen=True)
class Rates:
    """The measured speed of a device."""

    device: str
    """`cpu`, `cuda`, or another kind of torch, which is not measured."""
    name: str
    """Of the processor."""
    gflops: Mapping[str, float]
    """dtype -> 10^9 floating-point operations a second: of one core of a CPU, of the whole of a GPU."""
    emulated: frozenset[str] = frozenset()
    """Measured dtypes that the device computes by other means than its own instructions."""

    @property
    def text(self) -> str:
        """`float32 93, bfloat16 1.4 GFLOP/s per core`."""
        if not self.gflops:
            return f"{self.device} is not measured"
        rates = ", ".join(f"{dtype} {number(rate)}" for dtype, rate in self.gflops.items())
        return f"{rates} {self.unit}"

    @property
    def unit(self) -> str:
        return "GFLOP/s per core" if self.device == "cpu" else "GFLOP/s"


class Choice(NamedTuple):
    """The values that `auto` and `fastest` are replaced by."""

    precision: str
    """Of Lightning's Trainer."""
    dtype: str
    """Of frozen weights."""


SAFE, FAST = Choice("32-true", "float32"), Choice("bf16-mixed", "bfloat16")


@functools.cache
def measure(device: str = "cpu", *more: str) -> Rates:
    """Rates of float32 and bfloat16, and of the dtypes in `more`; takes under 0.2 s on an idle machine.

    Each is measured once in a process. A GPU that has no bfloat16 is measured in float32 alone.
    """
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        return Rates(kind, kind, {})
    dtypes = ["float32", *(dtype for dtype in dict.fromkeys(("bfloat16", *more)) if dtype != "float32")]
    gflops = {dtype: _rate(device, dtype) for dtype in dtypes}
    emulated = {dtype for dtype, rate in gflops.items() if rate < EMULATED * gflops["float32"]}
    if kind == "cuda" and not _has_bfloat16():
        emulated.add("bfloat16")
    return Rates(kind, _name(device), gflops, frozenset(emulated))


def choose(rates: Rates) -> Choice:
    """bfloat16 where the device has it and is clearly faster for it, else float32."""
    fast = rates.gflops.get("bfloat16", 0.0) >= MARGIN * rates.gflops.get("float32", float("inf"))
    return FAST if fast and "bfloat16" not in rates.emulated else SAFE


def torch_dtype(name: str, device: str | None = None) -> torch.dtype:
    """The dtype that a plugin's option `dtype` names; `fastest` is measured on `device`, by default that of runs."""
    import torch

    from omnivit.model.device import default_device

    if name == FASTEST:
        name = choose(measure(device or default_device())).dtype
    found: torch.dtype = getattr(torch, name)
    return found


def settled(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a plugin with the dtype of this machine instead of `fastest`, which a plugin need not know."""
    if options.get("dtype") != FASTEST:
        return dict(options)
    from omnivit.model.device import default_device

    return {**options, "dtype": choose(measure(default_device())).dtype}


def open_places(recipe: Recipe) -> list[str]:
    """The places where a recipe leaves the precision to the machine: `trainer.precision`, `model.llm.dtype`, ..."""
    places = ["trainer.precision"] if recipe.trainer.get("precision") == AUTO else []
    fastest = (block.where for block in blocks_of(recipe) if block.options.get("dtype") == FASTEST)
    return [*places, *((where / "dtype").path for where in fastest)]


def settle(recipe: Recipe, choice: Choice) -> Recipe:
    """The recipe with concrete values instead of `auto` and `fastest`."""

    def settled_options(block: Block) -> Mapping[str, Any]:
        fastest = block.options.get("dtype") == FASTEST
        return {**block.options, "dtype": choice.dtype} if fastest else block.options

    model = with_changed_blocks(recipe, settled_options).model
    auto = recipe.trainer.get("precision") == AUTO
    trainer = recipe.trainer | {"precision": choice.precision} if auto else recipe.trainer
    settled = replace(recipe, model=model, trainer=trainer)
    settled._places = recipe._places
    return settled


def asked(model: nn.Module, precision: Any = None) -> dict[str, str]:
    """What computes in 16 bits -> its dtype: `trainer.precision`, and the weights of `llm`, `encoders.image`, ..."""
    places = {}
    if (dtype := compute_dtype(precision)) in ("bfloat16", "float16"):
        places[f"trainer.precision: {precision}"] = dtype
    for name, parameter in model.named_parameters():
        dtype = str(parameter.dtype).removeprefix("torch.")
        if dtype in ("bfloat16", "float16"):
            places.setdefault(f"the weights of {_component(name)}", dtype)
    return places


def compute_dtype(precision: Any) -> str:
    """In which dtype a setting of `trainer.precision` multiplies; empty where it is none of torch's."""
    bits = str(precision).partition("-")[0]
    return {"bf16": "bfloat16", "16": "float16", "32": "float32", "None": "float32", "64": "float64"}.get(bits, "")


def emulation(places: Mapping[str, str], device: str) -> str:
    """The warning for a model that computes in a dtype that the device emulates; empty where it does not.

    Args:
        places: as `asked` gives them.
        device: where it runs.
    """
    if not places:
        return ""
    rates = measure(device, *places.values())
    slow = {place: dtype for place, dtype in places.items() if dtype in rates.emulated}
    if not slow:
        return ""
    names = " and ".join(f"{place} ({dtype})" for place, dtype in slow.items())
    dtype = next(iter(slow.values()))
    times = rates.gflops["float32"] / rates.gflops[dtype]
    return (
        f"{names}: {dtype} is emulated on this machine ({rates.name}). It computes {number(rates.gflops[dtype])} "
        f"{rates.unit}, {times:.1f} times slower than float32 ({number(rates.gflops['float32'])}). In a recipe, "
        f"`precision: {AUTO}` and `dtype: {FASTEST}` choose a fast dtype."
    )


def number(rate: float) -> str:
    """`93`, `1.4`, `12,300`."""
    return f"{rate:,.0f}" if rate >= 9.95 else f"{rate:.1f}"


def _component(parameter: str) -> str:
    parts = parameter.split(".")
    return parts[0] if parts[0] == "llm" else ".".join(parts[:2])


@functools.cache
def _rate(device: str, dtype: str) -> float:
    """Measured GFLOP/s of a dtype on a device."""
    import torch

    if device != "cpu":
        return _gpu_rate(device, getattr(torch, dtype))
    # A thread of its own: it computes alone, and the number of threads of this one stays as it was.
    rates: list[float] = []
    worker = threading.Thread(target=lambda: rates.append(_core_rate(getattr(torch, dtype))))
    worker.start()
    worker.join()
    return rates[0]


def _core_rate(dtype: torch.dtype) -> float:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows, inner, outer = _SHAPE
        weight, x = torch.ones(outer, inner, dtype=dtype), torch.ones(rows, inner, dtype=dtype)
        probe = _best(lambda: torch.nn.functional.linear(x[:_PROBE_ROWS], weight), _SECONDS / 3)
        if probe * rows / _PROBE_ROWS > 2 * _SECONDS:
            return 2e-9 * _PROBE_ROWS * inner * outer / probe
        return 2e-9 * rows * inner * outer / _best(lambda: torch.nn.functional.linear(x, weight), _SECONDS)
    finally:
        torch.set_num_threads(threads)  # also what later threads begin with


def _best(work: Callable[[], object], budget: float) -> float:
    """The least CPU time of this thread that `work` takes, of as many calls as the budget allows, at least two."""
    least, began, calls = float("inf"), time.thread_time(), 0
    while calls < 2 or time.thread_time() - began < budget:  # the first call prepares: it is rarely the least
        start = time.thread_time()
        work()
        least, calls = min(least, time.thread_time() - start), calls + 1
    return max(least, 1e-9)


def _gpu_rate(device: str, dtype: torch.dtype) -> float:
    import torch

    with torch.cuda.device(device):
        x = torch.ones(_GPU_WIDTH, _GPU_WIDTH, device=device, dtype=dtype)
        least = float("inf")
        for _ in range(5):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            begin.record()
            torch.matmul(x, x)
            end.record()
            end.synchronize()
            least = min(least, begin.elapsed_time(end) / 1e3)
    return 2e-9 * _GPU_WIDTH**3 / max(least, 1e-9)


def _has_bfloat16() -> bool:
    import torch

    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _name(device: str) -> str:
    import torch

    if device != "cpu":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - read line by line, to the first name
            names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            return next(names, "") or f"this {platform.machine()} CPU"
    except OSError:
        return platform.processor() or f"this {platform.machine()} CPU"
