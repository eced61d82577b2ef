"""Measure the speed of the attention's implementations: the same as `crystalframer benchmark`."""

from crystalframer.cli import program

main = program("benchmark")

if __name__ == "__main__":
    raise SystemExit(main())
