"""Carrying out ``fs/*`` requests of one connection: in threads, and in an order that a client can rely on.

A file system may be slow or hang, so the event loop never touches one, and a connection whose threads all hang waits
for them alone.  Requests that only look run side by side; one that changes something waits for all that came before it,
and all that come after it wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable
from functools import cache
from typing import TYPE_CHECKING, Final, TypeVar

from holdfast.host.files.handles import Handles
from holdfast.host.files.parameters import FileParameters
from holdfast.host.files.place import ForeignPath
from holdfast.host.files.refusal import from_os_error, refused
from holdfast.host.files.scope import Scope
from holdfast.host.files.watch import MissingWatch
from holdfast.host.threads import Threads

if TYPE_CHECKING:
    from holdfast.host.dispatch import ClientConnection

#: Requests of one connection that are in the hands of the operating system at the same time, and of all of them.  The
#: threads are made when they are needed; those of a connection that is gone may hang on.
_THREADS: Final = 8
_ALL_THREADS: Final = 512
#: Answers above this many bytes are made one at a time, so that a few large files cannot fill the memory.
LARGE: Final = 8 * 1024 * 1024
#: Seconds after which a large answer is made although another one is still being made: that one may never be.
_LARGE_PATIENCE: Final = 10.0

_P = TypeVar("_P")
_T = TypeVar("_T")


@cache
def _threads() -> Threads:
    return Threads(_ALL_THREADS, "files")


@cache
def _large_turn() -> asyncio.Lock:
    return asyncio.Lock()


@contextlib.asynccontextmanager
async def large_turn() -> AsyncGenerator[None]:
    """Have one's turn to make a large answer and hand it to the connection, or make it all the same after a while."""
    turn = _large_turn()
    try:
        async with asyncio.timeout(_LARGE_PATIENCE):
            await turn.acquire()
    except TimeoutError:
        yield
        return
    try:
        yield
    finally:
        turn.release()


class Order:
    """Lets readers in together and writers alone, strictly in the order of arrival."""

    def __init__(self) -> None:
        self._readers = 0
        self._writing = False
        self._queue: deque[tuple[bool, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def turn(self, *, alone: bool) -> AsyncGenerator[None]:
        """Wait for one's turn and have it."""
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((alone, ticket))
        self._admit()
        try:
            await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled():
                self._leave(alone)
            else:
                self._queue.remove((alone, ticket))
                self._admit()
            raise
        try:
            yield
        finally:
            self._leave(alone)

    def _leave(self, alone: bool) -> None:
        if alone:
            self._writing = False
        else:
            self._readers -= 1
        self._admit()

    def _admit(self) -> None:
        while self._queue and not self._writing:
            alone, ticket = self._queue[0]
            if alone and self._readers:
                return
            self._queue.popleft()
            if alone:
                self._writing = True
            else:
                self._readers += 1
            ticket.set_result(None)


class FileService:
    """What one connection has of files: its order, its handles, its watch."""

    def __init__(self, client: ClientConnection) -> None:
        rules = () if client.root is None else Scope.below(client.root).rules
        self._scope = Scope(rules, client.host.runs_sandboxes)
        self.order = Order()
        self._free = asyncio.Semaphore(_THREADS)
        self.handles = Handles()
        self.watch = MissingWatch(client.connection.send)

    def scope(self, params: object) -> Scope:
        """What a request may touch; to be asked in a thread, for a sandbox is looked up in the file system.

        :raises RpcError: its sandbox cannot be honoured
        """
        if not isinstance(params, FileParameters) or params.sandbox is None:
            return self._scope
        from holdfast.host.sandbox.policy import policy_of

        policy = policy_of(params.sandbox)
        return self._scope if policy is None else self._scope.narrowed(policy)

    async def run(self, operation: Callable[[Scope, _P], _T], params: _P, *, alone: bool) -> _T:
        """Carry out an operation when its turn has come.

        :raises RpcError: what the client is told
        """
        async with self.order.turn(alone=alone):
            return await self.carry_out(operation, params)

    async def carry_out(self, operation: Callable[[Scope, _P], _T], params: _P) -> _T:
        """Carry out an operation now, for somebody whose turn it is.

        :raises RpcError: what the client is told
        """
        return await self.in_thread(self._carry_out, operation, params)

    async def in_thread(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Call a function that may touch any file, in a thread.

        The thread is not interrupted when the caller is cancelled: a change that has begun is completed.
        """
        async with self._free:
            return await asyncio.get_running_loop().run_in_executor(_threads(), function, *arguments)

    def _carry_out(self, operation: Callable[[Scope, _P], _T], params: _P) -> _T:
        try:
            return operation(self.scope(params), params)
        except ForeignPath as error:
            # To a file operation it is a file that cannot be had, not a parameter that cannot be read.
            raise refused(error.message) from None
        except OSError as error:
            raise from_os_error(error) from None

    def close(self) -> None:
        """Let go of handles and watch; what is being carried out is finished."""
        self.watch.close()
        # A handle may be in use by a thread that takes its time.
        _threads().submit(self.handles.close)
