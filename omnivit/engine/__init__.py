"""The engine: requests of many callers, answered by one model in one thread.

It knows prompts and tokens. Messages, text and heads are the assistant's (`omnivit.run.assistant`), which uses it.
"""

from __future__ import annotations

from omnivit.engine.any import AnyEngine
from omnivit.engine.engine import Engine
from omnivit.engine.request import EngineBusy, Finish, Generated, Generation, Request, Step
from omnivit.engine.sampling import GREEDY, Sampling

__all__ = [
    "GREEDY",
    "AnyEngine",
    "Engine",
    "EngineBusy",
    "Finish",
    "Generated",
    "Generation",
    "Request",
    "Sampling",
    "Step",
]
