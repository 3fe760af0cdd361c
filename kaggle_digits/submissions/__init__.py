"""Submissions: checked, sent once, waited for, and kept in a ledger."""

TIMEOUT = 600.0
"""Seconds that a score is waited for."""
