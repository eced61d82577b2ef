"""Prints the worst error per golden file as a Markdown table: ``python -m tests.golden.table [kernel ...]``."""

import sys

from tests.fixtures.implementations import PRECISIONS
from tests.golden.comparison import FILES, FOLDER, measure


def main(kernels: list[str]) -> None:
    """Print one row per file, kernel and precision."""
    if not FOLDER.is_dir():
        raise SystemExit(f"needs the golden files in {FOLDER}, which is not there")
    print("| file | kernel | precision | prediction | gradient (worst parameter) | attn_out | other intermediates |")
    print("|---|---|---|---|---|---|---|")
    for name in FILES:
        for kernel in (kernel for kernel in PRECISIONS if not kernels or kernel in kernels):
            for dtype in PRECISIONS[kernel]:
                errors = measure(name, kernel, dtype)
                worst = max(errors.gradient, key=lambda key: errors.gradient[key])
                others = max(error for key, error in errors.intermediate.items() if key != "attn_out")
                precision = str(dtype).removeprefix("torch.")
                print(
                    f"| {name} | {kernel} | {precision} | {errors.prediction:.1e} "
                    f"| {errors.gradient[worst]:.1e} ({worst}) "
                    f"| {errors.intermediate['attn_out']:.1e} | {others:.1e} |",
                    flush=True,
                )


if __name__ == "__main__":
    main(sys.argv[1:])
