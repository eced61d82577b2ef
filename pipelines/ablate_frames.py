"""Train every frame type on real crystals and tabulate their errors: the same as `crystalframer sweep`."""

from crystalframer.cli import program

main = program("sweep")

if __name__ == "__main__":
    raise SystemExit(main())
