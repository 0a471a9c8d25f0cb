"""What PROTOCOL.md says, so that this package is compared with it and not with a copy."""

import re
from pathlib import Path

_PAGE = Path(__file__).parents[3] / "orchestrator-proto" / "PROTOCOL.md"


def _text() -> str:
    return _PAGE.read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The rows of the table that follows this first row, without marks of code."""
    lines = iter(_text().splitlines())
    for line in lines:
        if line == heading:
            break
    next(lines)
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    assert found, f"PROTOCOL.md has no table {heading!r}"
    return found


def kind(name: str) -> list[list[str]]:
    """The rows of the table of a type."""
    section = _text().split(f"#### `{name}`\n")[1]
    heading = next(line for line in section.splitlines() if line.startswith("|"))
    lines = section[section.index(heading) :].splitlines()[2:]
    table = []
    for line in lines:
        if not line.startswith("|"):
            break
        table.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return table


def frames() -> dict[str, bytes]:
    """The examples of frames in the runtime protocol, by their names."""
    found = {}
    for name, block in re.findall(r"```hex (runtime-\S+)\n(.*?)```", _text(), re.DOTALL):
        digits = [line.split("#")[0] for line in block.splitlines()]
        found[name] = bytes.fromhex(" ".join(digits))
    assert found, "PROTOCOL.md has no examples"
    return found
