"""Tests of bridges need environments of their own, which `bash .ci/bridges` makes; else they are not collected."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("OMNIVIT_LLAMA_CPP") else ["test_llama_cpp.py"]
