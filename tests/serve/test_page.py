"""The routes of the chat page: files, previews of all kinds, held-out examples; what they refuse."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pypdfium2
import pytest
from medical_files import series
from PIL import Image
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


def part(slot: str, *contents: bytes) -> dict[str, Any]:
    """The content part of a medium of one file or several, as the page sends it."""
    urls = [f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}" for content in contents]
    return {"type": slot, slot: {"url": urls if len(urls) > 1 else urls[0]}}


def shown(client: TestClient, slot: str, *files: Path, **settings: str) -> Any:
    body = part(slot, *(file.read_bytes() for file in files))
    answer = client.post("/ui/preview", params={"name": files[0].name, **settings}, json=body)
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


def test_dicom_files_are_the_slices_of_one_volume(served: Served, tmp_path: Path) -> None:
    client, _ = served
    slices = series(tmp_path, 5)
    result = shown(client, "volume", *slices)
    assert len(result["images"]) == 5 and not result["planes"] and result["note"] == "5 slices"
    assert shown(client, "volume", slices[0])["note"] == "1 slices"
    answer = client.post(
        "/v1/chat/completions",
        json={
            "model": "tiny",
            "max_tokens": 2,
            "messages": [{"role": "user", "content": [part("volume", *(file.read_bytes() for file in slices))]}],
        },
    )
    assert answer.status_code == 200 and answer.json()["usage"]["prompt_tokens_details"]["volume_tokens"] > 0
    other = series(tmp_path / "other", 2)
    mixed = client.post("/ui/preview", json=part("volume", slices[0].read_bytes(), other[0].read_bytes()))
    assert mixed.status_code == 400 and "2 series" in mixed.json()["error"]["message"]


def test_previews_refuse_in_sentences(served: Served) -> None:
    client, files = served

    def refusal(body: Any, **query: str) -> tuple[int, str]:
        answer = client.post("/ui/preview", params={"name": "scan.nii", **query}, json=body)
        return answer.status_code, answer.json()["error"]["message"]

    status, text = refusal(part("smell", b"x"))
    assert status == 400 and "'smell'" in text and "volume" in text
    status, text = refusal(part("volume", b"not a scan"))
    assert status == 400 and text.startswith("scan.nii: ")
    assert refusal(part("volume", files["volume"].read_bytes()), plane="oblique")[0] == 400
    assert refusal(part("image", bytes(1_100_000)))[0] == 413
    assert refusal(part("image", b""))[0] == refusal({"type": "text", "text": "x"})[0] == refusal([])[0] == 400
    status, text = refusal(part("image", b"x", b"y"))
    assert status == 400 and "one file each" in text
    for address in ("http://127.0.0.1/x", "/etc/passwd", "file:///etc/passwd"):
        assert refusal({"type": "image", "image": {"url": address}})[0] == 400, address
        assert refusal({"type": "volume", "volume": {"url": [address, address]}})[0] == 400, address


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
    for path in (
        "/ui/samples/2/0",
        "/ui/samples/0/1",
        "/ui/samples/0/0?file=1",
        "/ui/samples/0/0?file=-1",
        "/ui/samples/-1/0",
        "/ui/samples/0/-1",
    ):
        assert client.get(path).status_code == 404, path


def test_the_page_is_open_and_its_data_need_the_key(served: Served) -> None:
    client, files = served
    run = files["image"].parents[1] / "run"
    app = create_app(omnivit.load(run, "cpu"), Settings(name="tiny", run=run, api_key="secret"))
    with TestClient(app, base_url="http://elsewhere") as guarded:
        assert guarded.get("/").status_code == guarded.get("/static/main.js").status_code == 200
        assert guarded.get("/ui/samples").status_code == guarded.post("/ui/preview").status_code == 401
        assert guarded.get("/ui/samples", headers={"Authorization": "Bearer secret"}).json()["total"] == 2
    assert client.get("/ui/samples", headers={"Host": "attacker.example"}).status_code == 403


def write_records(file: Path, *media: dict[str, Any]) -> None:
    """A record for each of these parts."""
    with file.open("w", encoding="utf-8") as stream:
        for medium in media:
            question = [medium, {"type": "text", "text": "?"}]
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "no"}]
            stream.write(json.dumps({"messages": turns}) + "\n")


def test_samples_have_all_files_of_a_medium_and_only_the_pages_that_it_selects(tmp_path: Path) -> None:
    run, files = slots_run(tmp_path)
    slices = series(tmp_path / "scan", 3)
    document = pypdfium2.PdfDocument.new()
    for side in (100, 200, 300):
        document.new_page(side, side)
    document.save(tmp_path / "book.pdf")
    Image.new("L", (30, 40)).save(tmp_path / "fax.tiff", save_all=True, append_images=[Image.new("L", (50, 40))])
    write_records(
        tmp_path / "held.jsonl",
        {"type": "volume", "volume": "scan"},
        {"type": "volume", "paths": [f"scan/{file.name}" for file in slices[:2]]},
        {"type": "page", "page": "book.pdf#page=3,2"},
        {"type": "page", "page": "fax.tiff#page=2"},
    )
    held_out = HeldOut(load(run / "recipe.yaml"), run)
    names = [sample["media"][0]["files"] for sample in held_out.page(0, 4)["samples"]]
    assert names[0] == sorted(file.name for file in slices) and len(names[1]) == 2
    assert held_out.medium(0, 0, 2).content == (tmp_path / "scan" / names[0][2]).read_bytes()
    pages = pypdfium2.PdfDocument(held_out.medium(2, 0).content)
    assert [page.get_size()[0] for page in pages] == [300, 200]
    assert Image.open(io.BytesIO(held_out.medium(3, 0).content)).size == (50, 40)
    assert files


def test_samples_that_cannot_be_read_are_explained(tmp_path: Path) -> None:
    run, _ = slots_run(tmp_path / "data")
    recipe = load(run / "recipe.yaml")
    (tmp_path / "secret.png").write_bytes(b"secret")
    write_records(tmp_path / "data" / "held.jsonl", {"type": "image", "image": "../secret.png"})
    with pytest.raises(MediaError, match=r"secret\.png"):
        HeldOut(recipe, run).medium(0, 0)
    outside = Path(os.path.relpath(tmp_path, tmp_path / "data")).as_posix()
    write_records(tmp_path / "data" / "held.jsonl", {"type": "volume", "volume": outside})
    assert HeldOut(recipe, run).page(0, 1)["samples"][0]["media"][0]["files"] == []
    (tmp_path / "data" / "held.jsonl").unlink()
    assert "cannot be read here" in HeldOut(recipe, run).page(0, 8)["note"]
    recipe.evaluation = None
    assert "no `evaluation`" in HeldOut(recipe, run).page(0, 8)["note"]
