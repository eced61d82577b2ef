"""`python -m crystalframer`: the same as the program `crystalframer`."""

from crystalframer.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
