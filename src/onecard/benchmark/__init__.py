"""Load, timings, sweeps, plots and the report."""
