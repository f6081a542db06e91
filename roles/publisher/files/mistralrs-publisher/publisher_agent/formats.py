"""The outer shape of hostile files, read before another program parses them: OpenPGP armor and packets, RPM headers.

A file passes if it has the one shape that the signer writes. So gpgv decompresses nothing and rpm allocates no more
than an honest package needs. Functions take bytes and return values; ValueError states what is wrong.

Sources: RFC 9580, 4.2 (packets) and 6.2 (armor); rpm's docs/manual/format_v4.md.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from typing import BinaryIO

MAX_SIGNATURE = 16 << 10  # bytes of an armored signature; RSA 4096 needs 0.9 KB, ML-DSA-87 with Ed448 7 KB
SIGNATURE_PACKET = 2
# Headers such as "Comment: x", an empty line, base64, and a CRC-24, which RFC 9580 makes optional.
ARMOR = re.compile(
    rb"-----BEGIN PGP SIGNATURE-----\n(?:[A-Z][a-z]+: [^\n]*\n)*\n"
    rb"((?:[A-Za-z0-9+/]+={0,2}\n)+)(?:=[A-Za-z0-9+/]{4}\n)?-----END PGP SIGNATURE-----\n*"
)

LEAD, LEAD_MAGIC = 96, b"\xed\xab\xee\xdb"
HEADER_MAGIC = b"\x8e\xad\xe8\x01"
ENTRY = 16  # bytes of an entry in a header's index
# Entries, and bytes of data. An honest package has about 100 entries, and 1 MiB of data for 5,000 files.
MAX_SIGNATURES, MAX_HEADER = (64, 256 << 10), (1024, 16 << 20)


def signature_packet(armored: bytes) -> bytes:
    """The one signature packet of a detached signature; the armor holds it and nothing else."""
    armored = armored.replace(b"\r\n", b"\n")
    if len(armored) > MAX_SIGNATURE:
        raise ValueError(f"it has more than {MAX_SIGNATURE} bytes")
    if not (block := ARMOR.fullmatch(armored)):
        raise ValueError("it is not one armored signature")
    try:
        binary = base64.b64decode(block[1].replace(b"\n", b""), validate=True)
    except binascii.Error as error:
        raise ValueError("its armor is damaged") from error
    tag, end = packet(binary)
    if tag != SIGNATURE_PACKET or end != len(binary):
        raise ValueError("it is not one signature packet")
    return binary


def packet(data: bytes) -> tuple[int, int]:
    """The type of the packet that ``data`` begins with, and the offset of its end. No partial or open length."""
    try:
        first, length = data[0], data[1]
        if not first & 0x80:
            raise ValueError("it is no OpenPGP packet")
        if not first & 0x40:  # the old format: the length has 1, 2 or 4 bytes
            if (kind := first & 3) == 3:
                raise ValueError("a packet has no length")
            size = 1 << kind
            return first >> 2 & 15, 1 + size + int.from_bytes(data[1 : 1 + size])
        if length < 192:
            return first & 63, 2 + length
        if length < 224:
            return first & 63, 3 + (length - 192 << 8) + data[2] + 192
        if length < 255:
            raise ValueError("a packet has a partial length")
        return first & 63, 6 + int.from_bytes(data[2:6])
    except IndexError as error:
        raise ValueError("a packet is cut off") from error


def check_rpm(stream: BinaryIO, size: int) -> None:
    """Refuse what is not a lead, a header of signatures and a header within their limits, in a file of ``size``."""
    if stream.read(LEAD)[:4] != LEAD_MAGIC:
        raise ValueError("it is no RPM")
    at = LEAD
    for entries, most in (MAX_SIGNATURES, MAX_HEADER):
        at += -at % 8  # the header of signatures is padded
        stream.seek(at)
        intro = stream.read(ENTRY)
        if len(intro) < ENTRY or intro[:4] != HEADER_MAGIC:
            raise ValueError("it has no RPM header")
        count, held = struct.unpack(">II", intro[8:])
        at += ENTRY + count * ENTRY + held
        if count > entries or held > most or at > size:
            raise ValueError(f"an RPM header claims {count} entries and {held} bytes of data")
