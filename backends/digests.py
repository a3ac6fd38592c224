"""Digests: 64 hexadecimal digits that name an entry of the cache, or say whether its contents are whole."""

from __future__ import annotations

try:
    from _blake2 import blake2b  # the class behind hashlib.blake2b; to import hashlib loads OpenSSL, in 3 ms
except ImportError:
    from hashlib import blake2b

DIGEST_BYTES = 32


def digest(*parts: bytes) -> bytes:
    """The digest of some bytes, one part after the other (BLAKE2b, 256 bits)."""
    found = blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        found.update(part)
    return found.digest()
