"""The methods of this package: where each is, and what is known of it before it is imported.

Methods import torch, which takes seconds. A command line is checked, and its configuration
printed, from this list alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from crvq.config.strict import StrictModel
from crvq.methods.baseline_params import (
    AqlmParams,
    BillmParams,
    FullPrecisionParams,
    GptqParams,
    GptvqParams,
    PbLlmParams,
    RtnParams,
)
from crvq.methods.binary_params import ArbLlmParams, Fairy2iParams, NanoQuantParams, OneBitParams
from crvq.methods.crvq_params import CrvqParams
from crvq.methods.scalar_params import GqsaParams, ObcParams, OmniquantParams, SqueezeLlmParams
from crvq.methods.ternary_params import Pt2LlmParams, PtqtpParams
from crvq.methods.vector_params import QtipParams, VptqParams


@dataclass(frozen=True)
class CatalogEntry:
    """One method: its module registers a class under the method's name when it is imported.

    Registration refuses a class that disagrees with its entry.
    """

    module: str
    params: type[StrictModel]
    quantizes: bool = True
    """False for a method that leaves every weight alone."""
    fits_budget: bool = True
    """Whether the method has a rule for bit budgets (``fit_budget``)."""


CATALOG = {
    "aqlm": CatalogEntry("crvq.methods.aqlm", AqlmParams),
    "arb_llm": CatalogEntry("crvq.methods.arb_llm", ArbLlmParams),
    "billm": CatalogEntry("crvq.methods.billm", BillmParams),
    "crvq": CatalogEntry("crvq.methods.crvq", CrvqParams),
    "fairy2i": CatalogEntry("crvq.methods.fairy2i", Fairy2iParams),
    "full_precision": CatalogEntry(
        "crvq.methods.full_precision", FullPrecisionParams, quantizes=False, fits_budget=False
    ),
    "gptq": CatalogEntry("crvq.methods.gptq", GptqParams),
    "gptvq": CatalogEntry("crvq.methods.gptvq", GptvqParams),
    "gqsa": CatalogEntry("crvq.methods.gqsa", GqsaParams),
    "nanoquant": CatalogEntry("crvq.methods.nanoquant", NanoQuantParams),
    "obc": CatalogEntry("crvq.methods.obc", ObcParams),
    "omniquant": CatalogEntry("crvq.methods.omniquant", OmniquantParams),
    "onebit": CatalogEntry("crvq.methods.onebit", OneBitParams),
    "pb_llm": CatalogEntry("crvq.methods.pb_llm", PbLlmParams),
    "pt2_llm": CatalogEntry("crvq.methods.pt2_llm", Pt2LlmParams),
    "ptqtp": CatalogEntry("crvq.methods.ptqtp", PtqtpParams),
    "qtip": CatalogEntry("crvq.methods.qtip", QtipParams),
    "rtn": CatalogEntry("crvq.methods.rtn", RtnParams),
    "squeezellm": CatalogEntry("crvq.methods.squeezellm", SqueezeLlmParams),
    "vptq": CatalogEntry("crvq.methods.vptq", VptqParams),
}
