"""Suites, scorers, paired statistics and the gate."""
