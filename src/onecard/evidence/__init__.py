"""Claims and measurements: records and the ledger that keeps them."""
