"""accelerate estimate-memory: the command's own function, against the hub on loopback (HF_ENDPOINT). It says nothing of a cache.

It runs under torch's meta device: by itself it makes each layer in real memory first, and a DeepSeek-V3 has layers of 30 GB.
"""

from __future__ import annotations

from argparse import Namespace
from importlib.metadata import version

from asking import Answer, answer_all

# Its --dtypes, and what each is the nearest name for.
NAMES = {"float16": ("16bit",), "int8": ("int8",), "int4": ("nf4", "nf4_dq")}


def ask(model: dict) -> Answer:
    import torch
    from accelerate.commands.estimate import gather_data

    asked = Namespace(model_name=model["id"], library_name=None, trust_remote_code=False, dtypes=list(NAMES))
    answers: Answer = {}
    with torch.device("meta"):
        rows = gather_data(asked)
    for dtype, _, total, _ in rows:
        for quantity in NAMES[dtype]:
            answers[quantity] = {dtype: total}
    return answers


if __name__ == "__main__":
    answer_all(lambda: version("accelerate"), ask)
