"""Predict structure files: the same as `crystalframer predict`."""

from crystalframer.cli import program

main = program("predict")

if __name__ == "__main__":
    raise SystemExit(main())
