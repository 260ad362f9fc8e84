"""The agents that the agent of our turn has set to work: other threads of the same server.

Measured on 0.142.2 and 0.169.0: every client of a server hears of the threads of *every* sub-agent, whoever's it is,
their questions included, and is not told when one is made.  Which are ours is said by the tool calls of our thread
(``receiverThreadIds``, ``agentThreadId``) and by ``rootTurnId`` (0.169 only); from another connection, by
``parentThreadId``.  Neither the end of our turn nor its interruption ends them.
"""

from __future__ import annotations

import json
import time

from holdfast.drivers.app_server.connection import left
from holdfast.drivers.app_server.conversation import Conversation, RpcError
from holdfast.drivers.app_server.interruption import at_work, interrupt_subagents
from holdfast.drivers.app_server.payload import member, text, texts
from holdfast.drivers.app_server.report import LONGEST, say, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.drivers.app_server.payload import Json

#: Most sub-agents that are told of; those beyond work and are ended like the others.
_MOST = 256
#: What is kept of messages until it is known whose they are: for how many threads, how many of each, bytes in all.
_MOST_STRANGERS = 16
_MOST_KEPT = 64
_MOST_KEPT_BYTES = 1024 * 1024
#: How long the names of those that are not named yet are waited for when the turn is over, seconds.
_NAMES_WITHIN = 1.0
#: How often its name is asked for.
_MOST_ASKED = 20
#: Items that are remembered so that nothing is said twice.
_MOST_DONE = 4096
#: Tools that set an agent to work; until such a call has ended, nobody may know yet whose a new thread is.
_SPAWNING = frozenset({"spawnAgent", "resumeAgent"})
#: Tools, and activities, that set none to work.
_LOOKING = frozenset({"wait", "closeAgent", "interruptAgent", "listAgents", "completed", "interrupted"})
#: Items that say nothing about what was done or answered.
_QUIET = frozenset({"userMessage", "hookPrompt", "plan", "functionCallOutput", "sleep", "contextCompaction"})


class _SubAgent:
    """One of ours."""

    def __init__(self, thread_id: str, path: str | None) -> None:
        self.thread_id = thread_id
        self.path = path
        #: What people call it; ``None`` until the server was asked.
        self.label: str | None = None
        self.asking = False
        self.asked = 0
        #: By which it was started.
        self.tool = "spawnAgent"
        #: What it said until it had a label.
        self.kept: list[tuple[Json, bytes]] = []
        #: Whether it may be at work: from when it was told to, until it says that its turn is over.
        self.busy = True
        self.open: set[str] = set()
        self.done: set[str] = set()

    def forget_open(self) -> None:
        """Say that what is open will not be heard to end."""
        for item_id in self.open:
            say("forgotten", itemId=item_id)
        self.open.clear()


