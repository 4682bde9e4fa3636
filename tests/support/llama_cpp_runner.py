"""Runs GGUF files in llama.cpp (`xllamacpp`), in an environment of its own: a JSON list of jobs in, a JSON list out.

    python llama_cpp_runner.py JOBS.json ANSWERS.json

It imports nothing of OmniViT, which is not installed there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def _server(job: dict[str, Any]) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = job["model"]
    if job.get("mmproj"):
        params.mmproj.path = job["mmproj"]
    params.n_ctx, params.n_parallel, params.warmup = job.get("n_ctx", 256), 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.fit_params = False
    params.verbosity = 4 if "--verbose" in sys.argv else 0
    return xllamacpp.Server(params)


def main() -> None:
    """Answer all jobs."""
    jobs, answers = json.loads(Path(sys.argv[1]).read_text()), []
    for job in jobs:
        server = _server(job)
        found = []
        for kind, body in job["requests"]:
            found.append(getattr(server, f"handle_{kind}")(body))
        answers.append(found)
        del server
    Path(sys.argv[2]).write_text(json.dumps(answers))


main()
