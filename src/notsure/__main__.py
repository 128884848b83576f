"""`python -m notsure`: the command line."""

from notsure.cli import main

if __name__ == "__main__":
    main()
