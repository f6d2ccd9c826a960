"""The command `pruning-study`: each of the project's commands, under one name and from any folder.

pruning-study run --space quickstart
pruning-study report results/quickstart
pruning-study run --help
"""

from __future__ import annotations

import importlib
import sys
from importlib import metadata

PROGRAM = "pruning-study"
COMMANDS = {
    "run": ("study.run", "run or resume a study"),
    "trial": ("study.trial", "run one recipe without Ray"),
    "report": ("analysis.report", "make the tables, figures and the page again"),
    "compare": ("analysis.compare", "put two studies side by side"),
    "evaluate": ("study.evaluate", "measure saved networks"),
    "export": ("study.export", "write a saved network as one file"),
    "replay": ("study.replay", "try samplers on recorded trials"),
}
_LISTED = "\n".join(f"  {name:<10}{what}" for name, (_, what) in COMMANDS.items())
USAGE = f"""usage: {PROGRAM} COMMAND ...

{_LISTED}

`{PROGRAM} COMMAND --help` tells what a command takes; `{PROGRAM} --version` is the version."""


def main(argv: list[str] | None = None) -> int:
    """Run the command that is named first, with the arguments that follow; its exit code."""
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(USAGE)
        return 0
    if name == "--version":
        print(f"{PROGRAM} {metadata.version(PROGRAM)}")
        return 0
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}; choices: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    sys.argv = [f"{PROGRAM} {name}", *arguments]  # what the command is called in its messages
    code: int = importlib.import_module(COMMANDS[name][0]).main(arguments, sys.argv[0])
    return code


if __name__ == "__main__":
    sys.exit(main())
