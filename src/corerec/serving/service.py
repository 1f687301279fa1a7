"""The parts behind the routes: the model in service, a queue for each kind of request, and the counters.

recommend                           many queries at once, scored together, in a thread of their own
explain, fill-in, predict, similar  one request at a time, in one thread, where the four queues take turns
events                              observed events: to disk first, then to the model
catalogue                           added items: to disk first, then to the model, in the thread of `events`
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from corerec.errors import CorerecError, UnknownIdError
from corerec.queries import Recommendations
from corerec.serving.batching import Batcher, ClientLeftError, QueueFullError, TooLateError, running
from corerec.serving.catalogue import CatalogueRow
from corerec.serving.live import Added, EventBatch, LimitReachedError, LiveModel, Taken
from corerec.serving.metrics import ServerMetrics
from corerec.serving.problem import QUEUE_FULL
from corerec.serving.scoring import Ask, answer_all, do_all
from corerec.serving.settings import ServerSettings

log = logging.getLogger(__name__)

PIECES = ("explain", "fill-in", "predict", "similar")
QUEUES = ("recommend", "events", "catalogue", *PIECES)


class ModelService:
    """Everything behind the routes of one app: the model in service, the queues and threads, and the counters."""

    def __init__(self, live: LiveModel, settings: ServerSettings) -> None:
        self.live, self.settings = live, settings
        self._model_thread = ThreadPoolExecutor(1, "model")
        self._single_thread = ThreadPoolExecutor(1, "single")
        self._event_thread = ThreadPoolExecutor(1, "events")
        self._reloading = asyncio.Lock()
        self.is_ready = False
        self.metrics = ServerMetrics({name: lambda name=name: self.queues[name].depth for name in QUEUES})
        bounds = {"queue_size": settings.queue_size, "deadline_s": settings.deadline_s}
        self.recommend: Batcher[Ask, Recommendations] = Batcher(
            answer_all,
            self._model_thread,
            batch_size=settings.batch_size,
            window_s=settings.batch_window_ms / 1000,
            on_batch=self.metrics.batch("recommend"),
            **bounds,
        )
        # In a thread of their own: an explanation of a long history takes as long as a hundred recommendations.
        self.pieces: dict[str, Batcher[Callable[[], Any], Any]] = {
            name: Batcher(
                do_all, self._single_thread, batch_size=1, window_s=0, on_batch=self.metrics.batch(name), **bounds
            )
            for name in PIECES
        }
        # Events that arrive together share one commit, which is what waits for the disk.
        self.events: Batcher[EventBatch, Taken] = Batcher(
            live.observe,
            self._event_thread,
            batch_size=settings.queue_size,
            window_s=0,
            on_batch=self.metrics.batch("events"),
            **bounds,
        )
        # In the events' thread: an item that is added is known to the next event.
        self.catalogue: Batcher[Sequence[CatalogueRow], Added] = Batcher(
            live.add_items,
            self._event_thread,
            batch_size=1,
            window_s=0,
            on_batch=self.metrics.batch("catalogue"),
            **bounds,
        )
        self.queues: dict[str, Batcher[Any, Any]] = {
            "recommend": self.recommend,
            "events": self.events,
            "catalogue": self.catalogue,
            **self.pieces,
        }
        self._tell_of_the_model()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the queues until the last question is answered."""
        async with running(*self.queues.values()):
            self.is_ready = True
            yield
            self.is_ready = False
        for thread in (self._model_thread, self._single_thread, self._event_thread):
            thread.shutdown()
        self.live.close()

    async def ask(self, queue: str, question: Any, request: Request, price: int = 1) -> Any:
        """Put a question into a queue and return the answer. If there is no answer, raise the HTTP error that says
        why."""
        later = {"Retry-After": str(self.settings.retry_after_s)}
        try:
            return await self.queues[queue].ask(question, request.is_disconnected, price)
        except QueueFullError:
            raise HTTPException(503, QUEUE_FULL, later) from None
        except TooLateError:
            raise HTTPException(503, "the request waited too long for its turn; try again soon", later) from None
        except ClientLeftError:
            raise HTTPException(400, "the client left before its turn came") from None
        except LimitReachedError as error:
            raise HTTPException(507, str(error)) from None
        except UnknownIdError as error:
            raise HTTPException(404, str(error)) from None
        except CorerecError as error:  # the request is sound, but not with this model
            raise HTTPException(409, str(error)) from None
        except OSError:
            raise HTTPException(503, "the event log cannot be written; nothing was taken", later) from None

    async def reload(self) -> None:
        """Serve the model that the file holds now, without a pause. Reloads run one at a time.

        Raises:
            HTTPException: 409, the file cannot be read as a model. The old model stays in service.
        """
        async with self._reloading:
            loop = asyncio.get_running_loop()
            try:
                # Not in the model's thread, which goes on answering, nor in the events', but for the last moment.
                loaded = await asyncio.to_thread(self.live.load)
                await loop.run_in_executor(self._event_thread, self.live.take_over, loaded)
            except (CorerecError, OSError) as error:
                self.metrics.reloads.labels("failed").inc()
                log.error("reload: %s; %s goes on", error, self.live.now.model.name)
                raise HTTPException(
                    409, "the model file is missing or damaged, as the server's log says; the old model goes on"
                ) from None
            self.metrics.reloads.labels("done").inc()
            self._tell_of_the_model()
            log.info("reloaded %s", self.live.now.model)

    async def reload_quietly(self) -> None:
        """Reload the model after a signal. Errors go to the log."""
        if self.live.path is None:
            log.error("there is no file to reload the model from")
            return
        with contextlib.suppress(HTTPException):
            await self.reload()

    @property
    def is_reloading(self) -> bool:
        return self._reloading.locked()

    def _tell_of_the_model(self) -> None:
        model = self.live.now.model
        self.metrics.model(model.name, len(model.items), model.model_config.max_seq_len)
