"""Print the section of CHANGELOG.md for one version: python .github/release_notes.py 0.1.0."""

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"


def release_notes(version: str, changelog: str) -> str:
    """Return the text below a version's heading, up to the next heading of that level.

    Raises:
      ValueError: if the version has no section, or an empty one.
    """
    section = re.search(rf"^## \[{re.escape(version)}\][^\n]*\n(.*?)(?=^## |\Z)", changelog, re.DOTALL | re.MULTILINE)
    if not section or not section[1].strip():
        raise ValueError(f"CHANGELOG.md must have a section for the version; got {version!r}")
    return section[1].strip()


if __name__ == "__main__":
    print(release_notes(sys.argv[1], CHANGELOG.read_text()))
