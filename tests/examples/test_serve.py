"""The server in `examples/serve.py`, without a network: requests of several clients at a time."""

import asyncio
import importlib.util
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from bright import Bright, square

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install fastapi uvicorn httpx")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install fastapi uvicorn httpx")
httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install fastapi uvicorn httpx")

PATH = Path(__file__).resolve().parents[2] / "examples" / "serve.py"


@pytest.fixture(scope="module")
def serve():
    spec = importlib.util.spec_from_file_location("serve", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def png(image):
    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


def answers(app, use):
    """Start the application, and return what the coroutine `use(client)` returns."""

    async def run():
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client,
        ):
            return await use(client)

    return asyncio.run(run())


class Slow(Bright):
    """Waits before each batch until it may go on, and notes how many images the batches have."""

    def __init__(self):
        super().__init__()
        self.go_on, self.batches = threading.Event(), []
        self.go_on.set()

    def _run(self, batch):
        assert self.go_on.wait(60)
        self.batches.append(len(batch))
        return super()._run(batch)


def test_many_requests_get_their_own_answers_in_batches(serve):
    detector = Slow()

    async def use(client):
        detector.go_on.clear()
        detector.batches.clear()
        requests = [client.post("/detect", content=png(square(number)[0])) for number in range(30)]
        tasks = [asyncio.create_task(request) for request in requests]
        while (await client.get("/health")).json()["waiting"] < 30:
            await asyncio.sleep(0.01)
        detector.go_on.set()
        return await asyncio.gather(*tasks)

    for number, answer in enumerate(answers(serve.create_app(detector), use)):
        assert answer.status_code == 200
        body = answer.json()
        assert (body["width"], body["height"]) == (64, 64)
        assert [each["box"] for each in body["detections"]] == [square(number)[1]]
    assert sum(detector.batches) == 30 and len(detector.batches) <= 10  # of 4, but for the first ones and the last
    assert max(detector.batches) == 4


def test_the_score_is_a_parameter(serve):
    async def use(client):
        image = png(square(0)[0])
        return [await client.post("/detect", content=image, params={"score": score}) for score in (0.5, 0.95, 2)]

    low, high, wrong = answers(serve.create_app(Bright()), use)
    assert (len(low.json()["detections"]), len(high.json()["detections"])) == (1, 0)
    assert wrong.status_code == 422


def test_what_is_too_large_or_no_image_is_refused(serve):
    limits = serve.Limits(bytes=50_000, pixels=10_000)
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    cut = png(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))[:9000]

    async def endless():
        for _ in range(1000):
            yield bytes(1000)

    async def use(client):
        contents = [png(noise), endless(), png(np.zeros((200, 100, 3), np.uint8)), b"", b"no image", cut]
        refused = [await client.post("/detect", content=content) for content in contents]
        return [*refused, await client.post("/detect", content=png(square(3)[0]))]

    *refused, good = answers(serve.create_app(Bright(), limits), use)
    assert [answer.status_code for answer in refused] == [413, 413, 413, 422, 422, 422]
    details = [answer.json()["detail"] for answer in refused]
    assert details[0] == details[1] == "an image must have at most 50,000 bytes"
    assert details[2] == "an image must have at most 10,000 pixels; got 100 x 200"
    assert details[3] == "the file is empty"
    assert details[5].startswith("the file is ")
    assert good.status_code == 200


def test_beyond_the_queue_requests_are_refused_at_once_and_none_is_lost(serve):
    detector = Slow()

    async def use(client):
        detector.go_on.clear()
        image = png(square(5)[0])
        tasks = [asyncio.create_task(client.post("/detect", content=image)) for _ in range(20)]
        done, waiting = await asyncio.wait(tasks, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 14:  # refused while the others still wait
            more, waiting = await asyncio.wait(waiting, timeout=60, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        refused = [task.result() for task in done]
        detector.go_on.set()
        return refused, await asyncio.gather(*waiting), await client.post("/detect", content=image)

    refused, served, later = answers(serve.create_app(detector, serve.Limits(queue=6)), use)
    assert len(refused) == 14 and len(served) == 6
    for answer in refused:
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        assert answer.json()["detail"] == "6 requests are waiting: try again later"
    for answer in (*served, later):
        assert answer.status_code == 200 and answer.json()["detections"][0]["box"] == square(5)[1]


def test_a_request_that_waits_too_long_is_given_up_and_its_place_is_free(serve):
    detector = Slow()

    async def use(client):
        detector.go_on.clear()
        late = await client.post("/detect", content=png(square(5)[0]))
        detector.go_on.set()
        return late, await client.post("/detect", content=png(square(6)[0])), await client.get("/health")

    late, served, health = answers(serve.create_app(detector, serve.Limits(queue=1, timeout=2)), use)
    assert late.status_code == 503 and late.json()["detail"] == "no answer in 2 seconds"
    assert served.status_code == 200 and served.json()["detections"][0]["box"] == square(6)[1]
    assert health.json() == {"status": "ok", "waiting": 0, "step": 7, "classes": ["square"]}


def test_a_detector_that_fails_answers_the_next_request(serve):
    detector = Slow()

    async def use(client):
        detector.batches = None  # append fails
        failed = await client.post("/detect", content=png(square(5)[0]))
        detector.batches = []
        return failed, await client.post("/detect", content=png(square(6)[0]))

    failed, served = answers(serve.create_app(detector), use)
    assert failed.status_code == 500 and failed.json()["detail"] == "the detector failed: AttributeError"
    assert served.status_code == 200


def test_the_page_is_served(serve):
    async def use(client):
        return await client.get("/")

    page = answers(serve.create_app(Bright()), use)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert 'fetch("/detect?score=' in page.text
