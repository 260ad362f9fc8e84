"""``holdfast fork``: begin with a copy of the thread of a task, with its agent and in its directory."""

from holdfast.cli.continuation import continuation

fork = continuation(
    "fork",
    help="""Begin with a copy of the thread of task ID, which stays as it is; same agent, same directory, new PROMPT.

    Everything else is as in 'holdfast run', the sandbox too: read-only unless --write is given again.
    """,
)
