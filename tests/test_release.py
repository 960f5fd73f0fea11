"""What a release needs: one version everywhere, a section of CHANGELOG.md, lower bounds that can be installed."""

import configparser
import importlib.util
import re
from pathlib import Path

import pytest

import ssd_jax

ROOT = Path(__file__).parents[1]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture(scope="module")
def release_notes():
    spec = importlib.util.spec_from_file_location("release_notes", ROOT / ".github" / "release_notes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.release_notes


def test_the_notes_of_a_version_are_its_section_alone(release_notes):
    changelog = "# Changelog\n\n## [0.10.0] - 2027-01-01\n\n- new\n\n### Fixed\n\n- old\n\n## [0.1.0]\n\n- first\n"
    assert release_notes("0.10.0", changelog) == "- new\n\n### Fixed\n\n- old"
    assert release_notes("0.1.0", changelog) == "- first"


@pytest.mark.parametrize("changelog", ["", "## [0.1.0]\n", "## [0.1.0]\n\n## [0.0.1]\n- x\n", "## [0.1.01]\n- x\n"])
def test_a_version_without_notes_is_an_error(release_notes, changelog):
    with pytest.raises(ValueError, match=r"must have a section for the version; got '0\.1\.0'"):
        release_notes("0.1.0", changelog)


def test_the_version_is_the_same_everywhere(release_notes):
    assert release_notes(ssd_jax.__version__, CHANGELOG)
    assert f"\nversion: {ssd_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_requirement_has_a_lower_bound():
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        assert re.fullmatch(r"[\w-]+>=\d[\d.]*(,<\d[\d.]*)?", line), line  # CI turns it into "name==bound"


def test_every_extra_has_the_name_that_pip_looks_for():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"])
    # The metadata of a package has "-" for "_", and the pip of Python 3.11 does not find "_" there.
    assert not [name for name in extras if re.search(r"[^a-z0-9-]", name)]
    code = "".join(path.read_text() for path in sorted((ROOT / "ssd_jax").rglob("*.py")))
    named = re.findall(r'import_extra\([^()]+, "([^"]+)"\)|ssd_jax\[([\w-]+)\]', code)
    assert named
    assert {name for names in named for name in names if name} <= extras
