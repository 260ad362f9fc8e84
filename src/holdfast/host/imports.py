"""Importing libraries without what they can do without: a third of the memory of a server that has nothing to do.

asyncio takes TLS and hashlib takes faster digests from OpenSSL if they can be imported, and do without if they cannot;
so does msgspec with ``typing_extensions``, whose part that it uses is in :mod:`typing`.  So they are imported here,
before anybody else does it, at a moment when those cannot be.  Whoever asks for :mod:`ssl` later gets it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

#: What hashlib has of its own; a distribution may have taken it out.
_DIGESTS = ("_md5", "_sha1", "_sha3", "_blake2", "_sha2" if sys.version_info >= (3, 12) else "_sha256")


def import_leanly() -> None:
    """Import asyncio, hashlib, hmac and msgspec, as far as that is still to be done."""
    _import_without("ssl", "asyncio")
    _import_without("typing_extensions", "msgspec")
    if all(name in sys.builtin_module_names or find_spec(name) is not None for name in _DIGESTS):
        _import_without("_hashlib", "hashlib", "hmac")


def _import_without(absent: str, *wanted: str) -> None:
    if absent in sys.modules:
        return
    # As the documentation of sys.modules has it, None there makes an import fail.
    sys.modules[absent] = None  # pyright: ignore[reportArgumentType]
    try:
        for name in wanted:
            import_module(name)
    finally:
        del sys.modules[absent]
