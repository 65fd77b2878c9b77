"""The same gallery in Milvus: as a file, and behind a real server."""

import socket
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

from tests.index.test_gallery import facts, named, paths, vectors
from zoo.errors import InputError, UsageError
from zoo.index.gallery import Gallery
from zoo.index.store import open_or_create, open_store


def answers(store, asked, k=5):
    hits = store.search(asked, k)
    found = [[(item["path"], int(p)) for item, p in zip(store.take_items(rows), protos, strict=True)]
             for rows, protos in zip(hits.rows.tolist(), hits.prototypes, strict=True)]  # fmt: skip
    return found, hits.scores


def worked(store):
    """Append, replace, remove: what any store is put through here."""
    values = vectors(60, per_item=2)
    store.append(values[:40], named(*range(40)))
    rows = [row for row, _ in store.items()]
    store.append(values[40:], named(*range(40, 60)), removing=rows[3:5])
    store.remove(rows[:1])
    return store


def equals_a_folder(store, folder):
    twin = worked(Gallery.create(folder, facts(per_item=2)))
    worked(store)
    assert paths(store) == paths(twin)
    assert len(store) == len(twin) == 57
    asked = vectors(4, seed=9)[:, 0].astype(np.float32)
    (found, scores), (expected, exact) = answers(store, asked), answers(twin, asked)
    assert found == expected
    np.testing.assert_allclose(scores, exact, rtol=1e-5)  # theirs are float32 sums


def test_a_file_gives_a_folders_answers(tmp_path):
    address = str(tmp_path / "people.db")
    store = open_or_create("people", facts(per_item=2), address)
    equals_a_folder(store, tmp_path / "g")
    with pytest.raises(UsageError, match=r"made by net\.tag"):
        open_or_create("people", facts(per_item=2, model="other.tag"), address)
    with pytest.raises(UsageError, match="no gallery nobody"):
        open_store("nobody", address)
    with pytest.raises(UsageError, match="no collection called"):
        open_or_create("a b", facts(), address)
    assert open_store("people", address).info()["items"] == 57
    store.client.drop_collection("people")  # as if its creation had been interrupted
    assert len(open_or_create("people", facts(per_item=2, model="other.tag"), address)) == 0
    store.close()


@pytest.fixture
def server(tmp_path):
    """Address of a Milvus server of our own, over TCP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", str(tmp_path / "data")]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_a_server_gives_a_folders_answers(server, tmp_path):
    equals_a_folder(open_or_create("people", facts(per_item=2), server), tmp_path / "g")


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(InputError, match="127"):
        open_store("people", address)
