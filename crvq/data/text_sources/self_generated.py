"""Text of the model's own making, for when there is no data to calibrate on.

(LLM-QAT, arXiv 2305.17888, section 3.1, distils a model on what it writes itself. There the first
tokens of a text are the likeliest ones; here only the very first one is given, drawn at random.)
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
import transformers

from crvq.config.calibration import CalibrationConfig
from crvq.config.text import TextConfig
from crvq.data.documents import Documents
from crvq.data.registry import text_source
from crvq.errors import ConfigError
from crvq.files.digests import DamagedFileError, read_digested_json
from crvq.models.digest import model_digest, tokenizer_digest
from crvq.models.load import LoadedModel, context_limit
from crvq.models.precision import compute_kind, resolve_activation_dtype
from crvq.models.sampling import sample_tokens
from crvq.sources.cache import remember

# Texts that are written side by side: more would take more memory for keys and values.
_SIDE_BY_SIDE = 32
# A text read and tokenized again may come to a few tokens less.
_MARGIN = 1.1


@text_source("self_generated", needs_model=True)
def load(config: TextConfig, cache: Path, loaded: LoadedModel) -> Documents:
    """``max_documents`` texts of about ``calibration.length`` tokens, sampled once and kept.

    Without ``max_documents`` there are enough for ``samples`` windows (the pipeline asks for those
    of fine-tuning too). The draws follow ``shuffle_seed``.

    Raises:
        ConfigError: asked for as evaluation text.
    """
    if not isinstance(config, CalibrationConfig):
        raise ConfigError(
            "source=self_generated is text to calibrate on, not to evaluate on: a model's own text "
            "says nothing of how well it reads others'"
        )
    limit = context_limit(loaded.model)
    length = min(int(config.length * _MARGIN) + 1, limit or config.length * 2)
    count = config.max_documents or -(-int(config.samples * config.length * _MARGIN) // length)
    seed = config.shuffle_seed or 0
    device = next(loaded.model.parameters()).device
    dtype = resolve_activation_dtype("auto", device, next(loaded.model.parameters()).dtype)
    made_from = [model_digest(loaded.model), tokenizer_digest(loaded.tokenizer), length, count]
    made_from += [seed, _SIDE_BY_SIDE, str(dtype), compute_kind(device)]
    made_from += [torch.__version__, transformers.__version__]
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]
    file = cache / "self_generated" / f"{key}.json"
    try:
        texts = read_digested_json(file)
    except (FileNotFoundError, DamagedFileError):
        texts = _written(loaded, length, count, seed, dtype)
        remember(file, texts)
    description = f"{count} texts of {length} tokens by {loaded.description} itself, seed {seed}"
    return Documents(texts, description, config.separator)


def _written(
    loaded: LoadedModel, length: int, count: int, seed: int, dtype: torch.dtype
) -> list[str]:
    """Return the texts, ``_SIDE_BY_SIDE`` at a time."""
    tokenizer = loaded.tokenizer
    forbidden = torch.tensor(sorted(tokenizer.all_special_ids), dtype=torch.int64)
    vocabulary = int(loaded.model.config.get_text_config().vocab_size)
    known = min(vocabulary, len(tokenizer))
    # Rows of the embedding that stand for no token at all must not be drawn either.
    forbidden = torch.cat([forbidden, torch.arange(known, vocabulary)])
    allowed = torch.ones(vocabulary, dtype=torch.bool)
    allowed[forbidden] = False
    generator = torch.Generator().manual_seed(seed)
    choices = allowed.nonzero()[:, 0]
    first = choices[torch.randint(len(choices), (count, 1), generator=generator)]
    texts: list[str] = []
    for number, part in enumerate(first.split(_SIDE_BY_SIDE)):
        tokens = sample_tokens(loaded.model, part, length, seed + number, dtype, forbidden)
        texts += tokenizer.batch_decode(tokens)
    return texts
