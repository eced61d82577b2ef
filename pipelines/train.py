"""Train one model: the same as `crystalframer train`."""

from crystalframer.cli import program

main = program("train")

if __name__ == "__main__":
    raise SystemExit(main())
