"""The door for plugin authors: every name that an encoder, adapter, head, LLM, reader or metric needs.

    from omnivit.plugin import Card, Encoder, Features, Media

Names are imported when they are asked for: this module imports nothing heavy. What it exports changes only with the
contract's version (docs/plugins/contract.md); other modules of `omnivit` may change with any release.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from omnivit import moved

if TYPE_CHECKING:
    from omnivit.contracts.adapter import Adapter as Adapter
    from omnivit.contracts.adapter import FixedLength as FixedLength
    from omnivit.contracts.adapter import Instruction as Instruction
    from omnivit.contracts.adapter import Length as Length
    from omnivit.contracts.adapter import Positions as Positions
    from omnivit.contracts.adapter import same_length as same_length
    from omnivit.contracts.batch import IGNORE as IGNORE
    from omnivit.contracts.batch import Batch as Batch
    from omnivit.contracts.card import Card as Card
    from omnivit.contracts.card import Plugin as Plugin
    from omnivit.contracts.context import Context as Context
    from omnivit.contracts.context import SlotContext as SlotContext
    from omnivit.contracts.encoder import DescribingProcessor as DescribingProcessor
    from omnivit.contracts.encoder import Encoder as Encoder
    from omnivit.contracts.encoder import FittingProcessor as FittingProcessor
    from omnivit.contracts.encoder import GridProcessor as GridProcessor
    from omnivit.contracts.encoder import PrefacingProcessor as PrefacingProcessor
    from omnivit.contracts.encoder import Processor as Processor
    from omnivit.contracts.encoder import layout_of as layout_of
    from omnivit.contracts.examples import AdapterExample as AdapterExample
    from omnivit.contracts.examples import EncoderExample as EncoderExample
    from omnivit.contracts.examples import HeadExample as HeadExample
    from omnivit.contracts.examples import LLMExample as LLMExample
    from omnivit.contracts.examples import MetricExample as MetricExample
    from omnivit.contracts.examples import ReaderExample as ReaderExample
    from omnivit.contracts.features import Features as Features
    from omnivit.contracts.features import Layout as Layout
    from omnivit.contracts.features import joined as joined
    from omnivit.contracts.features import places_of as places_of
    from omnivit.contracts.fit import Fit as Fit
    from omnivit.contracts.generate import generate_anew as generate_anew
    from omnivit.contracts.generate import stopping as stopping
    from omnivit.contracts.head import Head as Head
    from omnivit.contracts.head import HeadOutput as HeadOutput
    from omnivit.contracts.head import TargetProcessor as TargetProcessor
    from omnivit.contracts.llm import LanguageModel as LanguageModel
    from omnivit.contracts.llm import LMOutput as LMOutput
    from omnivit.contracts.media import MediaFacts as MediaFacts
    from omnivit.contracts.metric import Interval as Interval
    from omnivit.contracts.metric import Metric as Metric
    from omnivit.contracts.nested import build_adapter as build_adapter
    from omnivit.contracts.nested import build_encoder as build_encoder
    from omnivit.contracts.nested import configure_encoder as configure_encoder
    from omnivit.contracts.patching import Layer as Layer
    from omnivit.contracts.patching import Patching as Patching
    from omnivit.contracts.reader import Places as Places
    from omnivit.contracts.reader import Reader as Reader
    from omnivit.contracts.sample import Boxes as Boxes
    from omnivit.contracts.sample import Frames as Frames
    from omnivit.contracts.sample import Media as Media
    from omnivit.contracts.sample import Message as Message
    from omnivit.contracts.sample import Part as Part
    from omnivit.contracts.sample import Points as Points
    from omnivit.contracts.sample import Prompt as Prompt
    from omnivit.contracts.sample import Role as Role
    from omnivit.contracts.sample import Sample as Sample
    from omnivit.contracts.sample import Target as Target
    from omnivit.contracts.sample import Text as Text
    from omnivit.contracts.sample import Token as Token
    from omnivit.contracts.views import EncoderView as EncoderView
    from omnivit.contracts.views import ViewableEncoder as ViewableEncoder
    from omnivit.data.chat import Chat as Chat
    from omnivit.data.containers.base import RecordOptions as RecordOptions
    from omnivit.data.containers.base import Records as Records
    from omnivit.data.head_targets import Numbers as Numbers
    from omnivit.data.readers import MEDIA_LISTS as MEDIA_LISTS
    from omnivit.data.readers import JsonReader as JsonReader
    from omnivit.data.readers import RecordReader as RecordReader
    from omnivit.data.readers import written_example as written_example
    from omnivit.data.records import values as values
    from omnivit.data.records.llava import llava_messages as llava_messages
    from omnivit.data.records.typed import typed_messages as typed_messages
    from omnivit.errors import DataError as DataError
    from omnivit.errors import LibraryError as LibraryError
    from omnivit.errors import MediaError as MediaError
    from omnivit.errors import OmniVitError as OmniVitError
    from omnivit.errors import PluginError as PluginError
    from omnivit.errors import RecipeError as RecipeError
    from omnivit.errors import suggest as suggest
    from omnivit.evaluate.intervals import bootstrap as bootstrap
    from omnivit.evaluate.intervals import mean_interval as mean_interval
    from omnivit.media import synthetic as synthetic
    from omnivit.media.arrays import Stored as Stored
    from omnivit.media.arrays import list_arrays as list_arrays
    from omnivit.media.arrays import read_array as read_array
    from omnivit.media.arrays import read_table as read_table
    from omnivit.media.audio import read_audio as read_audio
    from omnivit.media.images import open_image as open_image
    from omnivit.media.locate import folder_files as folder_files
    from omnivit.media.locate import read_bytes as read_bytes
    from omnivit.media.locate import resolve as resolve
    from omnivit.media.pages import read_pages as read_pages
    from omnivit.media.points.read import PointCloud as PointCloud
    from omnivit.media.points.read import read_points as read_points
    from omnivit.media.video.read import Sampling as Sampling
    from omnivit.media.video.read import Video as Video
    from omnivit.media.video.read import read_frames as read_frames
    from omnivit.media.volume.read import read_volume as read_volume
    from omnivit.model.images import encode_images as encode_images
    from omnivit.model.images import layout_of_images as layout_of_images
    from omnivit.model.images import prepare_images as prepare_images
    from omnivit.model.new_tokens import NewTokens as NewTokens
    from omnivit.model.new_tokens import add_to_tokenizer as add_to_tokenizer
    from omnivit.model.patching import change as change
    from omnivit.model.patching import chosen as chosen
    from omnivit.model.patching import copy_of as copy_of
    from omnivit.model.precision import torch_dtype as torch_dtype
    from omnivit.model.pretrained import explained as explained
    from omnivit.model.pretrained import load_pretrained as load_pretrained
    from omnivit.model.pretrained import processor_fingerprint as processor_fingerprint
    from omnivit.model.projector import read_projector as read_projector
    from omnivit.model.tokens import read_tokenizer as read_tokenizer
    from omnivit.model.weights import load_strictly as load_strictly
    from omnivit.model.weights import locate as locate
    from omnivit.model.weights import read_state as read_state
    from omnivit.model.weights import require_weights as require_weights

_HOME = {
    "omnivit.contracts.adapter": (
        "Adapter",
        "FixedLength",
        "Instruction",
        "Length",
        "Positions",
        "same_length",
    ),
    "omnivit.contracts.batch": (
        "Batch",
        "IGNORE",
    ),
    "omnivit.contracts.card": (
        "Card",
        "Plugin",
    ),
    "omnivit.contracts.context": (
        "Context",
        "SlotContext",
    ),
    "omnivit.contracts.encoder": (
        "Encoder",
        "FittingProcessor",
        "GridProcessor",
        "DescribingProcessor",
        "PrefacingProcessor",
        "Processor",
        "layout_of",
    ),
    "omnivit.contracts.examples": (
        "AdapterExample",
        "EncoderExample",
        "HeadExample",
        "LLMExample",
        "MetricExample",
        "ReaderExample",
    ),
    "omnivit.contracts.features": (
        "Features",
        "Layout",
        "joined",
        "places_of",
    ),
    "omnivit.contracts.fit": ("Fit",),
    "omnivit.contracts.generate": (
        "generate_anew",
        "stopping",
    ),
    "omnivit.contracts.head": (
        "Head",
        "HeadOutput",
        "TargetProcessor",
    ),
    "omnivit.contracts.llm": (
        "LMOutput",
        "LanguageModel",
    ),
    "omnivit.contracts.media": ("MediaFacts",),
    "omnivit.contracts.metric": (
        "Interval",
        "Metric",
    ),
    "omnivit.contracts.nested": (
        "build_adapter",
        "build_encoder",
        "configure_encoder",
    ),
    "omnivit.contracts.patching": (
        "Layer",
        "Patching",
    ),
    "omnivit.contracts.reader": (
        "Places",
        "Reader",
    ),
    "omnivit.contracts.sample": (
        "Boxes",
        "Frames",
        "Media",
        "Message",
        "Part",
        "Points",
        "Prompt",
        "Role",
        "Sample",
        "Target",
        "Text",
        "Token",
    ),
    "omnivit.contracts.views": (
        "EncoderView",
        "ViewableEncoder",
    ),
    "omnivit.data.chat": ("Chat",),
    "omnivit.data.containers.base": (
        "RecordOptions",
        "Records",
    ),
    "omnivit.data.readers": (
        "JsonReader",
        "MEDIA_LISTS",
        "RecordReader",
        "written_example",
    ),
    "omnivit.data.records.llava": ("llava_messages",),
    "omnivit.data.records.typed": ("typed_messages",),
    "omnivit.data.head_targets": ("Numbers",),
    "omnivit.errors": (
        "DataError",
        "LibraryError",
        "MediaError",
        "OmniVitError",
        "PluginError",
        "RecipeError",
        "suggest",
    ),
    "omnivit.evaluate.intervals": (
        "bootstrap",
        "mean_interval",
    ),
    "omnivit.media.arrays": (
        "Stored",
        "list_arrays",
        "read_array",
        "read_table",
    ),
    "omnivit.media.audio": ("read_audio",),
    "omnivit.media.images": ("open_image",),
    "omnivit.media.locate": (
        "folder_files",
        "read_bytes",
        "resolve",
    ),
    "omnivit.media.pages": ("read_pages",),
    "omnivit.media.points.read": (
        "PointCloud",
        "read_points",
    ),
    "omnivit.media.video.read": (
        "Video",
        "Sampling",
        "read_frames",
    ),
    "omnivit.media.volume.read": ("read_volume",),
    "omnivit.model.images": (
        "encode_images",
        "layout_of_images",
        "prepare_images",
    ),
    "omnivit.model.new_tokens": (
        "NewTokens",
        "add_to_tokenizer",
    ),
    "omnivit.model.patching": (
        "change",
        "chosen",
        "copy_of",
    ),
    "omnivit.model.precision": ("torch_dtype",),
    "omnivit.model.pretrained": (
        "explained",
        "load_pretrained",
        "processor_fingerprint",
    ),
    "omnivit.model.projector": ("read_projector",),
    "omnivit.model.tokens": ("read_tokenizer",),
    "omnivit.model.weights": (
        "load_strictly",
        "locate",
        "read_state",
        "require_weights",
    ),
}
"""Module -> what it exports through the door."""
MODULES = {"synthetic": "omnivit.media.synthetic", "values": "omnivit.data.records.values"}
"""Modules that are exported whole."""
HOME = {name: module for module, names in _HOME.items() for name in names}
"""Name -> the module that defines it."""


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return importlib.import_module(MODULES[name])
    if name not in HOME:
        return moved.renamed(__name__, name)
    return getattr(importlib.import_module(HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*HOME, *MODULES])
