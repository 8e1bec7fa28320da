"""The quickstart's runs as a table, and the README's figure of them.

    python benchmarks/quickstart.py --runs runs

Runs `hptransfer quickstart` (what has been run before is not run again), then writes benchmarks/results/quickstart.csv
and docs/quickstart.svg.
"""

import argparse
import csv
from pathlib import Path

from hptransfer.figures import to_svg, u_curves
from hptransfer.quickstart import quickstart
from hptransfer.records import read_rows
from hptransfer.rows import Row

ROOT = Path(__file__).parent.parent
COLUMNS = ("width", "depth", "params", "tokens", "batch_tokens", "lr", "weight_decay", "status", "loss", "flops")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    print(quickstart(args.runs))
    rows = read_rows([args.runs / "quickstart"])
    rows.sort(key=lambda row: (str(row.recipe["parametrization"]), row.params, row.lr))
    write(rows, ROOT / "benchmarks/results/quickstart.csv")
    (ROOT / "docs/quickstart.svg").write_text(to_svg(u_curves(rows), "quickstart"))


def write(rows: list[Row], path: Path) -> None:
    """The rows with their recipe."""
    recipe = sorted(rows[0].recipe)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *recipe])
        for row in rows:
            writer.writerow([*(getattr(row, name) for name in COLUMNS), *(row.recipe[key] for key in recipe)])


if __name__ == "__main__":
    main()
