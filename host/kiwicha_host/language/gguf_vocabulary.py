"""The vocabulary in a GGUF file's metadata."""

from pathlib import Path

from .. import arguments
from .gguf_header import GgufError
from .metadata import Metadata
from .vocabulary import LLAMA3, TokenKind, Vocabulary

__all__ = ["read_vocabulary"]


def read_vocabulary(path: Path, metadata: Metadata) -> Vocabulary:
    """The vocabulary in the metadata of the file `path`.

    Raises
    ------
    GgufError
        It is damaged, or of a kind that is not supported.
    """
    tokens = metadata.texts("tokenizer.ggml.tokens")
    kinds = metadata.integers("tokenizer.ggml.token_type", [TokenKind.NORMAL] * len(tokens))
    model = metadata.text("tokenizer.ggml.model")
    if len(kinds) != len(tokens):
        raise GgufError(f"{path} is damaged: it has {len(tokens)} tokens, and kinds for {len(kinds)}")
    for kind in set(kinds) - set(TokenKind):
        raise GgufError(f"{path} has tokens of kind {kind}, which is not supported")
    if model not in ("gpt2", "llama"):
        raise GgufError(f"{path} has a vocabulary of the kind {arguments.shown(model)}; gpt2 and "
                        "llama are supported")
    for key in ("add_eos_token", "add_sep_token", "remove_extra_whitespaces"):
        metadata.only(f"tokenizer.ggml.{key}", False)
    llama, pre = model == "llama", metadata.text("tokenizer.ggml.pre", "default")

    def number(name: str, default: int | None = None) -> int | None:
        key = f"tokenizer.ggml.{name}_token_id"
        value = metadata.integer(key, -1 if default is None else default)
        if value >= len(tokens):
            raise GgufError(f"{path} is damaged: {key} is {value}, of {len(tokens)} tokens")
        return None if value < 0 else value

    bos = number("bos", 1 if llama else None)
    ends = (number("eos", 2 if llama else None), number("eot"), number("eom"))
    add_bos = metadata.flag("tokenizer.ggml.add_bos_token", llama or pre in LLAMA3)
    if add_bos and bos is None:
        raise GgufError(f"{path} lacks tokenizer.ggml.bos_token_id, which is to begin each text")
    return Vocabulary(
        model, pre, tuple(tokens), tuple(map(TokenKind, kinds)),
        merges=tuple(metadata.texts("tokenizer.ggml.merges", ())),
        scores=tuple(metadata.numbers("tokenizer.ggml.scores", ())),
        bos=bos, add_bos=add_bos, unknown=number("unknown", 0 if llama else None),
        ends=frozenset(item for item in ends if item is not None),
        add_space_prefix=metadata.flag("tokenizer.ggml.add_space_prefix", llama))
