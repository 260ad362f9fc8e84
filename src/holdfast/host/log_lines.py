"""What a service says on standard error: lines for people, or one JSON object a line for programs."""

from __future__ import annotations

import logging
from typing import Final

FORMATS: Final = ("text", "json")
_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonLines(logging.Formatter):
    """``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, ``pid``, and ``exception`` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message contains."""
        import json

        from holdfast.clock import isoformat

        line: dict[str, object] = {
            "time": isoformat(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def configure(*, level: int, log_format: str) -> None:
    """Send records from *level* on to standard error in *log_format*, one of :data:`FORMATS`."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if log_format == "json" else logging.Formatter(_TEXT))
    logging.basicConfig(level=level, handlers=[handler])
