"""Claims of CRVQ (arXiv 2412.09282), steps of its algorithm taken as claims, and rivals' orders.

The sizes and where they were read stand in ``results/reference/published.csv``.
"""

from __future__ import annotations

from functools import partial

from crvq.report.claims.baselines import beats_baselines, better_zero_shot, matches
from crvq.report.claims.choices import (
    finetuning_helps,
    importance_beats_alternatives,
    sorting_helps,
)
from crvq.report.claims.claim import Claim
from crvq.report.claims.critical import (
    as_fast_as_one_codebook,
    critical_channels_help,
    extra_bits_are_few,
    more_beat_larger,
    three_extended_are_best,
    two_percent_suffice,
    works_across_models,
    works_on_stronger_bases,
)
from crvq.report.claims.field import beats

_ABSTRACT = "abstract"
_SECOND_HAND = "secondary sources"
_CODE = "the authors' code"

CLAIMS = (
    Claim(
        "strongest_baseline",
        "38.9 % lower perplexity than the strongest sub-2-bit baseline, at about one bit",
        _ABSTRACT,
        "high",
        "the best CRVQ run below 1.5 bits beats the best run of another method with at most 5 % "
        "more bits than its own (same model, device, calibration, fine-tuning, text) by more than "
        "the noise; in part if by less than 38.9 % and the noise; only CRVQ as published: channels "
        "sorted, codebooks of each linear",
        partial(beats_baselines, claimed=0.389, as_published=True),
    ),
    Claim(
        "strongest_baseline_improved",
        "The same of CRVQ with what this repository adds (order of channels, shared codebooks)",
        "not the paper's",
        "high",
        "as above, any CRVQ run",
        partial(beats_baselines, claimed=0.389, as_published=False),
    ),
    Claim(
        "zero_shot",
        "12.9 % better zero-shot average than the strongest sub-2-bit baseline",
        _SECOND_HAND,
        "medium",
        "as above on zero-shot averages (the mean relative gain), noise 5 % or two standard errors "
        "of the difference",
        partial(better_zero_shot, claimed=0.129),
    ),
    Claim(
        "critical_channels",
        "Extended codebooks for 2 % critical channels lower perplexity",
        _ABSTRACT,
        "high",
        "λ=0.02 is better than λ=0, all else equal, by more than the noise of the mean",
        critical_channels_help,
    ),
    Claim(
        "extra_bits",
        "They cost 0.06 bits per weight",
        _SECOND_HAND,
        "medium",
        "at the paper's layout λ=0.02 costs less than 0.065 bits beyond λ=0, everything counted; "
        "in part if its codes alone do: in larger models codebooks weigh less",
        partial(extra_bits_are_few, claimed=0.06),
    ),
    Claim(
        "two_percent",
        "2 % critical channels are enough",
        _SECOND_HAND,
        "medium",
        "λ=0.02 gains more than the noise on λ=0, and no larger λ gains more than the noise on "
        "λ=0.02; in part if one does, but less for each bit than the first 2 %",
        two_percent_suffice,
    ),
    Claim(
        "three_extended",
        "Three extended codebooks are the best number",
        _SECOND_HAND,
        "medium",
        "three beat every other number by more than the noise; does not hold if another one beats "
        "three by as much",
        three_extended_are_best,
    ),
    Claim(
        "more_than_larger",
        "More extended codebooks are better than larger ones",
        "the authors' ablations",
        "medium",
        "at equal index bits for a critical group, more codebooks are better than larger ones by "
        "more than the noise",
        more_beat_larger,
    ),
    Claim(
        "importance",
        "Error times activation ranks channels better than weights, activations or chance",
        _CODE,
        "medium",
        "better than each alternative by more than the noise; in part if than some; does not hold "
        "if one is better by as much",
        importance_beats_alternatives,
    ),
    Claim(
        "sorting",
        "Sorting all channels by importance helps",
        "Algorithm 1, no number",
        "medium",
        "reorder=sorted is better than the natural order by more than the noise",
        sorting_helps,
    ),
    Claim(
        "block_finetuning",
        "Block fine-tuning lowers perplexity",
        "Algorithm 1, no number",
        "medium",
        "with it perplexity is lower than without, all else equal, by more than the noise",
        partial(finetuning_helps, stage="block", without="none"),
    ),
    Claim(
        "end_to_end_finetuning",
        "End-to-end fine-tuning after it lowers perplexity further",
        _CODE,
        "medium",
        "with it perplexity is lower than with block fine-tuning alone by more than the noise",
        partial(finetuning_helps, stage="block + end to end", without="block"),
    ),
    Claim(
        "stronger_bases",
        "Critical channels also help on top of stronger base quantizers",
        _SECOND_HAND,
        "medium",
        "λ=0.02 is better than λ=0 by more than the noise, on bases of more than one bit of code a "
        "weight, or of indices longer than 8 bits at one bit",
        works_on_stronger_bases,
    ),
    Claim(
        "model_sizes",
        "It works from 125M to 13B parameters",
        _SECOND_HAND,
        "medium",
        "on each of at least two models from 50M weights on λ=0.02 is better than λ=0 by more than "
        "the noise; in part if on some of them, or if their sizes do not span 125M to 13B",
        works_across_models,
    ),
    Claim(
        "speed",
        "No cost in inference speed against one codebook",
        _SECOND_HAND,
        "medium",
        "tokens per second with λ=0.02 are within 5 % of those with λ=0",
        as_fast_as_one_codebook,
    ),
    Claim(
        "onebit",
        "It matches OneBit, which trains the whole model",
        _SECOND_HAND,
        "medium",
        "the best CRVQ run below 1.5 bits is not worse than OneBit by more than the noise",
        partial(matches, method="onebit"),
    ),
    Claim(
        "arb_llm_over_billm",
        "ARB-LLM is better than BiLLM at as many bits",
        "arXiv 2410.03129, and NanoQuant's table of bits all counted",
        "medium",
        "each ARB-LLM run against the BiLLM run nearest in bits (ARB-LLM's at most 15 % more): "
        "better by more than the noise on average",
        partial(beats, better="arb_llm", worse="billm", least=0, most=16),
    ),
    Claim(
        "billm_over_pb_llm",
        "BiLLM is better than PB-LLM at as many bits",
        "arXiv 2402.04291",
        "medium",
        "as above",
        partial(beats, better="billm", worse="pb_llm", least=0, most=16),
    ),
    Claim(
        "ptq161_over_omniquant",
        "PTQ1.61 is better than OmniQuant at 2 bits",
        "arXiv 2502.13179",
        "medium",
        "as above, against OmniQuant of 1.5 to 2.6 bits",
        partial(beats, better="ptq161", worse="omniquant", least=1.5, most=2.6),
    ),
)
