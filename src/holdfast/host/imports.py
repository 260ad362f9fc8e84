"""Importing libraries without what they can do without: a third of the memory of a server that has nothing to do.

asyncio takes TLS and hashlib takes faster digests from OpenSSL if they can be imported, and do without if they cannot;
so does msgspec with ``typing_extensions``, whose part that it uses is in :mod:`typing`.  So they are imported here,
before anybody else does it, at a moment when those cannot be.  Whoever asks for :mod:`ssl` later gets it.

Of websockets one function in C is used, in a module that needs nothing; the package around it would bring along what
reads the metadata of distributions, that is e-mail, CSV, archives and their compression.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec

#: What hashlib has of its own; a distribution may have taken it out.
_DIGESTS = ("_md5", "_sha1", "_sha3", "_blake2", "_sha2" if sys.version_info >= (3, 12) else "_sha256")


def import_leanly() -> None:
    """Import asyncio, hashlib, hmac, msgspec and the C part of websockets, as far as that is still to be done."""
    _import_without("ssl", "asyncio")
    _import_without("typing_extensions", "msgspec")
    if all(name in sys.builtin_module_names or find_spec(name) is not None for name in _DIGESTS):
        _import_without("_hashlib", "hashlib", "hmac")
    _import_alone("websockets", "speedups")


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


def _import_alone(package: str, name: str) -> None:
    """Import a module of a package that needs nothing of it, without the package; who imports it later gets this one.

    If it is not where it is looked for, it is imported like any other by whoever needs it.
    """
    full = f"{package}.{name}"
    around = PathFinder.find_spec(package)
    if full in sys.modules or around is None:
        return
    spec = PathFinder.find_spec(full, around.submodule_search_locations)
    if spec is not None and spec.loader is not None:
        module = sys.modules[full] = module_from_spec(spec)
        spec.loader.exec_module(module)
