"""What the server asks its client: every request gets an answer, by policy, by a person, or a proper refusal.

Measured on 0.142.2 and 0.169.0: a question that is open is asked again of a client that attaches to the thread;
``decline`` lets the turn go on without, ``cancel`` interrupts it, and an error as answer fails the command.
"""

from __future__ import annotations

from holdfast.drivers.app_server.conversation import Conversation
from holdfast.drivers.app_server.payload import member

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.drivers.app_server.payload import Json

_COMMAND = "item/commandExecution/requestApproval"
_FILES = "item/fileChange/requestApproval"
_PERMISSIONS = "item/permissions/requestApproval"
_ELICITATION = "mcpServer/elicitation/request"

#: Requests that can be decided, and what they are about.
_KINDS = {_COMMAND: "command", _FILES: "file_change", _PERMISSIONS: "other", _ELICITATION: "mcp"}
#: Our words for decisions, and the protocol's for commands and files.
_DECISIONS = {"accept": "accept", "accept_for_session": "acceptForSession", "decline": "decline", "cancel": "cancel"}
#: The same for what a tool server asks.
_ACTIONS = {"accept": "accept", "accept_for_session": "accept", "decline": "decline", "cancel": "cancel"}


class Question:
    """One that waits for a decision."""

    def __init__(self, key: str, request_id: object, method: str, params: Json, by: str | None) -> None:
        self.key = key
        self.request_id = request_id
        self.method = method
        self.params = params
        self.by = by


class Questions:
    """Answers the server's requests as *policy* says: ``decline``, ``ask`` or ``accept``.

    :param say: writes a line of our own
    :param changes: the paths of a file change by item id, for a title
    """

    def __init__(self, policy: str, say: Callable[..., None], changes: dict[str, list[str]]) -> None:
        self._policy = policy
        self._say = say
        self._changes = changes
        self._open: dict[str, Question] = {}
        #: Decisions that were made when nobody had the question: it is asked again after a reconnect.
        self._decided: dict[str, str] = {}

    def asked(self, conversation: Conversation, message: Json, by: str | None = None) -> None:
        """Take a request of the server; *by* is the sub-agent whose it is.

        :raises Dropped: the connection was lost
        """
        method, params = str(message.get("method")), member(message, "params")
        if method not in _KINDS:
            conversation.refuse(message.get("id"), f"Holdfast does not answer {method}: nobody is there to.")
            self._say("refused", request=method)
            return
        key = str(params.get("approvalId") or params.get("itemId") or params.get("elicitationId") or message.get("id"))
        question = Question(key, message.get("id"), method, params, by)
        if key in self._decided:
            self._answer(conversation, question, self._decided[key])
        elif self._policy == "ask":
            known = key in self._open
            self._open[key] = question
            if not known:
                reason = params.get("reason") or (params.get("message") if method != _ELICITATION else None)
                self._say("asked", requestId=key, tool=_KINDS[method], title=self._title(question), reason=reason)
        else:
            self._answer(conversation, question, self._policy)
            self._say("decided", requestId=key, decision=self._policy, title=self._title(question))

    def decide(self, conversation: Conversation, key: str, decision: str) -> str | None:
        """Answer an open question; returns why not, if it cannot be done.

        :raises Dropped: the connection was lost; the decision stands, and is given when the question is asked again
        """
        if decision not in _DECISIONS:
            return f"{decision!r} is no decision; use one of {', '.join(_DECISIONS)}"
        question = self._open.pop(key, None)
        if question is None:
            return "no question of that id is open"
        self._decided[key] = decision
        self._say("resolved", requestId=key, decision=decision)
        self._answer(conversation, question, decision)
        return None

    def resolved(self, request_id: object) -> None:
        """The server says that a request of its own is settled, whoever settled it."""
        for key, question in list(self._open.items()):
            if question.request_id == request_id:
                del self._open[key]
                self._say("resolved", requestId=key, decision=None)

    def withdraw(self) -> None:
        """The turn is over: no question is open any more."""
        for key in self._open:
            self._say("resolved", requestId=key, decision=None)
        self._open.clear()

    def _answer(self, conversation: Conversation, question: Question, decision: str) -> None:
        params = question.params
        accepted = decision.startswith("accept")
        match question.method:
            case "item/permissions/requestApproval":
                granted = member(params, "permissions") if accepted else {}
                scope = "session" if decision == "accept_for_session" else "turn"
                result: Json = {"permissions": granted, "scope": scope}
            case "mcpServer/elicitation/request":
                result = {"action": _ACTIONS[decision], "content": {} if accepted else None}
            case _:
                result = {"decision": _DECISIONS[decision]}
        conversation.answer(question.request_id, result)

    def _title(self, question: Question) -> str:
        title = self._subject(question)
        return title if question.by is None else f"Subagent {question.by}: {title}"

    def _subject(self, question: Question) -> str:
        params = question.params
        match question.method:
            case "item/commandExecution/requestApproval":
                return str(params.get("command") or "a command")
            case "item/fileChange/requestApproval":
                paths = self._changes.get(str(params.get("itemId")), [])
                return ", ".join(paths) or str(params.get("grantRoot") or "changes to files")
            case "mcpServer/elicitation/request":
                return f"{params.get('serverName') or 'a tool server'}: {params.get('message') or 'asks for something'}"
            case _:
                return "more permissions"
