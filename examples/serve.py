"""Serve a detector over HTTP: images in, JSON out, and a page to try it.

    pip install fastapi uvicorn
    python examples/serve.py --workdir=runs/demo
    curl --data-binary @photo.jpg 'http://127.0.0.1:8000/detect?score=0.4'

POST /detect?score=0.4 with the bytes of an image file:
    200: {"width": 640, "height": 480, "detections": [{"class": "dog", "label": 2, "score": 0.97, "box": [...]}]}
    413: too many bytes or pixels
    422: no image
    503: too many requests are waiting, or this one waited too long: try again later
GET /health: 200, or 503 if the detector no longer answers
GET /: the page

Requests that come at the same time are detected in together: a batch takes what is waiting, `--batch_size` images at
most, and does not wait for more. At most `--queue` requests are inside at a time, so that memory is bounded; the next
one is refused at once, and one that has waited for `--timeout` seconds is given up.
"""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse

from ssd_jax.data import UnreadableImage
from ssd_jax.data.formats import read_header
from ssd_jax.inference import Detections, Detector, load_detector

PAGE = Path(__file__).with_name("serve.html")
RUNNERS = 2  # batches in work at a time: one is decoded while the device works on the other


class Limits(NamedTuple):
    """What a server takes."""

    bytes: int = 10_000_000  # of an image file
    pixels: int = 25_000_000  # of an image
    queue: int = 64  # requests inside at a time
    timeout: float = 10.0  # seconds that a request waits for its answer


class Waiting(NamedTuple):
    """An image that waits for a batch."""

    image: bytes
    answer: "asyncio.Future[Detections | Exception]"


class Batcher:
    """Detects in images of several requests together."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._waiting: asyncio.Queue[Waiting] = asyncio.Queue()
        self._runners: list[asyncio.Task[None]] = []

    @property
    def healthy(self) -> bool:
        """Whether batches are still worked on."""
        return bool(self._runners) and not any(runner.done() for runner in self._runners)

    async def detect(self, image: bytes) -> Detections | Exception:
        """Wait for the answer for an image; the error of one that cannot be read is its answer."""
        answer = asyncio.get_running_loop().create_future()
        await self._waiting.put(Waiting(image, answer))
        return await answer

    async def __aenter__(self) -> "Batcher":
        """Compile for every number of images, then start."""
        black = np.zeros((8, 8, 3), np.uint8)
        count = 1
        while count < 2 * self._detector.batch_size:
            await asyncio.to_thread(self._detector, [black] * min(count, self._detector.batch_size))
            count *= 2
        self._runners = [asyncio.create_task(self._run()) for _ in range(RUNNERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for runner in self._runners:
            runner.cancel()
        await asyncio.gather(*self._runners, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self._detector.batch_size and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            batch = [each for each in batch if not each.answer.done()]  # who waits no more has cancelled it
            try:
                answers = await asyncio.to_thread(self._detect, [each.image for each in batch])
            except Exception as error:  # the detector itself failed: these requests get it, and the next ones go on
                answers = [error] * len(batch)
            for each, answer in zip(batch, answers, strict=True):
                if not each.answer.done():
                    each.answer.set_result(answer)

    def _detect(self, images: Sequence[bytes]) -> list[Detections | Exception]:
        return list(self._detector.stream(images, return_errors=True))


DEFAULTS = Limits()


def create_app(detector: Detector, limits: Limits = DEFAULTS) -> FastAPI:
    """Make the application, for any ASGI server; one process has one detector."""
    batcher = Batcher(detector)
    inside = 0

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with batcher:
            yield

    app = FastAPI(title="ssd_jax", lifespan=lifespan)

    @app.post("/detect")
    async def detect(request: Request, score: Annotated[float, Query(ge=0, le=1)] = 0.4) -> dict[str, Any]:
        nonlocal inside
        if inside >= limits.queue:
            raise HTTPException(503, f"{inside} requests are waiting: try again later", {"Retry-After": "1"})
        inside += 1
        try:
            async with asyncio.timeout(limits.timeout):
                image = await read_body(request, limits.bytes)
                height, width = upright_size(image, limits.pixels)
                found = await batcher.detect(image)
        except TimeoutError:
            raise HTTPException(503, f"no answer in {limits.timeout} seconds", {"Retry-After": "1"}) from None
        finally:
            inside -= 1
        if isinstance(found, UnreadableImage):
            raise HTTPException(422, str(found).removeprefix("image 0: "))
        if isinstance(found, Exception):
            raise HTTPException(500, f"the detector failed: {type(found).__name__}")
        return {"width": width, "height": height, "detections": found.above(score).to_dicts()}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        if not batcher.healthy:
            raise HTTPException(503, "the detector does not run")
        return {"status": "ok", "waiting": inside, "step": detector.step, "classes": list(detector.class_names)}

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE, media_type="text/html")

    return app


async def read_body(request: Request, most: int) -> bytes:
    """Read an upload, and stop as soon as it is too large."""
    declared = request.headers.get("content-length", "0")
    body = bytearray()
    if not declared.isdecimal() or int(declared) <= most:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                break
        else:
            return bytes(body)
    raise HTTPException(413, f"an image must have at most {most:,} bytes", {"Connection": "close"})


def upright_size(image: bytes, most_pixels: int) -> tuple[int, int]:
    """Read (height, width) from the header of an image file, before anything is decoded."""
    try:
        height, width = read_header(image).upright_size
    except UnreadableImage as error:
        raise HTTPException(422, str(error)) from None
    if height * width > most_pixels:
        raise HTTPException(413, f"an image must have at most {most_pixels:,} pixels; got {width} x {height}")
    return height, width


def main() -> None:
    """Read the flags and serve until SIGINT or SIGTERM, which finish the requests inside."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workdir", required=True, help="of the run, or an exported file")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for all interfaces; %(default)s")
    parser.add_argument("--port", type=int, default=8000, help="%(default)s")
    parser.add_argument("--batch_size", type=int, default=8, help="images seen together at most; %(default)s")
    parser.add_argument("--max_bytes", type=int, default=DEFAULTS.bytes, help="of an image file; %(default)s")
    parser.add_argument("--max_pixels", type=int, default=DEFAULTS.pixels, help="of an image; %(default)s")
    parser.add_argument("--queue", type=int, default=DEFAULTS.queue, help="requests inside at a time; %(default)s")
    parser.add_argument("--timeout", type=float, default=DEFAULTS.timeout, help="seconds of waiting; %(default)s")
    options = parser.parse_args()
    try:
        detector = load_detector(options.workdir, batch_size=options.batch_size)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    limits = Limits(options.max_bytes, options.max_pixels, options.queue, options.timeout)
    uvicorn.run(create_app(detector, limits), host=options.host, port=options.port, access_log=False)


if __name__ == "__main__":
    main()
