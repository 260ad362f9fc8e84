"""``holdfast resume``: go on with the thread of a task, with its agent and in its directory."""

from holdfast.cli.continuation import continuation

resume = continuation(
    "resume",
    help="""Go on with the thread of task ID: the same agent, the same directory, the new PROMPT.

    Everything else is as in 'holdfast run', the sandbox too: read-only unless --write is given again.
    """,
)
