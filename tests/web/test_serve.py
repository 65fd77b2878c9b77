"""The server: right answers in batches of whatever is there, limits that hold, an end in good order."""

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from PIL import Image
from safetensors.torch import save_file

import zoo
from zoo.errors import UsageError
from zoo.hub.checkpoint import facts_for

testclient = pytest.importorskip("fastapi.testclient")
pytest.importorskip("prometheus_client")

from zoo.web.api import ServeLimits, build_app  # noqa: E402
from zoo.web.batching import Batcher, Busy, Stopping  # noqa: E402

ARCH = "reste_resnet20_cifar"


def png(seed, side=32):
    data = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(values).resize((side, side), Image.Resampling.NEAREST).save(data, "PNG")  # large ones stay short
    return data.getvalue()


def files(*contents):
    return [("images", (f"{i}.png", content)) for i, content in enumerate(contents)]


@pytest.fixture(scope="module")
def pipe():
    return zoo.pipeline(ARCH, device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def client(pipe):
    with testclient.TestClient(build_app(pipe, ServeLimits(max_bytes=300_000, max_pictures=6, queue=6))) as client:
        yield client


# answers


def test_answers_are_the_pipelines_in_order_good_and_bad(client, pipe):
    found = client.post("/v1/classify", files=files(png(0), b"no picture", png(1), png(2), png(3)))
    assert found.status_code == 200
    results = found.json()["results"]
    assert [result["source"] for result in results] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert "is text" in results[1]["error"]["message"]
    for place, seed in ((0, 0), (2, 1), (3, 2), (4, 3)):
        expected = pipe(np.asarray(Image.open(io.BytesIO(png(seed))))).to_dict()["predictions"]
        assert [entry["label"] for entry in results[place]["predictions"]] == [entry["label"] for entry in expected]
        # batches of other sizes sum in another order; six digits are given
        scores = [entry["score"] for entry in results[place]["predictions"]]
        np.testing.assert_allclose(scores, [entry["score"] for entry in expected], atol=2e-6)


def test_features():
    with testclient.TestClient(build_app(zoo.pipeline(ARCH, task="embed", device="cpu"))) as client:
        (result,) = client.post("/v1/embed", files=files(png(0))).json()["results"]
        assert len(result["vector"]) == 64
        assert client.post("/v1/classify", files=files(png(0))).status_code == 404


def test_one_picture_that_is_none_is_the_requests_fault(client):
    found = client.post("/v1/classify", files=files(b"no picture"))
    assert found.status_code == 422
    assert found.json()["results"][0]["error"]["kind"] == "InputError"


def test_what_is_served_is_said(client):
    model = client.get("/v1/model").json()
    assert model["name"] == f"{ARCH}.c10"
    assert model["max_pictures"] == 6
    assert len(model["labels"]) == 10
    assert client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize("labels", [["yes", "no"], None])
def test_the_labels_are_those_of_the_answers(labels, tmp_path):
    facts = facts_for(ARCH, {"num_classes": 2}, **({"labels": labels} if labels else {}))
    save_file(zoo.create_model(ARCH, num_classes=2).state_dict(), tmp_path / "own.safetensors", facts)
    pipe = zoo.pipeline(ARCH, device="cpu", checkpoint_path=tmp_path / "own.safetensors")
    with testclient.TestClient(build_app(pipe)) as client:
        assert client.get("/v1/model").json()["labels"] == labels
        (result,) = client.post("/v1/classify", files=files(png(0))).json()["results"]
    assert {entry["label"] for entry in result["predictions"]} == set(labels or ["class 0", "class 1"])


def test_metrics_count(client):
    def value(name):
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = value('zoo_pictures_total{outcome="answered"}'), value("zoo_batch_size_sum")
    client.post("/v1/classify", files=files(png(0), png(1)))
    after = value('zoo_pictures_total{outcome="answered"}'), value("zoo_batch_size_sum")
    assert np.subtract(after, before).tolist() == [2, 2]
    assert value("zoo_pictures_inside") == 0
    assert value('zoo_requests_total{status="200"}') >= 1


# limits


def test_too_long_and_too_many_is_413(client):
    assert client.post("/v1/classify", files=files(bytes(400_000))).status_code == 413
    chunks = (bytes(50_000) for _ in range(8))  # of unknown length, so nothing announces it
    head = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/v1/classify", content=chunks, headers=head).status_code == 413
    found = client.post("/v1/classify", files=files(*[png(0)] * 7))
    assert found.status_code == 413
    assert "7 pictures, where 6 are allowed" in found.json()["detail"]


def test_a_decompression_bomb_is_not_decoded(client, monkeypatch):
    monkeypatch.setenv("ZOO_MAX_PIXELS", "1000000")
    data = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(data, "PNG")  # 50 kB that become 1.2 GB of RGB
    start = time.thread_time()
    found = client.post("/v1/classify", files=files(data.getvalue()))
    assert found.status_code == 422
    assert "more pixels than the limit of 1000000" in found.json()["results"][0]["error"]["message"]
    assert time.thread_time() - start < 1


def test_addresses_in_a_request_lead_nowhere(client):
    """What would make the server fetch: form fields, file names and bodies that hold addresses."""
    with socket.create_server(("127.0.0.1", 0)) as bait:
        bait.settimeout(0.2)
        url = f"http://127.0.0.1:{bait.getsockname()[1]}/x.png"
        client.post("/v1/classify", data={"images": url})
        client.post("/v1/classify", files=[("images", (url, url.encode()))])
        svg = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>'
        client.post("/v1/classify", files=[("images", ("/etc/passwd", svg.encode()))])
        client.post("/v1/classify", json={"images": [url]})
        with pytest.raises(TimeoutError):
            bait.accept()
    found = client.post("/v1/classify", files=[("images", ("/etc/passwd", b"file:///etc/passwd"))])
    assert "root:" not in found.text


def test_no_room_is_429_and_comes_back(client):
    large = png(0, side=3000)  # takes long enough to decode that the others find no room
    with ThreadPoolExecutor(6) as pool:
        codes = list(pool.map(lambda _: client.post("/v1/classify", files=files(*[large] * 4)).status_code, range(6)))
    assert set(codes) == {200, 429}
    assert client.post("/v1/classify", files=files(png(0))).status_code == 200


def test_no_answer_in_time_is_503(pipe):
    with testclient.TestClient(build_app(pipe, ServeLimits(seconds=0.05))) as client:
        found = client.post("/v1/classify", files=files(png(0, side=4000)))
        assert found.status_code == 503
        assert found.headers["Retry-After"] == "5"


def test_bad_forms_are_one_line(client):
    for found in (
        client.post("/v1/classify"),
        client.post("/v1/classify", data={"images": "text"}),
        client.post("/v1/classify", content=b"--x", headers={"Content-Type": "multipart/form-data; boundary=x"}),
        client.post("/v1/classify", content=b"{}", headers={"Content-Type": "application/json"}),
    ):
        assert found.status_code in (400, 422)
        assert isinstance(found.json()["detail"], str)


# batches


def test_what_waits_together_runs_together(pipe):
    sizes = []

    async def all_at_once():
        batcher = Batcher(pipe, 64, sizes.append)
        batcher.start()
        pictures = [np.asarray(Image.open(io.BytesIO(png(i)))) for i in range(11)]
        answers = await asyncio.gather(*(batcher.answer([picture]) for picture in pictures))
        await batcher.stop()
        with pytest.raises(Stopping):
            await batcher.answer(pictures[:1])
        return [answer[0].labels for answer in answers], [pipe(picture).labels for picture in pictures]

    found, expected = asyncio.run(all_at_once())
    assert found == expected
    assert sum(sizes) == 11
    assert max(sizes) <= 4
    assert len(sizes) < 11


def test_room_is_given_back_and_the_end_waits_for_those_inside(pipe):
    async def try_it():
        batcher = Batcher(pipe, 2)
        batcher.start()
        picture = np.zeros((32, 32, 3), np.uint8)
        with pytest.raises(Busy):
            await batcher.answer([picture] * 3)
        for _ in range(3):
            assert len(await batcher.answer([picture] * 2)) == 2
        late = asyncio.create_task(batcher.answer([picture]))
        await asyncio.sleep(0)
        await batcher.stop()
        assert (await late)[0].labels
        assert batcher.inside == 0

    asyncio.run(try_it())


def test_a_network_that_fails_costs_its_batch_alone(pipe):
    class Breaks(type(pipe.task)):
        fails = True

        def answer(self, model, x, pictures):
            if Breaks.fails:
                Breaks.fails = False
                raise RuntimeError("the device is gone")
            return super().answer(model, x, pictures)

    broken = zoo.pipeline(ARCH, device="cpu")
    broken.task = Breaks(broken.task.names)

    async def try_it():
        batcher = Batcher(broken, 4)
        batcher.start()
        with pytest.raises(RuntimeError, match="device is gone"):
            await batcher.answer([np.zeros((32, 32, 3), np.uint8)])
        (result,) = await batcher.answer([np.zeros((32, 32, 3), np.uint8)])
        await batcher.stop()
        return result

    assert asyncio.run(try_it()).labels


# a real server


@pytest.fixture(scope="module")
def server():
    """A process that serves, and its address."""
    command = [sys.executable, "-m", "zoo", "serve", ARCH, "--port", "0", "--timeout", "6"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as running:
        said = running.stderr.readline()
        address = said.rsplit(" ", 1)[1].strip()
        yield running, address
        running.kill()


def test_slow_bodies_are_cut_off(server):
    host, port = server[1].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        head = "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        slow.sendall(f"{head}Content-Length: 1000\r\n\r\n--x".encode())
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_nonsense_leaves_the_server_up(server):
    host, port = server[1].removeprefix("http://").split(":")
    rng = np.random.default_rng(0)
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=20) as wild:
            wild.sendall(rng.bytes(500) + b"\r\n\r\n")
    assert requests.get(f"{server[1]}/health", timeout=20).status_code == 200


def test_schemathesis_finds_nothing(server):
    pytest.importorskip("schemathesis")
    command = ["run", f"{server[1]}/openapi.json", "--max-examples", "10"]
    command += ["--exclude-checks", "positive_data_acceptance"]  # random bytes fit the document and are no picture
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", *command],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]


def test_a_broken_part_is_refused(server):
    body = b"--x\r\nContent-Disposition\r: form-data\r\n\r\n\r\n--x--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert requests.post(f"{server[1]}/v1/classify", data=body, headers=kind, timeout=20).status_code == 400


def test_sigterm_answers_those_inside_and_ends_well(server):
    running, address = server
    large = png(0, side=3000)
    codes = []
    sender = threading.Thread(
        target=lambda: codes.append(requests.post(f"{address}/v1/classify", files=files(large), timeout=60).status_code)
    )
    sender.start()
    end = time.monotonic() + 30
    while not codes and "zoo_pictures_inside 1.0" not in requests.get(f"{address}/metrics", timeout=20).text:
        assert time.monotonic() < end
    running.send_signal(signal.SIGTERM)
    sender.join(60)
    assert codes == [200]
    assert running.wait(60) == 0
    assert running.stderr.read() == ""  # nor a word about the nonsense of the tests before


def test_a_port_that_is_taken_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "zoo", "serve", ARCH, "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "cannot be listened on: Address already in use" in done.stderr


def test_the_document_is_typed(client):
    document = client.get("/openapi.json").json()
    post = document["paths"]["/v1/classify"]["post"]
    assert sorted(post["responses"]) == ["200", "400", "408", "413", "422", "429", "503"]
    good = json.dumps(post["responses"]["200"])
    assert "Answers_Classified_" in good
    predictions = document["components"]["schemas"]["Classified"]["properties"]["predictions"]
    assert predictions["items"]["$ref"].endswith("Prediction")


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 0.0])
def test_a_limit_that_never_comes_is_refused(seconds):
    with pytest.raises(UsageError, match="a time limit of"):
        ServeLimits(seconds=seconds)
