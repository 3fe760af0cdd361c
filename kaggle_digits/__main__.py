"""`python -m kaggle_digits`: the same as the command `kaggle-digits`."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C exits without a traceback, also during the imports."""
    try:
        from kaggle_digits import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
