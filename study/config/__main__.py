"""Print the JSON Schema, table columns and documentation tables generated from the study file's models.

python -m study.config schema > search_spaces/schema.json     # JSON Schema, for editors
python -m study.config columns > analysis/columns.json        # columns and types of the result tables
python -m study.config table space                            # keys of a section as Markdown table rows
"""

from __future__ import annotations

import argparse
import json

from study.config import columns, reference


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m study.config", description="Print what study files may hold.")
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("schema", help="the JSON Schema of a study file")
    commands.add_parser("columns", help="the columns of the tables in a results folder")
    commands.add_parser("table", help="a section as a Markdown table").add_argument(
        "section", choices=reference.SECTIONS
    )
    args = parser.parse_args(argv)
    if args.what == "table":
        print(reference.section_table(args.section))
    else:
        print(json.dumps(reference.json_schema() if args.what == "schema" else columns.tables(), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