class SubAgents:
    """Those of one turn: what they do is told, marked as theirs, and they end with it.

    :param ask: takes a question of one of them, and its label
    :param used: takes what a thread has used
    """

    def __init__(self, ask: Callable[[Json, str], None], used: Callable[[str, Json], None]) -> None:
        self._ask = ask
        self._used = used
        self._ours: dict[str, _SubAgent] = {}
        #: There are more.
        self._untold = False
        #: Calls of ours that are just setting an agent to work.
        self._spawning: set[str] = set()
        #: Threads whose making the server told of, as some versions do, with the names that they have from then on.
        self._introduced: dict[str, Json] = {}
        #: What threads said that may turn out to be ours.
        self._strangers: dict[str, list[tuple[Json, bytes]]] = {}
        #: How much of what was said waits until it is known whose it is, and what they are called.
        self.kept_bytes = 0

    def hear(self, conversation: Conversation, message: Json, raw: bytes, turns: set[str]) -> None:
        """A message about another thread than ours; *turns* are ours.  What concerns somebody else is left alone."""
        params = member(message, "params")
        thread_id = str(text(params, "threadId"))
        agent = self._ours.get(thread_id)
        if agent is None and message.get("method") == "turn/started":
            root = text(member(params, "turn"), "rootTurnId")
            if root in turns:
                agent = self._adopt(conversation, thread_id, "spawnAgent")
            elif root is not None:
                return
        if agent is not None:
            self._take(conversation, agent, message, raw)
        elif self._spawning and (thread_id in self._strangers or len(self._strangers) < _MOST_STRANGERS):
            self._keep(self._strangers.setdefault(thread_id, []), message, raw)

    def introduce(self, thread: Json) -> None:
        """A thread was made, by whomever; should it be one of ours, its name need not be asked for."""
        thread_id = text(thread, "id")
        if thread_id is not None:
            self._introduced[thread_id] = {key: thread.get(key) for key in ("agentNickname", "agentRole", "name")}
            while len(self._introduced) > _MOST_STRANGERS:
                del self._introduced[next(iter(self._introduced))]

    def note(self, conversation: Conversation, method: object, item: Json) -> None:
        """An item of our thread, or of one of ours: it may say who was set to work."""
        match item.get("type"):
            case "collabAgentToolCall":
                item_id, tool = str(item.get("id")), str(item.get("tool"))
                if method == "item/started" and tool in _SPAWNING:
                    self._spawning.add(item_id)
                for thread_id in texts(item, "receiverThreadIds"):
                    self._adopt(conversation, thread_id, tool)
                if method == "item/completed":
                    self._spawning.discard(item_id)
                    if not self._spawning:
                        self._strangers.clear()
                        self._recount()
            case "subAgentActivity" if (thread_id := text(item, "agentThreadId")) is not None:
                tool = "spawnAgent" if item.get("kind") == "started" else str(item.get("kind"))
                self._adopt(conversation, thread_id, tool, text(item, "agentPath"))
            case _:
                pass

    def attach(self, conversation: Conversation, root: str) -> None:
        """Hear of those that are at work for the thread *root* on a connection that is younger than they are.

        :raises Dropped: the connection was lost
        """
        self.forget()
        for thread in at_work(conversation, root):
            thread_id = str(thread.get("id"))
            agent = self._ours.setdefault(thread_id, _SubAgent(thread_id, None))
            agent.label = agent.label or _label(thread, agent)
            agent.busy = True
            try:
                conversation.request("thread/resume", {"threadId": thread_id, "excludeTurns": True})
            except RpcError as error:
                say("notice", text=f"The sub-agent {agent.label} cannot be listened to: {error.message}")

    def end(self, conversation: Conversation, root: str, deadline: float, *, look: bool) -> list[str] | None:
        """See to it that none of ours is at work any more; the labels of those that had to be interrupted.

        :param look: ask the server, whatever was heard
        :returns: ``None`` if some were still at work at *deadline* (on the monotonic clock)
        :raises Dropped: the connection was lost
        """
        self._settle_names(conversation, min(deadline, time.monotonic() + _NAMES_WITHIN))
        if not look and not self._untold and not any(agent.busy for agent in self._ours.values()):
            return []
        found: dict[str, str] = {}

        def name(thread: Json) -> None:
            thread_id = str(thread.get("id"))
            agent = self._ours.get(thread_id) or _SubAgent(thread_id, None)
            found[thread_id] = agent.label or _label(thread, agent)

        ended = interrupt_subagents(conversation, root, deadline, name)
        return list(found.values()) if ended else None

    def forget(self) -> None:
        """What is open now will not be heard to end."""
        for agent in self._ours.values():
            if agent.label is None:
                agent.label = _label({}, agent)
                agent.kept.clear()
            agent.forget_open()
        self._strangers.clear()
        self._spawning.clear()
        self._recount()

    # --- whose is it?

    def _adopt(
        self, conversation: Conversation, thread_id: str, tool: str, path: str | None = None
    ) -> _SubAgent | None:
        known = self._ours.get(thread_id)
        if known is not None:
            known.busy = known.busy or tool not in _LOOKING
            return known
        if len(self._ours) >= _MOST:
            self._untold = True
            return None
        agent = self._ours[thread_id] = _SubAgent(thread_id, path)
        agent.kept = self._strangers.pop(thread_id, [])
        agent.tool = tool
        introduced = self._introduced.pop(thread_id, {})
        if any(introduced.values()):
            self._name(conversation, agent, introduced)
        else:
            self._ask_name(conversation, agent)
        return agent

    def _ask_name(self, conversation: Conversation, agent: _SubAgent) -> None:
        if agent.asked >= _MOST_ASKED:
            return self._name(conversation, agent, {})

        def answered(answer: Json) -> None:
            agent.asking = False
            # Just after its start there may be nothing to read yet; then it is asked for again.
            if agent.label is None and "result" in answer:
                self._name(conversation, agent, member(member(answer, "result"), "thread"))

        agent.asked, agent.asking = agent.asked + 1, True
        # Not waited for: we are in the middle of hearing something.
        return conversation.ask("thread/read", {"threadId": agent.thread_id}, answered)

    def _settle_names(self, conversation: Conversation, deadline: float) -> None:
        """Tell of those that are not named yet: by *deadline*, under whatever name there is then."""
        while any(agent.asking and agent.label is None for agent in self._ours.values()) and left(deadline) > 0.0:
            conversation.wait(left(deadline))
        for agent in list(self._ours.values()):
            if agent.label is None:
                self._name(conversation, agent, {})

    def _name(self, conversation: Conversation, agent: _SubAgent, thread: Json) -> None:
        """Tell of *agent* under its name, and of everything that it said meanwhile."""
        agent.label = _label(thread, agent)
        say("subagent", threadId=agent.thread_id, label=agent.label, tool=agent.tool)
        kept, agent.kept = agent.kept, []
        self._recount()
        for message, raw in kept:
            self._take(conversation, agent, message, raw)

    def _keep(self, kept: list[tuple[Json, bytes]], message: Json, raw: bytes) -> None:
        """Remember it for later; a question is never lost, as the server waits for the answer."""
        room = len(kept) < _MOST_KEPT and self.kept_bytes + len(raw) <= _MOST_KEPT_BYTES
        if room or "id" in message or message.get("method") in ("turn/started", "turn/completed"):
            kept.append((message, raw))
            self.kept_bytes += len(raw)

    def _recount(self) -> None:
        kept = [*self._strangers.values(), *(agent.kept for agent in self._ours.values())]
        self.kept_bytes = sum(len(raw) for messages in kept for _, raw in messages)

    # --- what does it do?

    def _take(self, conversation: Conversation, agent: _SubAgent, message: Json, raw: bytes) -> None:
        method, params = message.get("method"), member(message, "params")
        if method in ("turn/started", "turn/completed", "thread/closed"):
            agent.busy = method == "turn/started"
        if method == "thread/tokenUsage/updated":
            self._used(agent.thread_id, member(params, "tokenUsage"))
        elif agent.label is None:
            self._keep(agent.kept, message, raw)
            if not agent.asking:
                self._ask_name(conversation, agent)
        elif "id" in message:
            self._ask(message, agent.label)
        elif method in ("item/started", "item/completed"):
            item = member(params, "item")
            self.note(conversation, method, item)
            if item.get("type") not in _QUIET and self._is_news(agent, str(method), item):
                self._write(agent, message, raw)
        elif method == "turn/completed":
            agent.forget_open()
            self._write(agent, message, raw)

    def _is_news(self, agent: _SubAgent, method: str, item: Json) -> bool:
        item_id = str(item.get("id"))
        if item_id in agent.done or (method == "item/started" and item_id in agent.open):
            return False
        if method == "item/completed":
            if len(agent.done) >= _MOST_DONE:
                agent.done.clear()
            agent.done.add(item_id)
            agent.open.discard(item_id)
            return True
        if item.get("type") in ("agentMessage", "reasoning"):
            return False
        agent.open.add(item_id)
        return True

    def _write(self, agent: _SubAgent, message: Json, raw: bytes) -> None:
        if len(raw) <= LONGEST:
            write(json.dumps({**message, "holdfast": "subagent", "label": agent.label}).encode("ascii"))


def _label(thread: Json, agent: _SubAgent) -> str:
    """What people call it: the name that the server gave it, its role, the end of its path, or its thread."""
    path = (agent.path or "").rpartition("/")[2]
    names = (text(thread, "agentNickname"), text(thread, "agentRole"), text(thread, "name"), path)
    return next((name for name in names if name), agent.thread_id)
