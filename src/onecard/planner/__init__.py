"""Judgement: from wishes and facts to bytes, seconds and verdicts. Pure: no torch, no network, no clock."""
