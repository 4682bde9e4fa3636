"""`causal`: any Hugging Face causal LM as the shared LLM.

It is held as `hf`, so parameter paths are `llm.hf.model.layers.0.self_attn.q_proj.weight`.

Shapes: B samples, T tokens, D LLM width, N kept tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, StoppingCriteriaList

from omnivit.contracts.card import Card
from omnivit.contracts.context import Context
from omnivit.contracts.decoding import Decoding
from omnivit.contracts.examples import LLMExample
from omnivit.contracts.generate import generate_anew, stopping
from omnivit.contracts.llm import LanguageModel, LMOutput
from omnivit.data.chat import Chat
from omnivit.errors import RecipeError, suggest
from omnivit.model.arguments import accepted, checked_generation, takes_cache, takes_positions
from omnivit.model.decoding import rows_of
from omnivit.model.hf_tower import require_one_source
from omnivit.model.lora import Lora, add_lora
from omnivit.model.new_tokens import NewTokens, add_to_tokenizer
from omnivit.model.patching import LayerPatching, find_layers
from omnivit.model.precision import torch_dtype
from omnivit.model.pretrained import explained, load_pretrained
from omnivit.model.segments import NAME as SEGMENTS
from omnivit.model.segments import attention_arguments, packing_problem
from omnivit.model.tokens import BYTES, byte_tokenizer
from omnivit.model.weights import convert_gguf, converted_gguf, is_gguf, locate, require, require_weights
from omnivit.recipe.schema import ChatTemplate


@dataclass
class CausalConfig:
    """Options of `causal`. Set either `path` or `config`."""

    path: str | None = None
    """Pretrained weights: a hub id, a folder, a GGUF file, or `pkg:NAME/FILE` for a file in an installed package."""
    config: dict[str, Any] | None = None
    """Random weights instead: the settings of a transformers config, such as {model_type: llama, ...}."""
    tokenizer: str | None = None
    """Path of the tokenizer; default: that of the weights. `bytes` is a byte-level tokenizer that needs no file."""
    template: str | ChatTemplate | None = None
    """Chat template: a name such as `vicuna_v1` or `chatml`, Jinja, or a block with `jinja`, `end` and `bos`; default:
    the tokenizer's own."""
    placeholders: dict[str, str] = field(default_factory=dict)
    """Slot -> the text that the chat template of an imported checkpoint writes for a medium, such as
    {image: "<image>"}."""
    add_special_tokens: bool = False
    """Put the tokenizer's BOS token before the conversation, as some imported checkpoints expect."""
    tokens: list[str] = field(default_factory=list)
    """New tokens, such as `<answer>`, that the template writes, and that data write as parts of type `token`. Train
    them by `llm.tokens.*`."""
    ends: list[str] = field(default_factory=list)
    """Tokens that end an answer, besides the tokenizer's EOS and the end of the template's turns."""
    dtype: Literal["float32", "bfloat16", "float16", "auto", "fastest"] = "float32"
    """Data type of the weights. `auto`: that of the checkpoint. `fastest`: bfloat16 where this machine computes clearly
    faster in it, else float32."""
    attention: str | None = None
    """Attention implementation of transformers: `sdpa`, `eager`, `flash_attention_2`, ...; default: chosen by
    transformers."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, which needs less memory and about a third more time."""
    lora: Lora | None = None
    """Train LoRA or DoRA on chosen modules."""
    quantize: Literal["nf4", "int8"] | None = None
    """Load the weights in 4 or 8 bits by bitsandbytes; together with `lora` this is QLoRA."""
    trust_remote_code: bool = False
    """Run the Python code of the checkpoint. Set it only if you trust its author."""

    def __post_init__(self) -> None:
        require_one_source(self.path, self.config, "llama")
        if self.config is not None and self.tokenizer is None:
            raise ValueError("A model with random weights (`config`) needs a `tokenizer`; `bytes` needs no file.")
        if self.quantize and self.path is None:
            raise ValueError("`quantize` needs pretrained weights: set `path`.")


