"""Language models by what a user calls them: a file, a folder with one, or the name of what belongs to Kiwicha."""

from dataclasses import dataclass
from pathlib import Path

from .deepseek import stored
from .deepseek.model import DeepSeekModel
from .gguf_file import find_gguf, read_gguf
from .model import LlamaModel
from .vocabulary import Vocabulary

__all__ = ["DEEPSEEK", "LanguageModel", "open_model"]

#: The small model of DeepSeek's architecture.
DEEPSEEK = "deepseek"


@dataclass(frozen=True)
class LanguageModel:
    """A model, and the vocabulary that its tokens come from."""
    model: LlamaModel | DeepSeekModel
    vocabulary: Vocabulary


def open_model(name: Path) -> LanguageModel:
    """A GGUF file, the only one in a folder, or, where there is neither, "deepseek".

    Raises
    ------
    FileProblem, GgufError
        There is no such model, or it cannot be read.
    """
    if str(name) == DEEPSEEK and not name.exists():
        return LanguageModel(stored.load().model, stored.vocabulary())
    loaded = read_gguf(find_gguf(name))
    return LanguageModel(loaded.model, loaded.vocabulary)
