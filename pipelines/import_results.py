"""Record exported results in MLflow: the same as `crystalframer import`."""

from crystalframer.cli import program

main = program("import")

if __name__ == "__main__":
    raise SystemExit(main())
