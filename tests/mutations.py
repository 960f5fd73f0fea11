"""Ways to damage a good file: functions of (random numbers, the file, all good files) that return a damaged one.

Bytes of any file, tokens of text, the instructions of a pickle, the fields of a protocol buffer. Those that work on
the structure keep checksums and lengths right, so that the reader behind them is reached.
"""

import contextlib
import copy
import io
import itertools
import json
import pickletools
import random
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

# Mutations of any file.

INTEGERS = [0, 1, 2, 127, 128, 255, 256, 65535, 65536, *(2**k + d for k in (31, 32, 33, 63) for d in (-1, 0, 1)), -1]


def flip_bytes(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Change one to eight bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= rng.choice((1 << rng.randrange(8), rng.randrange(1, 256)))
    return bytes(changed)


def truncate(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Cut the end off."""
    return data[: rng.randrange(len(data) + 1)]


def change_slice(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Delete, repeat, move, overwrite or insert a slice."""
    start, stop = _slice(rng, data)
    piece, place = data[start:stop], rng.randrange(len(data) + 1)
    return rng.choice(
        (
            data[:start] + data[stop:],
            data[:stop] + piece * rng.choice((1, 2, 100)) + data[stop:],
            data[:place] + piece + data[place:],
            data[:place] + piece + data[place + len(piece) :],
            data[:place] + rng.randbytes(rng.choice((1, 4, 64))) + data[place:],
            data[:start] + bytes(stop - start) + data[stop:],
        )
    )


def splice(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Join the start of one good file to the end of another."""
    other = rng.choice(seeds)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def write_integer(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Overwrite bytes by an integer at which programs break."""
    width = rng.choice((1, 2, 4, 8))
    number = rng.choice(INTEGERS) % (1 << 8 * width)
    place = rng.randrange(max(len(data) - width, 0) + 1)
    return data[:place] + number.to_bytes(width, rng.choice(("little", "big"))) + data[place + width :]


def _slice(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 32, 128, 1024)))


BYTES = (flip_bytes, truncate, change_slice, splice, write_integer)

# Mutations of a PNG.

PNG_CHUNKS = (b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"eXIf", b"zTXt", b"IEND")


def change_png_chunk(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Change a chunk of a PNG, whose checksum stays right: its content, its name, or the length that it claims."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length], length))
        place += 12 + length
    if not chunks:
        return flip_bytes(rng, data, seeds)
    chosen = rng.randrange(len(chunks))
    name, content, length = chunks[chosen]
    kind = rng.randrange(5)
    if kind == 0:
        chunks[chosen] = (name, content, rng.choice(INTEGERS) % (1 << 32))
    elif kind == 1:
        chunks[chosen] = (
            rng.choice(PNG_CHUNKS),
            content,
            length,
        )
    elif kind == 2:
        chunks[chosen : chosen + 1] = [chunks[chosen]] * rng.choice((0, 2, 1000))
    else:
        content = rng.choice(BYTES)(rng, content, [content])
        chunks[chosen] = (name, content, len(content))
    out = [data[:8]]
    for name, content, length in chunks:
        out.append(struct.pack(">I", length) + name + content + struct.pack(">I", zlib.crc32(name + content)))
    return b"".join(out)


# Mutations of text: XML, JSON, lists of names.

NASTY_NUMBERS = [
    *("0", "-1", "1", "2", "0.5", "-0.0", "1e308", "1e400", "-1e400", "NaN", "nan", "Infinity", "inf", "1e-320"),
    *("2147483648", "9223372036854775808", "18446744073709551616", "9" * 400, "1" * 5000, "0x10", "1_000", "٣"),
]
NASTY_TEXTS = [
    *("", " ", "null", "true", "false", "[]", "{}", '""', '"80"', "[[]]", '{"a": 1}', "\x00", "\n", "\ud800", "é"),
    *("../../x", "/dev/zero", "/etc/passwd", "a" * 100_000, "[" * 5000, '{"a":' * 5000, "<a>" * 5000, "&a;", "&#0;"),
    *("<!DOCTYPE a [<!ENTITY b 'c'>]>", "<![CDATA[", "<!--", "-->", "<", ">", "&", '"', "\\", "\\ud800", ",", ":"),
]
TOKEN = re.compile(r'-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|"(?:[^"\\]|\\.)*"|</?[\w:]+|\w+|[^\w\s]')
ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "cp500", "utf-7")


def change_token(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Replace one to three numbers, strings, tags or words."""
    text = data.decode("utf-8", "surrogateescape")
    for _ in range(rng.choice((1, 1, 2, 3))):
        tokens = [match.span() for match in TOKEN.finditer(text)]
        if not tokens:
            break
        start, stop = rng.choice(tokens)
        new = rng.choice((*NASTY_NUMBERS, *NASTY_TEXTS))
        if rng.random() < 0.2:
            other = rng.choice(tokens)
            new = text[other[0] : other[1]]
        elif rng.random() < 0.2:
            new = json.dumps(new)
        text = text[:start] + new + text[stop:]
    return text.encode("utf-8", "surrogatepass" if "\ud800" in text else "surrogateescape")


def change_number(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Replace one number."""
    numbers = list(re.finditer(rb"-?\d+(?:\.\d+)?", data))
    if not numbers:
        return change_token(rng, data, seeds)
    start, stop = rng.choice(numbers).span()
    return data[:start] + rng.choice((*NASTY_NUMBERS, *map(str, INTEGERS))).encode() + data[stop:]


def delete_tokens(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Delete one token, or all from one to another."""
    text = data.decode("utf-8", "surrogateescape")
    tokens = [match.span() for match in TOKEN.finditer(text)]
    if not tokens:
        return data
    first = rng.randrange(len(tokens))
    last = min(len(tokens) - 1, first + rng.choice((0, 0, 1, 3, 10)))
    return (text[: tokens[first][0]] + text[tokens[last][1] :]).encode("utf-8", "surrogateescape")


def nest(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Repeat a line or a token many times."""
    pieces = data.splitlines(keepends=True) if rng.random() < 0.5 else re.split(rb"(?<=[\s,>\]}])", data)
    place = rng.randrange(len(pieces) or 1)
    pieces[place : place + 1] = pieces[place : place + 1] * rng.choice((2, 10, 1000))
    return b"".join(pieces)[: 1 << 20]


def reencode(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Write the text in another encoding, or say that it has one."""
    name = rng.choice((*ENCODINGS, "GB2312", "ANSI", "no-such-encoding"))
    declared = re.sub(rb'encoding="[^"]*"', f'encoding="{name}"'.encode(), data)
    if name not in ENCODINGS or rng.random() < 0.3:
        return declared
    text = rng.choice((data, declared)).decode("utf-8", "replace")
    return text.encode(name, "replace")


TEXT = (*[change_token] * 3, change_number, delete_tokens, nest, reencode, flip_bytes, truncate, change_slice, splice)

NASTY_VALUES = [
    *(None, True, False, 0, -1, 0.5, 1e308, 2**63, 10**400, float("nan"), float("inf"), "", "0", "-1", "80", "1e3"),
    *([], [1], [None] * 4, {}, {"id": 1}, "a\nb", "\ud800", "a\0b", "../a.png", "/dev/zero", ".", "x" * 5000),
]


def change_json(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Replace, delete or repeat one to three values of well-formed JSON."""
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply to change") from None
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            break
        parent, key = rng.choice(places)
        if rng.random() < 0.2:
            del parent[key]
        elif isinstance(parent, list) and rng.random() < 0.3:
            parent.append(parent[key])
        elif rng.random() < 0.3:
            other, place = rng.choice(places)
            parent[key] = json.loads(json.dumps(other[place]))
        else:
            parent[key] = copy.deepcopy(rng.choice(NASTY_VALUES))  # a later round may change it
    return json.dumps(value).encode()


def _places(value: object) -> Iterator[tuple[Any, Any]]:
    """Give every list or object in a JSON value, with each of its keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


# Mutations of a pickle, instruction by instruction.

INSTRUCTIONS = [
    *(b"(", b"t", b"]", b"}", b")", b"a", b"e", b"u", b"s", b"l", b"d", b"0", b"2", b".", b"R", b"b", b"Q", b"N"),
    *(b"\x85", b"\x86", b"\x87", b"\x88", b"h\x00", b"h\x01", b"q\x00", b"q\x01", b"\x8f", b"\x93", b"\x94"),
    *(b"K\x00", b"J\xff\xff\xff\xff", b"\x8a\xff" + b"\x7f" * 255, b"G\x7f\xf0" + bytes(6), b"I01\n", b"L1L\n"),
    *(b"ccollections\nOrderedDict\n", b"ctorch\nSize\n", b"ctorch\nFloatStorage\n", b"cos\nsystem\n", b"Va\n"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n", b"S'a'\n", b"\x8c\x01a"),
    *(b"X\x01\x00\x00\x00a", b"r\xff\xff\xff\xff", b"B\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f"),
    *(b"\x8e" + struct.pack("<Q", 1 << 33), b"\x8d" + struct.pack("<Q", 1 << 33)),
]


def change_pickle(rng: random.Random, data: bytes) -> bytes:
    """Change one to three instructions of a pickle: delete, repeat, swap, insert, or give other arguments."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        parts = _instructions(data)
        place, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        kind = rng.randrange(7)
        if kind == 0:
            del parts[place : place + rng.choice((1, 1, 2, 8))]
        elif kind == 1:
            parts[place:place] = parts[place : place + rng.choice((1, 4, 16))] * rng.choice((1, 10, 1000))
        elif kind == 2:
            parts[place], parts[other] = parts[other], parts[place]
        elif kind == 3:
            parts[place:place] = rng.choices(INSTRUCTIONS, k=rng.choice((1, 2, 4)))
        elif kind == 4:
            parts[place] = _other_argument(rng, parts[place])
        elif kind == 5:
            parts[place] = parts[other]
        else:
            parts[place : place + rng.choice((0, 1))] = [_bomb(rng)]
        data = b"".join(parts)[: 1 << 21]
    return data


def _instructions(data: bytes) -> list[bytes]:
    """Cut a pickle before each instruction; what cannot be read stays whole."""
    places = []
    with contextlib.suppress(Exception):  # whatever pickletools raises on a damaged pickle
        places += (place for _, _, place in pickletools.genops(data))
    return [data[a:b] for a, b in itertools.pairwise([*(places or [0]), len(data)])]


def _other_argument(rng: random.Random, part: bytes) -> bytes:
    """Write an integer or a text with another value; change a byte of anything else."""
    if part[:1] in (b"K", b"M", b"J", b"\x8a"):
        number = rng.choice((*INTEGERS, 1 << 2000))
        raw = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw if len(raw) < 256 else b"\x8b" + struct.pack("<i", len(raw)) + raw
    if part[:1] == b"X":
        new = rng.choice(NASTY_TEXTS).encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(new)) + new
    return flip_bytes(rng, part, [])


def _bomb(rng: random.Random) -> bytes:
    """Nest containers that hold the one before several times, so that few bytes stand for very many values."""
    start, end = rng.choice(((b"(", b"t"), (b"](", b"e"), (b"ccollections\nOrderedDict\n]((K\x00", b"tetR")))
    depth, copies = rng.choice(((8, 30), (60, 2), (3, 1000), (2000, 1)))
    out = [b")r" + struct.pack("<I", 1000)]
    for level in range(1000, 1000 + depth):
        out.append(start + (b"j" + struct.pack("<I", level)) * copies + end + b"r" + struct.pack("<I", level + 1))
    use = rng.choice((b"", b"Q", b"Ks", b"K\x00s", b"R", b"\x85", b"a"))
    return b"".join(out) + use


def change_zipped_pickle(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Change the pickle inside a `.pth`, whose checksums stay right."""
    return _rezip(data, lambda name, raw: change_pickle(rng, raw) if name.endswith(".pkl") else raw)


def change_zip_entry(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Change any file inside a `.pth`, or its name; checksums stay right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        chosen = rng.choice(archive.namelist())
    mutation = rng.choice(BYTES)
    if rng.random() < 0.3:
        new = chosen.rpartition("/")[0] + "/" + rng.choice(("data.pkl", "byteorder", "x", "../x", "é", "data/0", ""))
        return _rezip(data, lambda name, raw: raw, lambda name: new if name == chosen else name)
    return _rezip(data, lambda name, raw: mutation(rng, raw, [raw]) if name == chosen else raw)


def _rezip(data: bytes, change: Callable[[str, bytes], bytes], rename: Callable[[str], str] = str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a name is there twice
        for name in source.namelist():
            archive.writestr(zipfile.ZipInfo(rename(name)), change(name, source.read(name)))
    return out.getvalue()


def change_legacy_pickle(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Change one of the five pickles at the start of a legacy `.pth`."""
    pickles, start = [], 0
    for _ in range(5):
        *_, (_, _, last) = pickletools.genops(data[start:])
        pickles.append(data[start : start + last + 1])
        start += last + 1
    chosen = rng.choice((0, 1, 2, 3, 3, 3, 3, 4))
    pickles[chosen] = change_pickle(rng, pickles[chosen])
    return b"".join(pickles) + data[start:]


# Mutations of a protocol buffer, field by field.


def change_field(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Change a field of a protocol buffer at any depth; the lengths around it stay right."""
    parts = _fields(data)
    if not parts:
        return flip_bytes(rng, data, seeds)
    place = rng.randrange(len(parts))
    number, wire_type, value = parts[place]
    if isinstance(value, bytes) and _fields(value) and rng.random() < 0.8:
        parts[place] = (number, wire_type, change_field(rng, value, seeds))
    else:
        kind = rng.randrange(5)
        if kind == 0:
            del parts[place]
        elif kind == 1:
            parts[place:place] = [parts[place]] * rng.choice((1, 10, 10_000 if len(str(value)) < 50 else 10))
        elif kind == 2:
            parts[place] = (rng.choice((1, 2, 4, 5, 6, 7, 8, 100, number)), wire_type, value)
        elif kind == 3 and isinstance(value, bytes):
            parts[place] = (number, wire_type, rng.choice(BYTES)(rng, value, [value]))
        else:
            parts[place] = (number, 0, rng.choice((*INTEGERS, 1 << 69, 1 << 64)) % (1 << 70))
    return b"".join(map(_field, parts))


def _fields(data: bytes) -> list[tuple[int, int, int | bytes]]:
    """Cut a message into (field, wire type, value); [] if it is none."""
    parts, place = [], 0
    try:
        while place < len(data):
            key, place = _varint(data, place)
            value, length = b"", {1: 8, 5: 4}.get(key & 7, 0)
            if key & 7 == 0:
                value, place = _varint(data, place)
            elif key & 7 == 2:
                length, place = _varint(data, place)
            elif not length:
                return []
            if place + length > len(data) or key < 8:
                return []
            parts.append((key >> 3, key & 7, data[place : place + length] if key & 7 else value))
            place += length
    except IndexError:
        return []
    return parts


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, place


def _field(part: tuple[int, int, int | bytes]) -> bytes:
    from writers import varint

    number, wire_type, value = part
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | wire_type) + (varint(len(value)) if wire_type == 2 else b"") + value


def change_header(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Change the JSON at the start of a `.safetensors`, whose length stays right."""
    length = int.from_bytes(data[:8], "little")
    header = rng.choice(TEXT)(rng, data[8 : 8 + length], [data[8 : 8 + length]])
    return struct.pack("<Q", len(header)) + header + data[8 + length :]
