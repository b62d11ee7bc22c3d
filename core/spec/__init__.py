"""What a job may ask for: bits, method, export. One definition for the API, the database and core.

Frozen dataclasses that pydantic validates: unknown options are refused, integers are strict
(`true` is not 1), and each number's bounds stand in its type. Free of torch, so that the API may
import it.
"""

from core.spec.bits import AnyBits, BitSpec, LayerBits
from core.spec.budget import Budget
from core.spec.export import ANY_GRID, PROFILES, AnyExport, ExportConfig, GridStyle, Profile
from core.spec.fast import FastConfig
from core.spec.fields import Count, Mean, Start, Std
from core.spec.gdfq import GDFQ_PRESETS, GdfqConfig, GdfqSettings
from core.spec.job import Limits, QuantizationSpec
from core.spec.methods import METHOD_CONFIGS, AnyMethod, MethodConfig
from core.spec.minmax import MinMaxConfig
from core.spec.network import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MAX_CLASS_NAME,
    MAX_CLASSES,
    ClassNames,
    NetworkSpec,
)
from core.spec.zaq import ZAQ_PRESETS, ZaqConfig, ZaqSettings
from core.spec.zeroq import ZEROQ_PRESETS, ZeroqConfig, ZeroqSettings

__all__ = [
    "ANY_GRID",
    "GDFQ_PRESETS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "MAX_CLASSES",
    "MAX_CLASS_NAME",
    "METHOD_CONFIGS",
    "PROFILES",
    "ZAQ_PRESETS",
    "ZEROQ_PRESETS",
    "AnyBits",
    "AnyExport",
    "AnyMethod",
    "BitSpec",
    "Budget",
    "ClassNames",
    "Count",
    "ExportConfig",
    "FastConfig",
    "GdfqConfig",
    "GdfqSettings",
    "GridStyle",
    "LayerBits",
    "Limits",
    "Mean",
    "MethodConfig",
    "MinMaxConfig",
    "NetworkSpec",
    "Profile",
    "QuantizationSpec",
    "Start",
    "Std",
    "ZaqConfig",
    "ZaqSettings",
    "ZeroqConfig",
    "ZeroqSettings",
]
