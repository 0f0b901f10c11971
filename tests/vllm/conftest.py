"""These tests need a vLLM: ONECARD_VLLM_PYTHON names an interpreter that has one. Without it nothing here is collected."""

from __future__ import annotations

import os

NEEDED = {
    "test_quantized.py": ("ONECARD_VLLM_PYTHON", "ONECARD_QUANTIZE_PYTHON"),
    "test_export.py": ("ONECARD_VLLM_PYTHON",),
}
collect_ignore = [file for file, names in NEEDED.items() if not all(os.environ.get(name) for name in names)]
