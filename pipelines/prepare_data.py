"""Prepare a data set: the same as `crystalframer prepare`."""

from crystalframer.cli import program

main = program("prepare")

if __name__ == "__main__":
    raise SystemExit(main())
