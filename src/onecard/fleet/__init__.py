"""The one file a user writes: its schema, its loader, the recipes it names and the examples that are shipped."""
