"""Validate submissions, send each file once, wait for its score and record it in a ledger."""

TIMEOUT = 600.0
"""Default time to wait for a score, in seconds."""
