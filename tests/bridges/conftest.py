"""Tests of bridges need environments of their own, which `bash .ci/bridges` makes; else they are not collected."""

from __future__ import annotations

import os

NEEDS = {
    "OMNIVIT_LLAMA_CPP": "test_llama_cpp.py",
    "OMNIVIT_SERVICES": "test_services.py",
    "OMNIVIT_VLLM": "test_vllm.py",
    "OMNIVIT_ONNX": "test_onnx.py",
}
collect_ignore_glob = [file for variable, file in NEEDS.items() if not os.environ.get(variable)]
