"""The routes of the chat page: files, previews of all kinds, held-out examples; what they refuse."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slots_support import slots_run
from starlette.testclient import TestClient

import omnivit
from omnivit.errors import MediaError
from omnivit.recipe import load
from omnivit.serve.app import Settings, create_app
from omnivit.serve.page.files import SHARED
from omnivit.serve.page.samples import HeldOut

Served = tuple[TestClient, dict[str, Path]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    run, files = slots_run(tmp_path_factory.mktemp("page"))
    app = create_app(omnivit.load(run, "cpu"), Settings(name="tiny", run=run, max_media_mb=1))
    with TestClient(app, base_url="http://localhost") as client:
        yield client, files


def test_the_page_loads_nothing_from_elsewhere(served: Served) -> None:
    client, _ = served
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    for file in SHARED.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text, file.name
        answer = client.get(f"/static/{file.name}")
        assert answer.status_code == 200 and "content-security-policy" in answer.headers, file.name
    assert "style=" not in page.text and page.text.count("<script") == page.text.count('src="/static/main.js"') == 1


@pytest.mark.parametrize("path", ["../router.py", "..%2frouter.py", "%2e%2e/router.py", "/etc/passwd", "router.py", ""])
def test_no_address_leads_out_of_the_static_files(served: Served, path: str) -> None:
    answer = served[0].get(f"/static/{path}")
    assert answer.status_code == 404 and "import" not in answer.text


def shown(client: TestClient, kind: str, file: Path, **settings: str) -> Any:
    answer = client.post("/ui/preview", params={"kind": kind, "name": file.name, **settings}, content=file.read_bytes())
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_previews_show_what_readers_read(served: Served) -> None:
    client, files = served
    for kind, count in (("image", 1), ("video", 10), ("volume", 24), ("page", 2)):
        result = shown(client, kind, files[kind])
        assert len(result["images"]) == len(result["labels"]) == count, kind
        assert all(image.startswith("data:image/png;base64,iVBOR") for image in result["images"])
    points = np.frombuffer(base64.b64decode(shown(client, "points", files["points"])["points"]), "<f4")
    assert points.size == 900 * 3 and np.isfinite(points).all()
    assert shown(client, "audio", files["audio"])["note"] == "1.0 s"
    axial = shown(client, "volume", files["volume"])
    assert axial["planes"] and shown(client, "volume", files["volume"], plane="sagittal")["planes"]
    assert shown(client, "volume", files["volume"], window="bone")["images"] != axial["images"]


def test_previews_refuse_in_sentences(served: Served) -> None:
    client, files = served

    def refusal(content: bytes, **query: str) -> tuple[int, str]:
        answer = client.post("/ui/preview", params={"name": "scan.nii", **query}, content=content)
        return answer.status_code, answer.json()["error"]["message"]

    status, text = refusal(b"x", kind="smell")
    assert status == 400 and "no previews of the kind 'smell'" in text and "volume" in text
    status, text = refusal(b"not a scan", kind="volume")
    assert status == 400 and text.startswith("scan.nii: ")
    assert refusal(files["volume"].read_bytes(), kind="volume", plane="oblique")[0] == 400
    assert refusal(bytes(1_100_000), kind="image")[0] == 413
    assert refusal(b"", kind="image")[0] == 400


def test_samples_are_served_from_the_evaluation_data_alone(served: Served) -> None:
    client, files = served
    page = client.get("/ui/samples").json()
    assert page["total"] == 2 and [sample["answer"] for sample in page["samples"]] == ["red", "blue"]
    assert page["samples"][0]["question"] == "Which colour is it?"
    medium = client.get("/ui/samples/0/0")
    assert medium.content == files["image"].read_bytes() and medium.headers["content-type"] == "image/png"
    assert medium.headers["content-security-policy"].startswith("sandbox")
    assert client.get("/ui/samples", params={"offset": 1, "limit": 1}).json()["samples"][0]["index"] == 1
    assert len(client.get("/ui/samples", params={"other": "image"}).json()["samples"]) == 2
    assert client.get("/ui/samples", params={"other": "audio"}).json()["samples"] == []
    for path in ("/ui/samples/2/0", "/ui/samples/0/1", "/ui/samples/-1/0", "/ui/samples/0/-1"):
        assert client.get(path).status_code == 404, path


def test_the_page_is_open_and_its_data_need_the_key(served: Served) -> None:
    client, files = served
    run = files["image"].parents[1] / "run"
    app = create_app(omnivit.load(run, "cpu"), Settings(name="tiny", run=run, api_key="secret"))
    with TestClient(app, base_url="http://elsewhere") as guarded:
        assert guarded.get("/").status_code == guarded.get("/static/main.js").status_code == 200
        assert guarded.get("/ui/samples").status_code == guarded.post("/ui/preview?kind=image").status_code == 401
        assert guarded.get("/ui/samples", headers={"Authorization": "Bearer secret"}).json()["total"] == 2
    assert client.get("/ui/samples", headers={"Host": "attacker.example"}).status_code == 403


def test_samples_that_cannot_be_read_are_explained(tmp_path: Path) -> None:
    run, _ = slots_run(tmp_path / "data")
    recipe = load(run / "recipe.yaml")
    record = {
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": "../secret.png"}, {"type": "text", "text": "?"}]},
            {"role": "assistant", "content": "no"},
        ]
    }
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "data" / "held.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    with pytest.raises(MediaError, match=r"secret\.png"):
        HeldOut(recipe, run).medium(0, 0)
    (tmp_path / "data" / "held.jsonl").unlink()
    assert "cannot be read here" in HeldOut(recipe, run).page(0, 8)["note"]
    recipe.evaluation = None
    assert "no `evaluation`" in HeldOut(recipe, run).page(0, 8)["note"]
