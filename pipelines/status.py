"""Where a sweep or search stands: the same as `crystalframer status`."""

from crystalframer.cli import program

main = program("status")

if __name__ == "__main__":
    raise SystemExit(main())
