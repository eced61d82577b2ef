"""Keep a sweep's results as small files: the same as `crystalframer export`."""

from crystalframer.cli import program

main = program("export")

if __name__ == "__main__":
    raise SystemExit(main())
