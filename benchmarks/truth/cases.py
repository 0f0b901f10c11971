"""What is measured: serving runs by model, form, context and callers, and training runs by recipe. Two sets: `fit` is what constants
were adjusted to, `check` is what they never saw."""

from __future__ import annotations

from typing import Any

FORMS = ("none", "int8", "nf4")


def _serving(
    model: str, context: int, callers: int, forms: tuple[str, ...] = FORMS, **more: Any
) -> list[dict[str, Any]]:
    return [
        {
            "kind": "serve",
            "model": model,
            "form": form,
            "context": context,
            "concurrency": callers,
            "adapters": 2,
            "rank": 16,
            **more,
        }
        for form in forms
    ]


def _training(model: str, form: str, rows: int, tokens: int, **more: Any) -> dict[str, Any]:
    lora = {"rank": more.pop("rank", 16), "alpha": 32, "dropout": more.pop("dropout", 0.05)}
    recipe = {
        "base_quantization": form,
        "lora": lora,
        "batch": {"rows": rows, "accumulate": more.pop("accumulate", 2)},
        "optimizer": {"name": more.pop("optimizer", "adamw_8bit"), "learning_rate": 1e-4},
        "max_length": tokens,
        "gradient_checkpointing": more.pop("checkpointing", True),
        "added_tokens": more.pop("added", []),
    }
    return {"kind": "train", "model": model, "row_tokens": tokens, "recipe": recipe, **more}


MISTRAL, LLAMA = "mistralai/Mistral-7B-v0.3", "meta-llama/Llama-3.1-8B-Instruct"
QWEN2, QWEN3 = "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen3-8B"
PHI4, PHI3 = "microsoft/phi-4", "microsoft/Phi-3.5-mini-instruct"
PYTHIA, MPT, FALCON = "EleutherAI/pythia-6.9b", "mosaicml/mpt-7b", "tiiuae/falcon-7b"
STARCODER, GEMMA = "bigcode/starcoder2-7b", "google/gemma-3-12b-it"
NEMO, SMOL, OLMO = "mistralai/Mistral-Nemo-Instruct-2407", "HuggingFaceTB/SmolLM3-3B", "allenai/Olmo-3-7B-Instruct"

