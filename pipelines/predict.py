"""Predict structure files: the same as `crystalframer predict`. See ``python pipelines/predict.py --help``."""

import sys

from crystalframer import cli

if __name__ == "__main__":
    sys.exit(cli.main(["predict", *sys.argv[1:]]))
