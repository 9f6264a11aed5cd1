"""Byte-level BPE tokenizer of the tiny checkpoints, in the published Qwen files' form."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tiny_families import END_OF_TEXT, Tokens
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

# Qwen2's pre-tokenization: contractions, words with one leading mark, single digits, punctuation, spaces.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterable[str], entries: int) -> Tokenizer:
    """Byte-level BPE of exactly ``entries`` entries, none of them special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(vocab_size=entries, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    assert tokenizer.get_vocab_size() == entries
    return tokenizer


def text_entries(file: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json without the entries that were added to those for text."""
    values = json.loads(file.read_text(encoding="utf-8"))
    return Tokenizer.from_str(json.dumps({**values, "added_tokens": []}))


def add_tokens(tokenizer: Tokenizer, tokens: Tokens) -> None:
    """Append a family's own entries, the special ones first."""
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in tokens.special])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens.visible])


def write_tokenizer(tokenizer: Tokenizer, folder: Path, tokens: Tokens, context: int) -> None:
    """Write the tokenizer's files as published checkpoints of the Qwen family have them."""
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token in tokens.special,
        }
        for token in (*tokens.special, *tokens.visible)
    }
    specials = {
        "additional_special_tokens": [token for token in tokens.special if token != END_OF_TEXT],
        "eos_token": tokens.stops[0],
        "pad_token": END_OF_TEXT,
    }
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": specials["additional_special_tokens"],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens.stops[0],
        "errors": "replace",
        "model_max_length": context,
        "pad_token": END_OF_TEXT,
        "split_special_tokens": False,
        "tokenizer_class": tokens.tokenizer_class,
        "unk_token": None,
    }
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", specials)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented UTF-8 JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
