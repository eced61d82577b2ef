"""Evaluate a trained model: the same as `crystalframer evaluate`."""

from crystalframer.cli import program

main = program("evaluate")

if __name__ == "__main__":
    raise SystemExit(main())