class CausalLM(LanguageModel):
    """Built without weights where `path` names them (on the meta device); `load` fills them in.

    Attributes:
        config: the options in the recipe.
        hf: the transformers model.
        tokens: embeddings of the tokens that the recipe and its heads added; None where they added none.
        width: D.
        context: most tokens that it attends to; None where its config names no limit.
    """

    Config = CausalConfig
    contract = 1
    keeps_by_index = True
    card = Card(weights="those of the checkpoint that `path` names, by its own licence")

    def __init__(self, config: CausalConfig) -> None:
        """Raises RecipeError where the model cannot be found or built, PluginError where a package is missing."""
        super().__init__()
        self.config = config
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._patching: LayerPatching | None = None
        self._unpacked = "sdpa"
        self.tokens: NewTokens | None = None
        self.content_tokens = tuple(config.tokens)
        settings = self._settings()
        if config.path is None:
            self._adopt(self._random(settings))
        else:
            require_weights(config.path)
            with torch.device("meta"):
                self._adopt(self._random(settings))

    @classmethod
    def example(cls, folder: Path) -> LLMExample:
        """A Llama of two layers of 32 numbers, over bytes."""
        del folder
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        return LLMExample({"tokenizer": BYTES, "config": {"model_type": "llama", "num_key_value_heads": 2, **sizes}})

    def load(self) -> None:
        """Load the weights of `path`, to the CPU (quantized ones to the current GPU, if there is one)."""
        config = self.config
        if config.path is None:
            return
        place = self._place(convert=True)
        options: dict[str, Any] = self._options() | self._remote() | _quantization(config)
        model = load_pretrained(AutoModelForCausalLM, place, f"llm.path {config.path!r}", **options)
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                # else bitsandbytes repacks 4-bit weights in eval() on a CPU, and later gradients end there in silence
                module.support_avx512bf16_for_cpu = False
        self._adopt(model)

    def add_peft(self) -> None:
        """Add LoRA where the recipe asks for it, then what adapters change. Raises RecipeError for a target that
        matches nothing."""
        if self.config.lora is not None:
            add_lora(self.hf, self.hf.get_output_embeddings(), self.config.lora)
        if self._patching is not None:
            self._patching.apply()

    def add_tokens(self, texts: Sequence[str]) -> None:
        """Make each text one token, with a row of its own beside those of the model (`llm.tokens.*`).

        Raises RecipeError where the model's tables are quantized."""
        if ids := add_to_tokenizer(self.tokenizer(), texts):
            self.tokens = NewTokens(self.hf.get_input_embeddings(), self.hf.get_output_embeddings(), ids)

    @property
    def patching(self) -> LayerPatching:
        """The decoder layers, to be changed. Raises RecipeError where the architecture is not understood."""
        if self._patching is None:
            self._patching = LayerPatching(self.hf, find_layers(self.hf))
        return self._patching

    def changed_by(self) -> list[str]:
        """The adapters in the recipe that change layers; each as `model.inputs.image.adapter (prefix)`."""
        return [] if self._patching is None else self._patching.places

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer. Raises RecipeError where it has none, or more tokens than the model has embeddings."""
        if self._tokenizer is None:
            self._tokenizer = self._find_tokenizer()
            rows = self.hf.get_input_embeddings().num_embeddings
            if len(self._tokenizer) > rows:
                raise RecipeError(
                    f"llm: the tokenizer has {len(self._tokenizer)} tokens, but the model has only {rows} embeddings. "
                    f"Use the tokenizer that the model was trained with, or a larger `config.vocab_size`."
                )
        return self._tokenizer

    def chat(self, template: str | ChatTemplate | None = None) -> Chat:
        """The chat encoder; `template` overrides the recipe's."""
        config = self.config
        return Chat(
            self.tokenizer(),
            template or config.template,
            config.placeholders,
            config.add_special_tokens,
            content=config.tokens,
            ends=config.ends,
        )

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [B, T] -> input embeddings [B, T, D]."""
        embeds: Tensor = self.hf.get_input_embeddings()(ids)
        return embeds

    def embedding(self) -> Tensor:
        """The table of input embeddings [V, D]."""
        table: Tensor = self.hf.get_input_embeddings().weight
        return table

    def forward(
        self,
        embeds: Tensor,
        mask: Tensor,
        positions: Tensor,
        keep: Tensor,
        context: Context | None = None,
        states: bool = False,
    ) -> LMOutput:
        """Embeddings [B, T, D], mask [B, T] bool, positions [B, T] -> logits [N, V] of the tokens in `keep`.

        `keep` is [B, T] bool, or [N] indices into [B * T]. States, where asked for, are those that enter the output
        head.
        """
        attention, positions, more = attention_arguments(mask, positions, context)
        seen: list[Tensor] = []

        def gather(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            seen.append(inputs[0])
            kept = inputs[0][keep] if keep.dtype == torch.bool else inputs[0].flatten(0, 1)[keep]
            return (kept[None], *inputs[1:])

        hook = self.hf.get_output_embeddings().register_forward_pre_hook(gather)
        try:
            options = accepted(self.hf, inputs_embeds=embeds, attention_mask=attention, **self._positions(positions))
            with self._telling(context):
                logits = self.hf(use_cache=False, **options, **more).logits
        finally:
            hook.remove()
        return LMOutput(logits[0], seen[0] if states else None)

    def generate(
        self, embeds: Tensor, mask: Tensor, positions: Tensor, context: Context | None = None, **options: Any
    ) -> Tensor:
        """Continue left-padded prompts [B, T, D]; returns the new token ids [B, new]. Options as `transformers`'.

        Without a cache (`use_cache=False`, or an architecture that has none) the whole sequence is computed again for
        each token: `transformers` would continue from the new tokens alone, because it passes embeddings only once.

        Raises:
            RecipeError: `prefill_chunk_size`, which `transformers` has for ids alone, or options that go with a cache.
            LibraryError: `transformers` calls the model with arguments that are not understood.
        """
        if options.get("prefill_chunk_size"):
            raise RecipeError(
                "prefill_chunk_size is not available: prompts are embeddings, which `transformers` cannot process in "
                "chunks."
            )
        if options.get("pad_token_id") is None:
            options["pad_token_id"] = self.tokenizer().pad_token_id
        if not options.pop("use_cache", True) or not takes_cache(self.hf):
            return generate_anew(self, embeds, mask, positions, context, **options)
        if stop := options.pop("stop", ()):  # only then: a model without a tokenizer generates too
            criteria = [*options.get("stopping_criteria", ()), stopping(self.tokenizer(), stop)]
            options["stopping_criteria"] = StoppingCriteriaList(criteria)
        prompts = accepted(self.hf, inputs_embeds=embeds, attention_mask=mask.long(), **self._positions(positions))
        with self._telling(context), checked_generation(self.hf, positions):
            ids: Tensor = self.hf.generate(use_cache=True, **prompts, **options)
        return ids

    def stored_dtype(self) -> torch.dtype | None:
        """The dtype in which `path` holds the weights, as its config says; None where it says none."""
        stored = getattr(self._settings(), "dtype", None)
        return stored if isinstance(stored, torch.dtype) else None

    def decoding(self) -> Decoding | None:
        """Requests that join and leave while others run; None where adapters changed the layers, and for models whose
        samples may depend on each other."""
        if self._patching is not None and self._patching.changes:
            return None
        return rows_of(self, self.hf, self._positions) if takes_cache(self.hf) else None

    def packing_problem(self, longest: int) -> str:
        """Empty for models whose attention can be cut at the borders of samples."""
        return packing_problem(self.hf, longest)

    def pack(self, packed: bool) -> None:
        """Replace the attention of the model, or put it back."""
        if packed:
            self._unpacked = self.hf.config.get_text_config()._attn_implementation
        self.hf.set_attn_implementation(SEGMENTS if packed else self._unpacked)

    def _telling(self, context: Context | None) -> AbstractContextManager[None]:
        return nullcontext() if self._patching is None else self._patching.telling(context)

    def _adopt(self, model: Any) -> None:
        """Use this transformers model from now on: check what is needed of it, and set it up."""
        if model.get_output_embeddings() is None:
            raise RecipeError(f"llm: {type(model).__name__} has no output head over a vocabulary. Use a causal LM.")
        if self.config.gradient_checkpointing:
            old = model.gradient_checkpointing_enable  # deprecated by the newer name
            getattr(model, "activation_checkpointing_enable", old)({"use_reentrant": False})
        self.hf = model
        self._patching = None
        self.width = int(model.get_input_embeddings().embedding_dim)
        self.context: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._takes_positions = takes_positions(model)

    def _positions(self, positions: Tensor) -> dict[str, Tensor]:
        """Models without position embeddings take no positions."""
        return {"position_ids": positions} if self._takes_positions else {}

    def _settings(self) -> Any:
        """The transformers config, weights unread."""
        config = self.config
        if config.config is not None:
            return _config_from(config.config, byte_tokenizer() if config.tokenizer == BYTES else None)
        place = self._place()
        where = {"pretrained_model_name_or_path": place}
        if is_gguf(place):
            require("gguf", "accelerate", extra="gguf", purpose=f"to read {config.path}")
            where = {"pretrained_model_name_or_path": place.parent, "gguf_file": place.name}  # type: ignore[union-attr]
        with explained(f"llm.path {config.path!r}: the model config cannot be read"):
            return AutoConfig.from_pretrained(**where, **self._remote())

    def _random(self, settings: Any) -> Any:
        with explained(f"llm: a causal LM of type {settings.model_type!r} cannot be built"):
            options = self._options() | self._remote()
            if options["dtype"] == "auto":  # from_config, unlike from_pretrained, takes the config's when told none
                del options["dtype"]
            return AutoModelForCausalLM.from_config(settings, **options)  # type: ignore[no-untyped-call]

    def _find_tokenizer(self) -> PreTrainedTokenizerBase:
        config = self.config
        if config.tokenizer == BYTES:
            return byte_tokenizer()
        place = self._place() if config.tokenizer is None else _located(config.tokenizer, convert=False)
        where: dict[str, Any] = {"pretrained_model_name_or_path": place}
        if is_gguf(place):
            where = {"pretrained_model_name_or_path": place.parent, "gguf_file": place.name}  # type: ignore[union-attr]
        with explained(f"llm: the tokenizer cannot be read from {place}"):
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**where, **self._remote())
            return tokenizer

    def _place(self, convert: bool = False) -> Path | str:
        """The place of `path`; for a GGUF file its converted folder, once there is one."""
        assert self.config.path is not None
        return _located(self.config.path, convert)

    def _options(self) -> dict[str, Any]:
        """How to build: weights' dtype and attention."""
        name = self.config.dtype
        options: dict[str, Any] = {"dtype": name if name == "auto" else torch_dtype(name)}
        return options | ({"attn_implementation": self.config.attention} if self.config.attention else {})

    def _remote(self) -> dict[str, Any]:
        return {"trust_remote_code": self.config.trust_remote_code}


