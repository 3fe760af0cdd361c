"""The competition's files: got, parsed, checked, and split into folds."""
