"""Print what follows from the declarations of the study file.

python -m study.config schema > search_spaces/schema.json     # JSON Schema, for editors
python -m study.config columns > analysis/columns.json        # columns of the tables, with their types
python -m study.config table space                            # a section's keys, as rows of a Markdown table
"""

from __future__ import annotations

import argparse
import json

from study.config import columns, reference


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m study.config", description="Print what study files may hold.")
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("schema", help="the JSON Schema of a study file")
    what.add_parser("columns", help="the columns of the tables in a results folder")
    what.add_parser("table", help="a section as a Markdown table").add_argument("section", choices=reference.SECTIONS)
    given = parser.parse_args(argv)
    if given.what == "table":
        print(reference.section_table(given.section))
    else:
        print(json.dumps(reference.json_schema() if given.what == "schema" else columns.tables(), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
