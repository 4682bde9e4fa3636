"""Count the operations of a pass that make the CPU wait for a GPU: those whose result decides a shape or a branch."""

from __future__ import annotations

import traceback
from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = {
    "aten::nonzero",
    "aten::_local_scalar_dense",
    "aten::masked_select",
    "aten::equal",
    "aten::is_nonzero",
    "aten::unique_dim",
    "aten::_unique2",
    "aten::unique_consecutive",
}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""They wait where an index is a mask."""
OURS = ("omnivit", "encoders", "adapters", "transformers")


class HostWaits(TorchDispatchMode):
    """Counts `operation, file:line` of the nearest frame of the project or of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        name = func.name().split(".")[0]
        masked = name in INDEXED and any(isinstance(index, Tensor) and index.dtype.itemsize == 1 for index in args[1])
        if name in WAITS or masked:
            frames = [frame for frame in traceback.extract_stack() if any(part in frame.filename for part in OURS)]
            where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "?"
            self.found[name, where] += 1
        return func(*args, **(kwargs or {}))
