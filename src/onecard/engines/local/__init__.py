"""The in-process engine on transformers."""

import logging
import os
import sys

# bitsandbytes, which peft and transformers import, asks the hub for a kernel while it is imported, complains where it cannot, and on
# a card says at every int8 layer that it casts. Nothing here may come from the network: without the package `kernels` it does not ask.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]

# Read when torch is loaded. Threads that wait for each other by spinning take the core from whom they wait for as soon as anything else
# runs: training on two cores beside one busy process went at 340 tokens/s, asleep while waiting at 1,250 (docs/decisions/004-training.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Read when torch first asks a card for memory. Blocks of fixed size leave holes of gigabytes once caches grow and lines join; segments
# that grow leave almost none, so what is reserved is little more than what is needed
# (docs/decisions/011-planner-truth.md).
if not {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"} & os.environ.keys():
    os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
