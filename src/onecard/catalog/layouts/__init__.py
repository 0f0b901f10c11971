"""One function per model architecture: from its config to its Linear layers, its other parameters and its KV cache."""
