"""Looks up every test that docs/conformance.md names in the report of the test runner: each must have run and passed.

    python3 tests/conformance/passed.py docs/conformance.md target/nextest/default/junit.xml
"""

import re
import sys
import xml.etree.ElementTree as ElementTree

PACKAGE = "mcpgate"


def outcomes(report):
    """Test name as the page writes it -> whether it passed."""
    seen = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        binary, name = case.get("classname"), case.get("name")
        if binary != PACKAGE:
            name = binary.removeprefix(PACKAGE + "::") + "::" + name
        passed = not any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
        seen[name] = seen.get(name, True) and passed
    return seen


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    page, report = sys.argv[1:]
    with open(page, encoding="utf-8") as file:
        rows = [line for line in file if line.startswith("|")]
    named = sorted({name for row in rows for name in re.findall(r"`([a-z0-9_]+(?:::[a-z0-9_]+)+)`", row)})
    if not named:
        sys.exit(f"{page} names no test")
    try:
        seen = outcomes(report)
    except (OSError, ElementTree.ParseError) as error:
        sys.exit(f"no report of the tests: {error}; run `cargo nextest run` first")
    wrong = [f"{name} {'failed' if name in seen else 'did not run'}" for name in named if not seen.get(name)]
    print("\n".join(wrong + [f"{len(named) - len(wrong)} of the {len(named)} tests that {page} names ran and passed"]))
    sys.exit(1 if wrong else 0)


main()
