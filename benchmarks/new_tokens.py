"""What a new token costs while it trains: rows beside the tables (omnivit), against what others do.

    python benchmarks/new_tokens.py                  an LLM of 2 layers, width 1024, 32000 words: a minute on 2 cores
    python benchmarks/new_tokens.py --rounds 9       more rounds (the least time of all counts)

A step is a forward and a backward pass over 4 x 64 tokens, all of them supervised, and AdamW; the LLM is frozen but for
three new tokens. `peft` trains them by its trainable tokens, `resized` trains both tables whole, as LISA does; `none`
has no new token, and a row at the input takes the gradient. float32, CPU; every way in turn, in one process.
`optimizer` is what AdamW keeps, `same loss` the greatest difference of the first step's loss from `omnivit`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from _timing import measure
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

WORDS, NEW, WIDTH, BATCH, LENGTH = 32000, 3, 1024, 4, 64
RATE = 1e-4


def llm() -> Any:
    """The same frozen model whenever it is made."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=2816, num_hidden_layers=2,
        num_attention_heads=16, num_key_value_heads=16, tie_word_embeddings=False,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def beside() -> tuple[Any, list[Tensor]]:
    """Ours."""
    from omnivit.model.new_tokens import NewTokens

    model = llm()
    new = NewTokens(model.get_input_embeddings(), model.get_output_embeddings(), range(WORDS, WORDS + NEW))
    return model, list(new.parameters())


def _resized() -> Any:
    model = llm()
    model.resize_token_embeddings(WORDS + NEW, mean_resizing=False)
    with torch.no_grad():
        for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            table[WORDS:] = table[:WORDS].mean(dim=0)
    return model


def resized() -> tuple[Any, list[Tensor]]:
    """Both tables train."""
    model = _resized()
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    return model, [table.requires_grad_(True) for table in tables]


def peft() -> tuple[Any, list[Tensor]]:
    """Trainable tokens in both tables."""
    from peft import TrainableTokensConfig, get_peft_model

    config = TrainableTokensConfig(
        target_modules=["embed_tokens", "lm_head"], token_indices=list(range(WORDS, WORDS + NEW))
    )
    model = get_peft_model(_resized(), config)
    return model, [parameter for parameter in model.parameters() if parameter.requires_grad]


def none() -> tuple[Any, list[Tensor]]:
    """No new token: the gradient ends in a row that is added to every embedding."""
    model, row = llm(), nn.Parameter(torch.zeros(WIDTH))
    model.get_input_embeddings().register_forward_hook(lambda _, __, found: found + row)
    return model, [row]


def stepper(model: Any, trained: list[Tensor], words: int) -> tuple[Callable[[], float], torch.optim.AdamW]:
    """A training step, which returns its loss, and the optimizer."""
    ids = torch.randint(0, words, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    if words > WORDS:
        ids[:, ::16] = WORDS + torch.arange(BATCH)[:, None] % NEW
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)

    def step() -> float:
        logits = model(input_ids=ids[:, :-1]).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return step, optimizer


def compare(rounds: int) -> list[tuple[str, float, int, int, float]]:
    """Way, least seconds of a step, trained numbers, numbers that AdamW keeps, loss of the first step."""
    ways = {"omnivit": beside, "peft": peft, "resized": resized, "none": none}
    steps, optimizers, trained, losses = {}, {}, {}, {}
    for name, make in ways.items():
        model, parameters = make()
        trained[name] = sum(parameter.numel() for parameter in parameters)
        steps[name], optimizers[name] = stepper(model, parameters, WORDS if name == "none" else WORDS + NEW)
        losses[name] = steps[name]()
    best = measure(steps, rounds)
    kept = {
        name: sum(value.numel() for state in optimizer.state.values() for value in state.values() if value.ndim)
        for name, optimizer in optimizers.items()
    }
    return [(name, best[name], trained[name], kept[name], losses[name]) for name in ways]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="default: 7")
    found = compare(parser.parse_args().rounds)
    ours = next(loss for name, *_, loss in found if name == "omnivit")
    print("way        ms a step     trained   optimizer  same loss")
    for name, seconds, trained, kept, loss in found:
        same = "" if name == "none" else f"{abs(loss - ours):.1e}"
        print(f"{name:8}  {1000 * seconds:9.0f}  {trained:>10,}  {kept:>10,}  {same:>9}")


if __name__ == "__main__":
    main()
