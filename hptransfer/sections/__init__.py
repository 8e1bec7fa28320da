"""The sections of a run config: strict, frozen, typed. A field's docstring is its description in the JSON Schema."""

from hptransfer.sections.data import DataConfig, Images, PythonSource, Text, Tokens
from hptransfer.sections.models import GPT, MLP, Custom, ModelConfig, ResNet, ViT
from hptransfer.sections.optimizers import SGD, AdamW, Muon, OptimizerConfig
from hptransfer.sections.parametrization import Factors, Parametrization
from hptransfer.sections.schedules import WSD, Constant, Cosine, Linear, ScheduleConfig
from hptransfer.sections.training import Tracking, Train
from hptransfer.sections.values import Count, Section

__all__ = [
    "GPT",
    "MLP",
    "SGD",
    "WSD",
    "AdamW",
    "Constant",
    "Cosine",
    "Count",
    "Custom",
    "DataConfig",
    "Factors",
    "Images",
    "Linear",
    "ModelConfig",
    "Muon",
    "OptimizerConfig",
    "Parametrization",
    "PythonSource",
    "ResNet",
    "ScheduleConfig",
    "Section",
    "Text",
    "Tokens",
    "Tracking",
    "Train",
    "ViT",
]
