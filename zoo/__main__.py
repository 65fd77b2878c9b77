"""The command line: `zoo`, or `python -m zoo`."""

from zoo.cli.app import main

if __name__ == "__main__":
    main()
