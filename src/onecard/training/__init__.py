"""From rows to a verified adapter."""

import onecard.engines.local  # noqa: F401  # hushes bitsandbytes before peft and trl import it
