"""Mutations that know the formats: parts are moved, doubled and damaged, and lengths and checksums made right again."""

import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

INTERESTING = (0, 1, 2, 3, 6, 8, 12, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 2**31 - 1, 2**31, 2**32 - 1)
# Types and values that a description does not expect; the names are networks that would take gigabytes.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 99, 4096, 4097, 2**31, 2**63, 10**400, 0.5, 1e308, -1e308, 1e-320,
    float("nan"), float("inf"), -float("inf"), "", "x", "views", "crop", "mlp", "baseline", "test_vit", "\udcff",
    "a\nb", "\u202e", "x" * 5000, [], {}, [[]], [1, 2], {"a": 1}, [0], [True], ["1"],
    "vit_giant_patch14_reg4_dinov2", "vit_7b_patch16_dinov3", "convnext-base",
)  # fmt: skip
Flat = Callable[[bytes], bytes]
"""Damages bytes that have no structure."""
Part = tuple[bytes, bytes]
"""A part of a file: what it is, and its content."""


def flat(rng: random.Random, data: bytes) -> bytes:
    """Bytes with a few of them changed, taken away, doubled or put in."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at, how = rng.randrange(len(changed) + 1), rng.randrange(6)
        if how == 0:
            del changed[at : at + rng.choice((1, 2, 4, 16, 256))]
        elif how == 1:
            changed[at:at] = rng.randbytes(rng.choice((1, 2, 4, 8)))
        elif how == 2:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif how == 3:
            number, width = rng.choice(INTERESTING), rng.choice((1, 2, 4, 8))
            order = rng.choice(("little", "big"))
            changed[at : at + width] = (number & (256**width - 1)).to_bytes(width, order)
        elif how == 4 and changed:
            at = rng.randrange(len(changed))
            changed[at] ^= 1 << rng.randrange(8)
        else:
            end = at + rng.choice((1, 4, 12, 64))
            changed[at:at] = changed[at:end] * rng.choice((1, 1, 2, 50))
    return bytes(changed)


def mutate_file(rng: random.Random, data: bytes, others: Sequence[bytes], damage: Flat) -> bytes:
    """An image file with its parts mutated, some of them taken from `others`; `damage` is for what has no structure."""
    for starts, split, join in _FORMATS:
        if data.startswith(starts) and (parts := split(data)):
            foreign = [
                part
                for other in rng.sample(others, min(3, len(others)))
                if other.startswith(starts)
                for part in split(other)
            ]
            return join(rng, _mutate_parts(rng, parts, foreign, damage))
    if data[:2] in (b"II", b"MM"):
        return _mutate_tiff(rng, data)
    return damage(data)


def _mutate_parts(rng: random.Random, parts: list[Part], foreign: list[Part], damage: Flat) -> list[Part]:
    parts = list(parts)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, how = rng.randrange(len(parts) or 1), rng.randrange(8)
        if not parts or (how == 0 and foreign):
            parts[at:at] = rng.sample(foreign, min(1, len(foreign)))
        elif how == 1:
            del parts[at]
        elif how == 2:
            parts[at:at] = [parts[rng.randrange(len(parts))]] * rng.choice((1, 1, 2, 20))
        elif how == 3:
            other = rng.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        elif how == 4:
            kind, body = parts[at]
            parts[at] = (kind, body[: rng.randrange(len(body) + 1)])
        else:
            kind, body = parts[at]
            tiff = max(body.find(b"II*\0", 0, 12), body.find(b"MM\0*", 0, 12))
            if tiff >= 0 and rng.random() < 0.7:
                parts[at] = (kind, body[:tiff] + _mutate_tiff(rng, body[tiff:]))
            else:
                parts[at] = (kind, damage(body))
    return parts


def _split_png(data: bytes) -> list[Part]:
    parts, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        parts.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return parts


def _join_png(rng: random.Random, parts: list[Part]) -> bytes:
    pieces = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in parts:
        length = rng.choice(INTERESTING) if rng.random() < 0.02 else len(body)
        checksum = 0 if rng.random() < 0.02 else zlib.crc32(kind + body)
        pieces.append(struct.pack(">L", length) + kind + body + struct.pack(">L", checksum))
    return b"".join(pieces)


def _split_jpeg(data: bytes) -> list[Part]:
    parts, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1 : at + 2], int.from_bytes(data[at + 2 : at + 4], "big")
        end = len(data) if marker == b"\xda" else at + 2 + max(2, length)
        parts.append((marker, data[at + 4 : end]))
        at = end
    return parts


def _join_jpeg(rng: random.Random, parts: list[Part]) -> bytes:
    pieces = [b"\xff\xd8"]
    for marker, body in parts:
        length = len(body) + 2
        if marker == b"\xda":  # its head says how many planes it has
            length = 6 + 2 * body[0] if body else 2
        if rng.random() < 0.02:
            length = rng.choice(INTERESTING)
        pieces.append(b"\xff" + marker + struct.pack(">H", length & 0xFFFF) + body)
    return b"".join(pieces)


def _split_webp(data: bytes) -> list[Part]:
    parts, at = [], 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        parts.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return parts


def _join_webp(rng: random.Random, parts: list[Part]) -> bytes:
    pieces = []
    for kind, body in parts:
        length = rng.choice(INTERESTING) if rng.random() < 0.02 else len(body)
        pieces.append(kind + struct.pack("<L", length) + body + b"\0" * (len(body) % 2))
    body = b"WEBP" + b"".join(pieces)
    length = rng.choice(INTERESTING) if rng.random() < 0.02 else len(body)
    return b"RIFF" + struct.pack("<L", length) + body


_FORMATS: tuple[tuple[bytes, Callable[[bytes], list[Part]], Callable[[random.Random, list[Part]], bytes]], ...] = (
    (b"\x89PNG\r\n\x1a\n", _split_png, _join_png),
    (b"\xff\xd8", _split_jpeg, _join_jpeg),
    (b"RIFF", _split_webp, _join_webp),
)


def _mutate_tiff(rng: random.Random, data: bytes) -> bytes:
    """A TIFF structure with fields of its directories' entries changed: tag, type, count, value."""
    changed, order = bytearray(data), "<" if data[:1] == b"I" else ">"
    at = int.from_bytes(data[4:8], "little" if order == "<" else "big")
    if at + 2 > len(data):
        return flat(rng, data)
    (count,) = struct.unpack_from(order + "H", data, at)
    for _ in range(rng.choice((1, 1, 2, 4))):
        start = at + 2 + 12 * rng.randrange(min(count, 40) or 1)
        if start + 12 > len(changed):
            return flat(rng, data)
        how, number = rng.randrange(6), rng.choice((*INTERESTING, len(data), at, start, rng.randrange(2**16)))
        if how == 0:  # a tag that is read
            tag = rng.choice(
                (256, 257, 258, 259, 262, 273, 277, 278, 279, 322, 324, 330, 338, 339, 700, 34665, 33723, 274)
            )
            struct.pack_into(order + "H", changed, start, tag)
        elif how == 1:
            struct.pack_into(order + "H", changed, start + 2, rng.randrange(20))
        elif how == 2:
            struct.pack_into(order + "L", changed, start + 4, number)
        elif how == 3:
            struct.pack_into(order + "L", changed, start + 8, number)
        elif how == 4:
            struct.pack_into(order + "H", changed, at, rng.choice((0, 1, count + 1 & 0xFFFF, 0xFFFF)))
        else:
            end = at + 2 + 12 * count
            if end + 4 <= len(changed):
                struct.pack_into(order + "L", changed, end, number)
    return bytes(changed)


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON text with some of its values, at any depth, replaced, taken away, added or put elsewhere."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return flat(rng, data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        document = _mutate_value(rng, document)
    try:
        text = json.dumps(document)
    except (ValueError, RecursionError):  # an integer with too many digits for text
        return flat(rng, data)
    return text.encode() if rng.random() < 0.95 else flat(rng, text.encode())


