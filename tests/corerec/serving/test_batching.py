import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from corerec.serving.batching import Batcher, ClientLeftError, QueueFullError, TooLateError, running


class Doubler:
    """Doubles numbers, but for 13; notes the batches; the first waits until `go` is set."""

    def __init__(self):
        self.batches, self.began, self.go = [], threading.Event(), threading.Event()

    def __call__(self, numbers):
        self.batches.append(numbers)
        self.began.set()
        assert self.go.wait(10)
        return [ValueError("13") if number == 13 else 2 * number for number in numbers]


def with_batcher(scenario, **bounds):
    """Run `scenario(batcher, doubler, loop_until)` with the first batch held back, and return the doubler."""
    doubler = Doubler()
    bounds = {"batch_size": 3, "queue_size": 5, "window_s": 0, "deadline_s": 10} | bounds

    async def main():
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(doubler, executor, **bounds)
            async with running(batcher):
                try:
                    await scenario(batcher, doubler)
                finally:
                    doubler.go.set()

    asyncio.run(main())
    return doubler


async def has_begun(doubler):
    """Until the first batch is in the worker's hands."""
    await asyncio.to_thread(doubler.began.wait, 10)


async def asked(batcher, *numbers, **options):
    """Tasks whose questions are in the queue."""
    tasks = [asyncio.create_task(batcher.ask(number, **options)) for number in numbers]
    await asyncio.sleep(0)
    return tasks


def test_questions_that_wait_together_are_handled_together_in_order():
    async def scenario(batcher, doubler):
        tasks = await asked(batcher, 1)
        await has_begun(doubler)
        tasks += await asked(batcher, 2, 3, 4, 5)
        doubler.go.set()
        assert await asyncio.gather(*tasks) == [2, 4, 6, 8, 10]

    assert with_batcher(scenario).batches == [[1], [2, 3, 4], [5]]


def test_a_question_waits_for_company_within_the_window():
    async def scenario(batcher, doubler):
        doubler.go.set()
        first = await asked(batcher, 1)
        await asyncio.sleep(0)  # the worker's loop has woken, and waits
        assert await asyncio.gather(*first, *await asked(batcher, 2)) == [2, 4]

    assert with_batcher(scenario, window_s=0.05).batches == [[1, 2]]


def test_a_full_queue_refuses_at_once():
    async def scenario(batcher, doubler):
        tasks = await asked(batcher, 0)
        await has_begun(doubler)
        tasks += await asked(batcher, 1, 2, 3, 4, 5)
        assert batcher.depth == 5
        assert batcher.is_full
        with pytest.raises(QueueFullError):
            await batcher.ask(6)
        doubler.go.set()
        assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8, 10]

    assert with_batcher(scenario).batches == [[0], [1, 2, 3], [4, 5]]


def test_a_question_past_its_deadline_is_dropped_unhandled():
    async def scenario(batcher, doubler):
        first = await asked(batcher, 1)
        await has_begun(doubler)
        late = await asked(batcher, 2)
        await asyncio.sleep(0.02)
        doubler.go.set()
        with pytest.raises(TooLateError):
            await late[0]
        assert await first[0] == 2  # what is begun is finished

    assert with_batcher(scenario, deadline_s=0.01).batches == [[1]]


def test_a_question_whose_client_has_left_is_dropped_unhandled():
    async def has_left():
        return True

    async def is_there():
        return False

    async def scenario(batcher, doubler):
        tasks = await asked(batcher, 1)
        await has_begun(doubler)
        gone, stays = await asked(batcher, 2, has_left=has_left), await asked(batcher, 3, has_left=is_there)
        doubler.go.set()
        with pytest.raises(ClientLeftError):
            await gone[0]
        assert await asyncio.gather(*tasks, *stays) == [2, 6]

    assert with_batcher(scenario).batches == [[1], [3]]


def test_a_cancelled_question_is_dropped_unhandled():
    async def scenario(batcher, doubler):
        first = await asked(batcher, 1)
        await has_begun(doubler)
        cancelled = await asked(batcher, 2)
        cancelled[0].cancel()
        await asyncio.sleep(0)
        doubler.go.set()
        assert await first[0] == 2

    assert with_batcher(scenario).batches == [[1]]


def test_one_bad_question_does_not_fail_its_neighbours():
    async def scenario(batcher, doubler):
        doubler.go.set()
        good, bad = await asyncio.gather(batcher.ask(1), batcher.ask(13), return_exceptions=True)
        assert good == 2
        assert isinstance(bad, ValueError)

    with_batcher(scenario, window_s=0.01)


def test_a_handler_that_fails_fails_its_batch_and_no_other():
    calls = []

    def handle(numbers):
        calls.append(numbers)
        if len(calls) == 1:
            raise RuntimeError
        return numbers

    async def main():
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(handle, executor, batch_size=1, queue_size=5, window_s=0, deadline_s=10)
            async with running(batcher):
                with pytest.raises(RuntimeError):
                    await batcher.ask(1)
                assert await batcher.ask(2) == 2

    asyncio.run(main())


def test_closing_answers_what_was_taken_and_takes_no_more():
    async def main():
        doubler = Doubler()
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(doubler, executor, batch_size=1, queue_size=5, window_s=0, deadline_s=10)
            async with running(batcher):
                tasks = await asked(batcher, 1)
                await has_begun(doubler)
                tasks += await asked(batcher, 2, 3)
                batcher.close()
                with pytest.raises(QueueFullError):
                    await batcher.ask(4)
                doubler.go.set()
            assert [task.result() for task in tasks] == [2, 4, 6]

    asyncio.run(main())
