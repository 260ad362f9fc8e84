"""A model API that follows a script: it lets real agents be driven, and made to fail, without network or account.

It speaks the OpenAI Responses API and the Anthropic Messages API, streamed and not, on 127.0.0.1, with the standard
library alone.  A test writes the script step by step and reads in the journal what the agent sent::

    with ModelServer() as server:
        server.script(Shell("ls"), Say("Two files."))
        ...run an agent against server.url...
        assert server.journal[0].user_texts[-1] == prompt

By hand: ``python -m tests.model_server --help``.
"""

from .script import Decide, Drop, Echo, EditFile, Fail, Gate, Hang, Say, Shell, Together, Tool, WriteFile
from .server import ModelServer, Request

__all__ = [
    "Decide",
    "Drop",
    "Echo",
    "EditFile",
    "Fail",
    "Gate",
    "Hang",
    "ModelServer",
    "Request",
    "Say",
    "Shell",
    "Together",
    "Tool",
    "WriteFile",
]
