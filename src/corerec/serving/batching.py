"""Batch requests that wait at the same time: a bounded queue before one worker thread.

ask() ask() ask() ...  ->  queue  ->  batch  ->  handle(batch), in the thread  ->  each its own answer
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Question = TypeVar("Question")
Reply = TypeVar("Reply")


class QueueFullError(Exception):
    """The queue is full, so the request is refused and nothing is done."""


class TooLateError(Exception):
    """The request waited past its deadline, so it was dropped before it was handled."""


class ClientLeftError(Exception):
    """The client has left, so its request was dropped before it was handled."""


@dataclass(frozen=True)
class _Waiting(Generic[Question, Reply]):
    question: Question
    reply: asyncio.Future[Reply]
    price: int
    deadline: float
    """The deadline, in seconds of the event loop's clock."""
    has_left: Callable[[], Awaitable[bool]] | None


class Batcher(Generic[Question, Reply]):
    """Collects questions on the event loop and passes them to `handle` in the executor's thread, a batch at a time.
    While one batch is handled, questions of the next batch arrive. So batches grow with the load. On an idle server, a
    question waits for at most `window_s`. Call all methods on the event loop that runs `run`.
    """

    def __init__(
        self,
        handle: Callable[[list[Question]], Sequence[Reply | Exception]],
        executor: Executor,
        *,
        batch_size: int,
        queue_size: int,
        window_s: float,
        deadline_s: float,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Set up an empty queue.

        Args:
            handle: takes a batch of questions and returns their replies in order. The reply to a failed question is an
                exception.
            executor: an executor of one thread. Several batchers may share it and then take turns.
            batch_size, queue_size: limits of a batch and of the queue, as sums of prices: one question may cost as much
                as ten others.
            window_s: how long a batch that is not full waits for more questions.
            deadline_s: how long a question may wait before it is dropped.
            on_batch: is called with the size of each batch.
        """
        self._handle, self._executor, self._on_batch = handle, executor, on_batch
        self._batch_size, self._queue_size = batch_size, queue_size
        self._window_s, self._deadline_s = window_s, deadline_s
        self._queue: deque[_Waiting[Question, Reply]] = deque()
        self._waiting_price = 0
        self._arrived = asyncio.Event()
        self._closing = False

    @property
    def depth(self) -> int:
        """The number of questions that wait in the queue."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        return self._waiting_price >= self._queue_size

    async def ask(
        self, question: Question, has_left: Callable[[], Awaitable[bool]] | None = None, price: int = 1
    ) -> Reply:
        """Return the answer to one question.

        Args:
            price: the cost of the question, where the smallest question costs 1.
            has_left: returns whether the client has left. It is called just before the question would be handled.
        Raises:
            QueueFullError, TooLateError, ClientLeftError: the question was not handled.
            Exception: `handle` returned or raised it for this question.
        """
        if self.is_full or self._closing:
            raise QueueFullError
        loop = asyncio.get_running_loop()
        waiting = _Waiting(question, loop.create_future(), price, loop.time() + self._deadline_s, has_left)
        self._queue.append(waiting)
        self._waiting_price += price
        self._arrived.set()
        return await waiting.reply

    async def run(self) -> None:
        """Handle batches until `close`, and then the questions that still wait."""
        loop = asyncio.get_running_loop()
        while self._queue or not self._closing:
            if not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
                if self._window_s and not self._closing:
                    await asyncio.sleep(self._window_s)
            batch = await self._next_batch(loop)
            if not batch:
                continue
            self._on_batch(len(batch))
            try:
                replies = await loop.run_in_executor(self._executor, self._handle, [w.question for w in batch])
            except Exception as error:
                replies = [error] * len(batch)
            for waiting, reply in zip(batch, replies, strict=True):
                _settle(waiting.reply, reply)

    def close(self) -> None:
        """Accept no more questions. `run` returns when the last accepted question is answered."""
        self._closing = True
        self._arrived.set()

    async def _next_batch(self, loop: asyncio.AbstractEventLoop) -> list[_Waiting[Question, Reply]]:
        batch: list[_Waiting[Question, Reply]] = []
        left = self._batch_size
        while self._queue and (not batch or self._queue[0].price <= left):
            waiting = self._queue.popleft()
            self._waiting_price -= waiting.price
            if waiting.reply.done():  # its task was cancelled
                continue
            try:
                if loop.time() > waiting.deadline:
                    raise TooLateError
                if waiting.has_left is not None and await waiting.has_left():
                    raise ClientLeftError
                batch.append(waiting)
                left -= waiting.price
            except Exception as error:  # any error ends this query only, and never the queue
                _settle(waiting.reply, error)
        return batch


def _settle(future: asyncio.Future[Any], reply: Any) -> None:
    if future.done():
        return
    if isinstance(reply, Exception):
        future.set_exception(reply)
    else:
        future.set_result(reply)


@contextlib.asynccontextmanager
async def running(*batchers: Batcher[Any, Any]) -> AsyncIterator[None]:
    """Run batchers. On exit, they answer the questions that they have accepted."""
    tasks = [asyncio.create_task(batcher.run()) for batcher in batchers]
    try:
        yield
    finally:
        for batcher in batchers:
            batcher.close()
        await asyncio.gather(*tasks)
