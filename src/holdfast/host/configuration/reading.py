"""Looking at files of the machine: regular ones only, of bounded size, and of a project only below the host's root."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Final

from holdfast.host.configuration.toml import InvalidToml, Table, parse
from holdfast.host.files.place import locate
from holdfast.host.files.reading import open_regular
from holdfast.host.files.refusal import reason_of, refused
from holdfast.host.files.scope import Scope
from holdfast.jsonrpc.messages import INTERNAL_ERROR, RpcError

#: Bytes of the largest configuration file that is read: the worst of that size takes 50 MB and two seconds to parse.
CONFIGURATION_LIMIT: Final = 512 * 1024


def cannot_load(reason: str) -> RpcError:
    """There is a configuration that cannot be told to the client."""
    return RpcError(INTERNAL_ERROR, f"failed to load executor-local config: {reason}")


@dataclass(frozen=True, slots=True)
class Files:
    """What may be looked at."""

    scope: Scope

    def status(self, path: str) -> os.stat_result | None:
        """Status of the file that *path* leads to; None if there is none, or it may not be looked at."""
        try:
            with locate(path, self.scope) as place:
                return place.status()
        except (OSError, RpcError):
            return None

    def is_directory(self, path: str) -> bool:
        """Whether it leads to a directory."""
        status = self.status(path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def read(self, path: str, limit: int) -> bytes | None:
        """The content of a regular file; None if there is no file.

        :raises OSError: it cannot be read
        :raises RpcError: it is something else, larger than *limit* bytes, or outside of the scope
        """
        try:
            with locate(path, self.scope) as place:
                descriptor = open_regular(place)
        except FileNotFoundError:
            return None
        with open(descriptor, "rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise refused(f"it is larger than {limit} bytes")
        return content

    def table(self, path: str, kind: str = "config file") -> Table | None:
        """The table in a TOML file; None if there is no file.

        :raises RpcError: it cannot be read, or is no TOML
        """
        try:
            content = self.read(path, CONFIGURATION_LIMIT)
        except (OSError, RpcError) as error:
            raise cannot_load(f"Failed to read {kind} {path}: {reason_of(error)}") from None
        if content is None:
            return None
        try:
            return parse(content)
        except InvalidToml as error:
            raise cannot_load(f"{path}:{error.message}") from None
