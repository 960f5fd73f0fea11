"""Load a server of examples/serve.py: requests a second, latencies, and what happens when there are too many.

    python examples/serve.py --workdir=runs/demo --port=8000
    python benchmarks/serve.py --url=http://127.0.0.1:8000 images/

Every client sends the next image as soon as it has an answer, over a connection that stays open.
"""

import argparse
import collections
import http.client
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from ssd_jax.loop.detect import find


class Client(threading.Thread):
    """Sends images until `until`, and notes the status and the seconds of each request; 0 stands for no answer."""

    def __init__(self, address, images, until):
        super().__init__()
        self._address, self._images, self._until = address, images, until
        self.answers = []

    def run(self):
        connection = http.client.HTTPConnection(self._address, timeout=60)
        number = 0
        while (start := time.monotonic()) < self._until:
            try:
                connection.request("POST", "/detect", self._images[number % len(self._images)])
                response = connection.getresponse()
                status = response.status
                if not response.read():
                    status = 0
            except (OSError, http.client.HTTPException):
                connection.close()
                status = 0
            self.answers.append((status, time.monotonic() - start))
            number += 1
            if status == 503:
                time.sleep(float(response.headers["Retry-After"]) / 10)


def load(address, images, clients, seconds):
    """Run so many clients at a time and print one line."""
    until = time.monotonic() + seconds
    threads = [Client(address, images[k:] + images[:k], until) for k in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = [answer for thread in threads for answer in thread.answers]
    counts = collections.Counter(status for status, _ in answers)
    good = np.array([taken for status, taken in answers if status == 200]) * 1000
    p50, p99 = np.percentile(good, [50, 99]) if len(good) else (np.nan, np.nan)
    other = sum(counts.values()) - counts[200] - counts[503] - counts[0]
    rate = counts[200] / seconds
    refused, lost = counts[503], counts[0]
    print(f"{clients:7}  {rate:17.1f}  {p50:6.0f}  {p99:6.0f}  {refused:5}  {other:5}  {lost:4}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64, 128])
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    images = [path.read_bytes() for path in find([Path(path) for path in options.images])[:200]]
    address = urlsplit(options.url).netloc
    print("clients  answers a second  p50 ms  p99 ms    503  other  lost")
    for clients in options.clients:
        load(address, images, clients, options.seconds)


if __name__ == "__main__":
    main()
