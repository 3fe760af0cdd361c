"""`python -m kaggle_digits`: the same as the command `kaggle-digits`."""

from kaggle_digits.cli import main

main()