def _mutate_value(rng: random.Random, value: Any) -> Any:
    inner = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    if not inner or rng.random() < 0.1:
        return _other_value(rng, value)
    key, part = rng.choice(inner)
    how = rng.randrange(10)
    if how == 0:
        del value[key]
    elif how == 1 and isinstance(value, dict):
        value[rng.choice((key + "x", "format_version", "tiers", "blocks"))] = part
    elif how == 2:
        value[key] = rng.choice(inner)[1]
    elif how == 3:
        nested: Any = part
        for _ in range(rng.choice((1, 2, 2000))):
            nested = [nested]
        value[key] = nested if rng.random() < 0.3 else [part]
    else:
        value[key] = _mutate_value(rng, part)
    return value


def _other_value(rng: random.Random, value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.4:
        return rng.choice((-value, value + 1, value * 1000, value // 3, str(value)[:4000]))
    return rng.choice(VALUES)


def mutate_safetensors(rng: random.Random, data: bytes, damage: Flat) -> bytes:
    """A safetensors file with its header's JSON mutated, the description in it, or the tensors; lengths made right."""
    size = int.from_bytes(data[:8], "little")
    head, body = data[8 : 8 + size], data[8 + size :]
    how = rng.randrange(10)
    if how < 5:  # the description, which is JSON within JSON
        try:
            header = json.loads(head)
            document = header["__metadata__"]["mai"]
            header["__metadata__"]["mai"] = mutate_json(rng, document.encode()).decode("utf-8", "replace")
            head = json.dumps(header).encode()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            head = flat(rng, head)
    elif how < 8:
        head = mutate_json(rng, head)
    elif how == 8:
        values = bytearray(body)
        for _ in range(rng.choice((1, 4))):
            if len(values) >= 4:
                number = rng.choice((1e38, -3e38, float("nan"), float("inf"), 1e-45, 0.0))
                struct.pack_into("<f", values, rng.randrange(len(values) // 4) * 4, number)
        body = bytes(values)
    else:
        return damage(data)
    length = rng.choice((*INTERESTING, 2**63, len(data))) if rng.random() < 0.03 else len(head)
    return struct.pack("<Q", length) + head + body