def _located(path: str, convert: bool) -> Path | str:
    place = locate(path)
    if isinstance(place, str) or not is_gguf(place):
        return place
    if convert:
        return convert_gguf(place)
    folder = converted_gguf(place)
    return folder if folder.is_dir() else place


def _config_from(options: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None) -> Any:
    """A transformers config from a recipe's mapping. Unknown keys, which transformers would take, are refused."""
    values = dict(options)
    kind = values.pop("model_type")
    if tokenizer is not None:
        size = values.setdefault("vocab_size", len(tokenizer))
        for name in ("pad_token_id", "eos_token_id", "bos_token_id") if size >= len(tokenizer) else ():
            values.setdefault(name, getattr(tokenizer, name))
    with explained(f"llm.config: no config can be created from {dict(options)}"):
        known = _known_settings(AutoConfig.for_model(kind))
        for name in values:
            if name not in known:
                raise RecipeError(f"llm.config.{name}: {kind} has no such setting; {suggest(name, known)}")
        return AutoConfig.for_model(kind, **values)


def _known_settings(config: Any) -> set[str]:
    parameters = inspect.signature(type(config).__init__).parameters
    return {*config.to_dict(), *config.attribute_map, *parameters, "rope_theta", "rope_scaling"}


def _quantization(config: CausalConfig) -> dict[str, Any]:
    if config.quantize is None:
        return {}
    require("bitsandbytes", "accelerate", extra="qlora", purpose=f"for `quantize: {config.quantize}`")
    from transformers import BitsAndBytesConfig

    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    settings: dict[str, Any] = {"load_in_8bit": True}
    if config.quantize == "nf4":
        compute = torch.bfloat16 if config.dtype == "auto" else torch_dtype(config.dtype)
        settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        settings["bnb_4bit_compute_dtype"] = compute
    quantization = BitsAndBytesConfig(**settings)  # type: ignore[no-untyped-call]
    return {"quantization_config": quantization, "device_map": {"": device}}