SERVING = {
    "fit": [
        *_serving(MISTRAL, 4096, 6),
        *_serving(LLAMA, 2048, 4),
        *_serving(QWEN2, 4096, 4),
        *_serving(QWEN3, 2048, 8),
        *_serving(PYTHIA, 2048, 4),
        *_serving(MPT, 2048, 4),
        *_serving(FALCON, 2048, 4),
        *_serving(PHI4, 2048, 2),
        *_serving(STARCODER, 4096, 2),
        *_serving(GEMMA, 2048, 3),
        *_serving(PHI3, 4096, 4),
    ],
    "check": [
        *_serving(OLMO, 2048, 4, forms=("int8",), edge_shapes=[(2048, 4), (6144, 2)]),
        *_serving(OLMO, 2048, 4, forms=("none", "nf4")),
        *_serving(SMOL, 4096, 8, forms=("int8", "none")),
        *_serving(SMOL, 4096, 8, forms=("nf4",), edge_shapes=[(4096, 8)]),
        *_serving(PHI4, 4096, 4, forms=("int8", "none"), adapters=1),
        *_serving(PHI4, 4096, 4, forms=("nf4",), adapters=1, edge_shapes=[(4096, 4)]),
        *_serving(LLAMA, 8192, 3, forms=("int8",), adapters=3, rank=8, edge_shapes=[(4096, 4)]),
        *_serving(LLAMA, 8192, 3, forms=("none", "nf4"), adapters=3, rank=8),
        *_serving(QWEN2, 1024, 12, forms=("int8", "none"), adapters=1),
        *_serving(QWEN2, 1024, 12, forms=("nf4",), adapters=1, edge_shapes=[(1024, 12)]),
        *_serving(QWEN3, 6144, 2, adapters=0),
        *_serving(NEMO, 3072, 4, forms=("int8",), edge_shapes=[(3072, 4)]),
        *_serving(NEMO, 3072, 4, forms=("none", "nf4")),
        *_serving(MISTRAL, 8192, 2, adapters=1, rank=32),
    ],
}
TRAINING = {
    "fit": [
        _training(MISTRAL, "nf4", 1, 512),
        _training(MISTRAL, "nf4", 1, 2048),
        _training(MISTRAL, "nf4", 4, 1024),
        _training(MISTRAL, "nf4", 1, 1024, checkpointing=False),
        _training(MISTRAL, "int8", 2, 512, checkpointing=False),
        _training(LLAMA, "nf4", 2, 1024, added=["<STYLE_TERSE>", "<STYLE_VERBOSE>"]),
        _training(LLAMA, "none", 1, 1024, optimizer="adamw_torch"),
        _training(QWEN2, "nf4", 2, 2048),
        _training(QWEN3, "int8", 1, 1024),
        _training(PYTHIA, "nf4", 4, 512),
        _training(MPT, "nf4", 1, 1024),
        _training(FALCON, "none", 1, 1024),
        _training(PHI4, "nf4", 2, 1024),
        _training(PHI4, "nf4", 1, 4096, rank=24),
        _training(STARCODER, "nf4", 1, 1024, rank=64, dropout=0.0, optimizer="adamw_torch"),
        _training(GEMMA, "nf4", 1, 1024),
        _training(PHI3, "none", 2, 1024, checkpointing=False),
    ],
    "check": [
        _training(MISTRAL, "nf4", 8, 384, rank=8),
        _training(MISTRAL, "none", 2, 768, dropout=0.0),
        _training(MISTRAL, "nf4", 1, 4096, added=["<STYLE_TERSE>", "<STYLE_VERBOSE>"]),
        _training(LLAMA, "nf4", 4, 640),
        _training(LLAMA, "int8", 1, 2048),
        _training(QWEN2, "nf4", 1, 768, checkpointing=False),
        _training(QWEN2, "none", 1, 3072),
        _training(QWEN3, "nf4", 3, 1024, rank=64, optimizer="adamw_torch"),
        _training(PHI4, "nf4", 3, 768, added=["<A>", "<B>"]),
        _training(PHI4, "int8", 1, 1536),
        _training(NEMO, "nf4", 2, 1024),
        _training(NEMO, "nf4", 1, 512, checkpointing=False),
        _training(OLMO, "nf4", 2, 1024),
        _training(SMOL, "none", 4, 1024, optimizer="adamw_torch"),
    ],
}

# A shorter `check` for when time is short: architectures, forms and recipes that `fit` has not, and cards made small.
EDGES = [(2048, 4), (6144, 2), (1024, 12)]
SERVING["short"] = [
    *_serving(MISTRAL, 8192, 2, forms=("int8",), adapters=1, rank=32),
    *_serving(OLMO, 2048, 4, forms=("none", "int8", "nf4"), edge_shapes=EDGES),
    *_serving(SMOL, 4096, 8, forms=("none", "nf4"), edge_shapes=EDGES),
    *_serving(LLAMA, 8192, 3, forms=("nf4", "int8"), adapters=3, rank=8, edge_shapes=EDGES),
    *_serving(PHI4, 4096, 4, forms=("nf4",), adapters=1, edge_shapes=EDGES),
    *_serving(GEMMA, 2048, 3, forms=("nf4",)),
    *_serving(STARCODER, 4096, 2, forms=("nf4",)),
    *_serving(PHI3, 4096, 4, forms=("none",)),
]
TRAINING["short"] = [
    _training(LLAMA, "int8", 1, 2048),
    _training(OLMO, "nf4", 2, 1024),
    _training(SMOL, "none", 4, 1024, optimizer="adamw_torch"),
    _training(PHI4, "nf4", 3, 768, added=["<A>", "<B>"]),
    _training(GEMMA, "nf4", 1, 1024),
    _training(STARCODER, "nf4", 1, 1024, rank=64, dropout=0.0, optimizer="adamw_torch"),
    _training(PHI3, "none", 2, 1024, checkpointing=False),
]
