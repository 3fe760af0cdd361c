"""Submissions: checked, sent once, waited for, and kept in a ledger."""
