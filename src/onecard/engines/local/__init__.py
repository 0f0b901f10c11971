"""The in-process engine on transformers."""

import logging
import sys

# bitsandbytes, which peft and transformers import, asks the hub for a kernel while it is imported, complains where it cannot, and on
# a card says at every int8 layer that it casts. Nothing here may come from the network: without the package `kernels` it does not ask.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
