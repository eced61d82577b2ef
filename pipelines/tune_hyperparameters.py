"""Search for better settings: the same as `crystalframer search`."""

from crystalframer.cli import program

main = program("search")

if __name__ == "__main__":
    raise SystemExit(main())
