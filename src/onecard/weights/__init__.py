"""Which models are on this disk, where, and what identifies them."""
