"""Run the scripted model by hand.

Each argument is a step: ``say:TEXT``, ``shell:COMMAND``, ``write:PATH:TEXT``, ``fail:STATUS[:TIMES]``, ``drop[:TIMES]``
or ``hang``.  Every request is reported on standard output as one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from . import Drop, Fail, Hang, ModelServer, Say, Shell, WriteFile
from .script import Step


def step(word: str) -> Step:
    """The step that one argument describes."""
    verb, _, rest = word.partition(":")
    match verb:
        case "say":
            return Say(rest)
        case "shell":
            return Shell(rest)
        case "write":
            path, _, text = rest.partition(":")
            return WriteFile(path, text)
        case "fail":
            status, _, times = rest.partition(":")
            return Fail(int(status), times=int(times or 1))
        case "drop":
            return Drop(times=int(rest or 1))
        case "hang":
            return Hang()
        case _:
            raise argparse.ArgumentTypeError(f"{word!r} is no step")


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.model_server", description=__doc__)
    parser.add_argument("steps", nargs="*", type=step)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    with ModelServer(arguments.port) as server:
        server.script(*arguments.steps)
        print(f"Claude Code: ANTHROPIC_BASE_URL={server.url} ANTHROPIC_AUTH_TOKEN=none claude -p", file=sys.stderr)
        provider = f'{{name="scripted",base_url="{server.url}/v1",wire_api="responses",supports_websockets=false}}'
        print(f"Codex: codex exec -m gpt-5.5 -c model_provider=scripted -c 'model_providers.scripted={provider}'",
              file=sys.stderr)  # fmt: skip
        reported = 0
        try:
            while True:
                for request in server.journal[reported:]:
                    reported += 1
                    line = {"path": request.path, "step": repr(request.step), "user": request.user_texts[-1:]}
                    print(json.dumps(line), flush=True)
                time.sleep(0.2)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
