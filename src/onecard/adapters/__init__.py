"""The adapter store: immutable versions, manifests, aliases, promotion, and the checks of their files."""
