"""How large a quantized checkpoint will be and what making it takes, before a byte is written.

The weights are counted from the config, tensor by tensor, and so is what must be in memory at once; the process, the libraries' working
memory and the files' headers are assumptions, and are tagged so. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from onecard.catalog.quantization import GROUPS, Quantization, asked_storage, reaches, stored_bytes
from onecard.catalog.shapes import Layout, LinearShape
from onecard.catalog.storages import Compressed, Storage
from onecard.catalog.units import MIB, format_bytes
from onecard.errors import DiskFull, DoesNotFit, InputError
from onecard.weights.quantize_order import ANSWERED_TOGETHER, Maker, To

Tag = Literal["exact", "assumed"]

PROCESS_BYTES = 700 * MIB  # Python with torch, transformers and the quantizing library: 560 to 650 MiB seen on a CPU
CARD_PROCESS_BYTES = 600 * MIB  # what a CUDA context and its kernels take of a card
NAME_BYTES = 140  # of a tensor's name, shape and place in a file's header, and its padding
RECORDS_BYTES = (
    MIB // 4
)  # config, recipe and the record of what was done; the tokenizer is copied and its size is known
# What bitsandbytes writes beside each Linear's own tensors: a byte that names the layout, or the state as JSON (166 to 169 bytes seen).
NOTE_BYTES: dict[To, int] = {"int8": 1, "nf4": 170}
# Copies beside the weights while a form is made, written or unpacked again, as a share of the 16-bit weights: on a CPU, from the
# peaks of a model of 264 million parameters (0.4, 1.4, 1.3 and 2.3 seen). On a card a Linear at a time is converted.
COPIES: dict[tuple[To, Maker], float] = {
    ("nf4", "bitsandbytes"): 0.5,
    ("int8", "bitsandbytes"): 1.5,
    ("int8", "llm-compressor"): 1.5,
    ("w8a8", "llm-compressor"): 1.5,
    ("fp8", "llm-compressor"): 1.5,
    ("awq", "llm-compressor"): 2.5,
    ("gptq", "llm-compressor"): 2.5,
}
# The forms bitsandbytes makes, as the catalog knows them.
BITSANDBYTES: Mapping[To, Quantization] = {"int8": "int8", "nf4": "nf4"}
LOGIT_POSITIONS = 512  # tokens whose logits are kept to compare: the runner keeps no more


WEIGHTS, NOTES = "weights", "bitsandbytes' notes"


@dataclass(frozen=True)
class Part:
    """Some bytes, how sure they are, and why."""

    what: str
    bytes: int
    tag: Tag
    source: str


@dataclass(frozen=True)
class Prediction:
    """`files` sum to what is written, `peak` to what is held at the worst moment; `source_bytes` are the 16-bit weights."""

    files: tuple[Part, ...]
    peak: tuple[Part, ...]
    source_bytes: int

    @property
    def weight_bytes(self) -> int:
        """Of all tensors in the files."""
        return sum(part.bytes for part in self.files if part.what in (WEIGHTS, NOTES))

    @property
    def file_bytes(self) -> int:
        return sum(part.bytes for part in self.files)

    @property
    def peak_bytes(self) -> int:
        return sum(part.bytes for part in self.peak)


def group_for(layout: Layout, to: To) -> int:
    """The group of a 4-bit checkpoint: the largest usual one that divides every input. 0 for forms without groups.

    InputError when none does.
    """
    if to not in ("awq", "gptq"):
        return 0
    inputs = {shape.in_features for shape in layout.linears if shape.component == "linear"}
    for group in GROUPS:
        if all(size % group == 0 for size in inputs):
            return group
    raise InputError(
        f"no group of {', '.join(map(str, GROUPS))} divides every Linear's input of this model",
        next_step="choose int8, w8a8, fp8 or nf4, which have no such groups",
    )


def storage_of(to: To, maker: Maker, group: int) -> Storage:
    """How a converted Linear is kept in the file."""
    if maker == "llm-compressor":
        made: dict[str, Storage] = {
            "int8": Compressed(8, "int", "channel", packed=True),
            "w8a8": Compressed(8, "int", "channel"),
            "fp8": Compressed(8, "float", "channel"),
        }
        return made.get(to) or Compressed(4, "int", "group", group=group, packed=True)
    asked = asked_storage(BITSANDBYTES[to]) if to in BITSANDBYTES else None
    if asked is None:
        raise InputError(f"{to} is not made by {maker}")
    return asked


def refuse_what_cannot_be_made(config: Mapping[str, Any], layout: Layout, where: str) -> None:
    """InputError for a checkpoint that is quantized already, and for models whose weights are not plain Linears of one language model."""
    if config.get("quantization_config"):
        raise InputError(
            "the checkpoint is quantized already",
            where=where,
            next_step="quantize the 16-bit checkpoint it was made from",
        )
    parts = layout.components
    if parts.get("experts"):
        raise InputError(
            f"a mixture of experts: {format_bytes(2 * parts['experts'])} of it are no Linears in transformers and would stay in 16 bits",
            where=where,
            next_step="use a published quantized checkpoint",
        )
    if towers := [name for name in ("vision_tower", "audio_tower", "qformer") if parts.get(name)]:
        raise InputError(
            f"not a plain language model (it has a {towers[0].replace('_', ' ')})",
            where=where,
            next_step="load it with quantization: int8 or nf4, which is made while loading",
        )


def predict(
    layout: Layout,
    to: To,
    maker: Maker,
    *,
    group: int,
    samples: int,
    max_tokens: int,
    copied: int,
    on_card: bool,
    answer_tokens: int = 0,
) -> Prediction:
    """Files and peak of making this form of a 16-bit model with so many texts of at most `max_tokens` tokens.

    `copied` are the bytes of the source's files that go along: its tokenizer and licences. `answer_tokens`: the longest question of a
    suite with its answer; 0 where none is asked.
    """
    storage = storage_of(to, maker, group)
    converted = [shape for shape in layout.linears if _converts(to, maker, shape)]
    quantized = _weights(layout, converted, storage)
    source = _weights(layout, [], storage)
    linears = sum(shape.count for shape in converted)
    notes = NOTE_BYTES.get(to, 0) * linears if maker == "bitsandbytes" else 0
    logits = LOGIT_POSITIONS * layout.vocab_size * 3 * 4 + max_tokens * layout.vocab_size * (2 + 4 + 4)
    copies = 0 if on_card else round(COPIES[to, maker] * source)
    names = NAME_BYTES * (sum(shape.count for shape in layout.linears) + linears * (6 if to == "nf4" else 3))
    return Prediction(
        files=_parts(
            Part(WEIGHTS, quantized, "exact", f"counted from the config: {storage.tensors}"),
            Part(NOTES, notes, "exact" if to == "int8" else "assumed", "what it writes beside a Linear's tensors"),
            Part("names in the files", names, "assumed", f"{NAME_BYTES} bytes for each tensor"),
            Part("tokenizer, licences", copied, "exact", "copied from the source"),
            Part("config, records", RECORDS_BYTES, "assumed", "the largest seen, rounded up"),
        ),
        peak=_parts(
            Part(
                "process", CARD_PROCESS_BYTES if on_card else PROCESS_BYTES, "assumed", "the interpreter, its libraries"
            ),
            Part("source weights", source, "exact", "16 bits a parameter, held while the form is made"),
            Part("quantized weights", 0 if on_card and maker == "bitsandbytes" else quantized, "exact", "beside them"),
            _most(
                Part(
                    "calibration", _working(layout, converted, to, samples, max_tokens), "assumed", WORKING.get(to, "")
                ),
                Part("copies", copies, "assumed", "while it is made and unpacked, from peaks seen of a smaller model"),
            ),
            Part("logits", logits, "assumed", "of one text in three precisions, and of the tokens that are compared"),
            Part(
                "answers",
                round(ANSWERED_TOGETHER * answer_tokens * layout.kv.bytes_per_token()),
                "assumed",
                f"keys and values of {ANSWERED_TOGETHER} answers of the suite at once",
            ),
        ),
        source_bytes=source,
    )


def _most(*parts: Part) -> Part:
    """The largest of parts that are never held together."""
    return max(parts, key=lambda part: part.bytes)


def _parts(*parts: Part) -> tuple[Part, ...]:
    return tuple(part for part in parts if part.bytes)


WORKING = {
    "awq": "inputs of a block's Linears and outputs of its modules for every text, in 16 and 32 bits",
    "gptq": "an fp32 Hessian for every Linear of a block, three copies of the largest, and a block's inputs for every text",
}


def demand_room(prediction: Prediction, *, free_memory: int, free_disk: int, memory_is: str, where: str) -> None:
    """DoesNotFit or DiskFull when the prediction is more than what is free now."""
    if prediction.peak_bytes > free_memory:
        raise DoesNotFit(
            f"making it takes about {format_bytes(prediction.peak_bytes)} at once, and {format_bytes(free_memory)} of {memory_is} are free",
            where=where,
            next_step="free some of it, lower --samples or --max-tokens, or run it on a larger machine",
        )
    if prediction.file_bytes > free_disk:
        raise DiskFull(
            f"it will take {format_bytes(prediction.file_bytes)} and {format_bytes(free_disk)} are free",
            where=where,
            next_step="free some space, or name another --output",
        )


def _converts(to: To, maker: Maker, shape: LinearShape) -> bool:
    if maker == "bitsandbytes":
        return reaches(BITSANDBYTES[to], shape)
    return shape.component == "linear"


def _weights(layout: Layout, converted: list[LinearShape], storage: Storage) -> int:
    """Bytes of all tensors; `converted` in this storage, the rest in 16 bits."""
    taken = set(converted)
    linears = sum(stored_bytes(shape, storage if shape in taken else None, shape.count) for shape in layout.linears)
    return linears + 2 * sum(layout.rest.values())


def _working(layout: Layout, converted: list[LinearShape], to: To, samples: int, max_tokens: int) -> int:
    """What calibration holds beside the weights: see WORKING."""
    if to not in WORKING or not converted:
        return 0
    tokens = samples * max_tokens
    layers = max(layout.layers, 1)
    inputs = 2 * tokens * layout.hidden_size * 2  # a block's inputs and outputs, 16 bits
    block = [(shape, max(shape.count // layers, 1)) for shape in converted]
    largest = max(shape.in_features * shape.out_features for shape in converted)
    if to == "gptq":
        widest = max(shape.in_features for shape in converted)
        hessians = sum(4 * shape.in_features**2 * count for shape, count in block)
        return inputs + hessians + 3 * 4 * widest**2 + 3 * 4 * largest
    widest = max(shape.in_features for shape in converted)
    return inputs + tokens * (2 * layout.hidden_size + widest) * 2 + tokens * layout.hidden_size * 6 + 2 * 4 * largest
