"""Download, parse and validate the competition's files, and split the rows into folds."""
