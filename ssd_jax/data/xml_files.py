"""XML files, in whatever encoding programs write them."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from ssd_jax.data.folder import Folder
from ssd_jax.files import read_bytes

# What is written under names of encodings that Python does not know, or takes for smaller ones. Every text is cp1252.
ENCODINGS = {"gb2312": ("gb18030", "utf-8"), "gbk": ("gb18030", "utf-8"), "ansi": ("utf-8", "cp1252")}
INCORRECT_ENCODING = 19  # expat's error for UTF-8 that is declared as UTF-16, as some .NET programs write it


def read_xml(path: Path, most_bytes: int) -> ElementTree.Element:
    """Parse an XML file; the names of its elements have no namespaces.

    Raises:
      FileNotFoundError: the file cannot be read.
      ValueError: it is too large, or no well-formed XML.
    """
    try:
        root = _parse_xml(read_bytes(path, most=most_bytes), path)
    except OSError as error:
        raise FileNotFoundError(f"{path}: {error.strerror}") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # without its namespace
    return root


def root_tag(path: Path) -> str:
    """Return the name of the root element, without its namespace; "" if the start of the file does not tell."""
    if not path.is_file():  # a pipe would block
        return ""
    with path.open("rb") as file:
        head = file.read(4000)
    no_elements = rb"<!--.*?-->|<\?.*?\?>|<!DOCTYPE[^>[]*(\[.*?\])?\s*>"
    head = re.sub(no_elements, b"", head.replace(b"\0", b""), flags=re.DOTALL)
    found = re.search(rb"<(?:[\w.-]+:)?([A-Za-z][\w.-]*)", head)
    return found[1].decode() if found else ""


def with_damaged(folder: Folder, files: list[str]) -> list[str]:
    """Add the XML files near `files` whose root cannot be told, so that reading them is an error."""
    return sorted([*files, *(file for file in folder.near(files) if not root_tag(folder.path(file)))])


def _parse_xml(content: bytes, path: Path) -> ElementTree.Element:
    encodings = ()
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        if error.code != INCORRECT_ENCODING:
            raise ValueError(f"{path}: the file must be well-formed XML; got {error}") from None
        encodings = ("utf-8",)
    except (LookupError, ValueError):  # expat knows few encodings, and none with several bytes for a letter but UTF
        pass
    declared = re.search(rb"""encoding\s*=\s*["']([\w.:-]*)""", content[:200])
    name = declared[1].decode() if declared else ""
    for encoding in encodings or ENCODINGS.get(name.lower(), (name, "utf-8")):
        try:
            return ElementTree.fromstring(content.decode(encoding))
        except ElementTree.ParseError as error:
            raise ValueError(f"{path}: the file must be well-formed XML; got {error}") from None
        except (LookupError, ValueError):
            continue
    raise ValueError(f"{path}: the file must be in the encoding that it declares; got {name!r}")
