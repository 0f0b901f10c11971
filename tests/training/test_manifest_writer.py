"""What the manifest says of a run: figures as measured, and nothing that only this machine understands."""

from __future__ import annotations

import torch

from onecard.adapters.manifest import CurvePoint
from onecard.training.loop import LoopResult
from onecard.training.manifest_writer import RunFacts, hardware, versions, write_manifest
from onecard.training.preparation import DataFacts

CURVE = (CurvePoint(step=1, loss=2.0, learning_rate=1e-3, tokens_s=10.0), CurvePoint(step=2, loss=1.0, learning_rate=0))
RUN = RunFacts(LoopResult(CURVE, 4.0, 100), 1 << 30, "process-rss", ("q_proj",), torch.device("cpu"))
DATA = DataFacts(3, 40, "d" * 64, (), "c" * 64, (2,))


def test_the_manifest_carries_order_data_and_run(order):
    made = order(recipe={"data": "/home/somebody/rows.jsonl"})
    manifest = write_manifest(made, DATA, RUN)
    assert (manifest.agent, manifest.name, manifest.rank, manifest.alpha) == ("writer", "style", 4, 8)
    assert manifest.base.model_dump() == {
        "id": "tiny",
        "fingerprint": "f" * 64,
        "quantization": "nf4",
        "double_quantization": True,
        "dtype": "bf16",
    }
    assert (manifest.version, manifest.digest, manifest.files, manifest.created_at) == ("", "", {}, "")
    assert manifest.training.tokens_s == 25.0 and manifest.training.steps == 2
    assert manifest.training.curve == CURVE
    assert manifest.recipe["data"] == "rows.jsonl" and "somebody" not in manifest.model_dump_json()


def test_hardware_and_versions_are_named():
    assert hardware(torch.device("cpu")).endswith(f"{torch.get_num_threads()} threads")
    assert versions()["torch"] == torch.__version__ and {"peft", "bitsandbytes"} <= set(versions())
