"""What of a model stands on the LLM's side, so that another program's LLM would answer without it."""

from __future__ import annotations

from collections.abc import Iterator

from omnivit.model.causal import CausalLM
from omnivit.run.assistant import Assistant


def llm_side(assistant: Assistant) -> list[str]:
    """Reasons why vLLM, which gets embeddings and positions 0, 1, 2, ..., would not answer as this model does."""
    return list(_reasons(assistant))


def input_side(assistant: Assistant) -> list[str]:
    """Reasons why the tokens of a medium do not depend on the medium alone, so that vLLM could not encode it."""
    reasons = []
    for slot, preparer in assistant.preparer.slots.items():
        if preparer.instruction is not None:
            reasons.append(f"an adapter of model.inputs.{slot} reads the text of the turn, which vLLM does not pass on")
        if preparer.combine != "tokens":
            reasons.append(f"model.inputs.{slot} combines the media of a turn, and vLLM encodes each for itself")
    return reasons


def _reasons(assistant: Assistant) -> Iterator[str]:
    model = assistant.model
    llm = model.llm
    if not isinstance(llm, CausalLM):
        yield f"model.llm ({type(llm).__name__}) is no LLM of transformers"
        return
    places = llm.changed_by()
    if places:
        verb = "change" if len(places) > 1 else "changes"
        yield f"{' and '.join(places)} {verb} layers of the LLM, which vLLM runs without"
    for slot in model.adapters:
        for branch in model.branches(slot):
            if branch.adapter.positions is not None:
                yield f"model.inputs.{slot} gives its tokens positions of its own, and vLLM counts one by one"
    for name, _ in model.named_heads():
        yield f"model.heads.{name} reads hidden states of the LLM, which vLLM does not return"
