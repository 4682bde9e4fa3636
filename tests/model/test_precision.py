"""What the machine is measured to be fast in, and what is made of it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from omnivit.cli import _format_warning
from omnivit.model import precision
from omnivit.model.causal import CausalConfig, CausalLM
from omnivit.model.precision import (
    FAST,
    SAFE,
    EmulatedPrecision,
    Rates,
    asked,
    choose,
    emulation,
    measure,
    open_places,
    settle,
)
from omnivit.recipe import Recipe
from omnivit.run.check import build_on_meta

Load = Callable[..., Recipe]
OLD_CPU = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def rates(float32: float, bfloat16: float, device: str = "cpu", *emulated: str) -> Rates:
    return Rates(device, "Test 1", {"float32": float32, "bfloat16": bfloat16}, frozenset(emulated))


def test_this_machine_is_measured_once_and_left_as_it_was() -> None:
    threads = torch.get_num_threads()
    found = measure()
    assert measure() is found and found.device == "cpu" and found.name
    assert all(0.1 < rate < 100_000 for rate in found.gflops.values()) and [*found.gflops] == ["float32", "bfloat16"]
    assert torch.get_num_threads() == threads
    assert [*measure("cpu", "float16").gflops] == ["float32", "bfloat16", "float16"]


def test_the_rate_is_that_of_real_products() -> None:
    """A product of twice the rows takes about twice the time that the rate foretells; it is no constant."""
    a, b = torch.ones(1024, 576), torch.ones(1536, 576)
    products, rates_of_float32 = [], []
    for _ in range(3):  # in turn, and the best of each: work beside slows some of them, and not the others
        least = precision._best(lambda: torch.nn.functional.linear(a, b), 0.05)  # on one thread, as conftest sets it
        products.append(2e-9 * 1024 * 576 * 1536 / least)
        rates_of_float32.append(precision._rate.__wrapped__("cpu", "float32"))  # now, not when this process first did
    assert measure().gflops["float32"] == precision._rate("cpu", "float32")
    assert max(products) == pytest.approx(max(rates_of_float32), rel=0.5)


@pytest.mark.parametrize(
    ("found", "choice"),
    [
        (rates(93, 221), FAST),
        (rates(93, 1.4, "cpu", "bfloat16"), SAFE),
        (rates(93, 120), SAFE),  # within the noise
        (rates(50_000, 700_000, "cuda"), FAST),
        (rates(8_000, 20_000, "cuda", "bfloat16"), SAFE),  # fast, but not the device's own
        (Rates("mps", "mps", {}), SAFE),
    ],
)
def test_bfloat16_is_chosen_where_it_is_native_and_clearly_faster(found: Rates, choice: precision.Choice) -> None:
    assert choose(found) == choice


def test_rates_are_printed_with_their_unit() -> None:
    assert rates(93.4, 1.43).text == "float32 93, bfloat16 1.4 GFLOP/s per core"
    assert rates(51_200, 708_000, "cuda").text == "float32 51,200, bfloat16 708,000 GFLOP/s"
    assert Rates("mps", "mps", {}).text == "mps is not measured"


def test_a_recipe_is_settled_wherever_it_leaves_it_to_the_machine(load_recipe: Load) -> None:
    block = "{encoder: {name: clip, path: x, dtype: fastest}, adapter: {name: linear}}"
    recipe = load_recipe(
        "trainer.precision=auto", "model.llm.dtype=fastest", f"model.inputs.two=[{block}, {block}]", "seed=7"
    )
    places = ["trainer.precision", "model.llm.dtype", "model.inputs.two[0].encoder.dtype",
              "model.inputs.two[1].encoder.dtype"]  # fmt: skip
    assert open_places(recipe) == places
    settled = settle(recipe, FAST)
    assert open_places(settled) == [] and open_places(recipe) == places
    assert settled.trainer["precision"] == "bf16-mixed" and settled.model.llm["dtype"] == "bfloat16"
    assert settled.model.inputs["two"][1].encoder["dtype"] == "bfloat16"  # type: ignore[index]
    assert settled.seed == 7 and settled.where("seed").places == recipe.where("seed").places
    concrete = load_recipe("trainer.precision=64-true")
    assert open_places(concrete) == [] and settle(concrete, FAST) == concrete


def test_what_computes_in_16_bits_is_read_off_the_model(load_recipe: Load) -> None:
    model = build_on_meta(load_recipe("model.llm.dtype=bfloat16"))
    assert asked(model, "bf16-mixed") == {
        "trainer.precision: bf16-mixed": "bfloat16",
        "the weights of llm": "bfloat16",
    }
    assert asked(build_on_meta(load_recipe()), "32-true") == {}
    assert {str(value): precision.compute_dtype(value) for value in ("16-mixed", 16, "bf16", 32, None, "64-true")} == {
        "16-mixed": "float16", "16": "float16", "bf16": "bfloat16", "32": "float32", "None": "float32",
        "64-true": "float64",
    }  # fmt: skip


def test_emulation_is_said_with_both_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"the weights of llm": "bfloat16"}
    monkeypatch.setattr(precision, "measure", lambda *_: rates(93, 1.4, "cpu", "bfloat16"))
    assert emulation(places, "cpu") == (
        "the weights of llm (bfloat16): bfloat16 is emulated on this machine (Test 1). It computes 1.4 GFLOP/s per "
        "core, 66.4 times slower than float32 (93). In a recipe, `precision: auto` and `dtype: fastest` choose a fast "
        "dtype."
    )
    monkeypatch.setattr(precision, "measure", lambda *_: rates(93, 221))
    assert emulation(places, "cpu") == emulation({}, "cpu") == ""


def test_a_plugin_that_is_built_alone_takes_what_is_fastest() -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = CausalLM(CausalConfig(config={"model_type": "llama", **sizes}, tokenizer="bytes", dtype="fastest"))
    fastest = choose(measure("cuda" if torch.cuda.is_available() else "cpu")).dtype
    assert model.embedding().dtype == getattr(torch, fastest)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the variables are for x86 processors")
def test_an_older_processor_is_measured_as_it_is() -> None:
    """Emulated by the libraries' own variables, which have to stand before torch is imported."""
    program = (
        "from omnivit.model.precision import choose, emulation, measure\n"
        "print(choose(measure()).precision)\n"
        "print(emulation({'the weights of llm': 'bfloat16'}, 'cpu'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **OLD_CPU}, capture_output=True, text=True, check=True
    )
    precision, said = done.stdout.splitlines()
    assert precision == "32-true" and said.startswith("the weights of llm (bfloat16): bfloat16 is emulated on this")


def test_the_command_line_prints_a_warning_on_one_line() -> None:
    assert _format_warning(EmulatedPrecision("slow here."), EmulatedPrecision, "a.py", 3) == "warning: slow here.\n"
    assert "a.py:3: UserWarning: of a library" in _format_warning("of a library", UserWarning, "a.py", 3)
