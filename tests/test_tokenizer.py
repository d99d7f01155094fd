"""Texts to tokens and back: both kinds of vocabularies, and what is refused."""

import random
from dataclasses import replace

import pytest
import tiny_llama

from kiwicha_host.language.gguf_file import read_gguf
from kiwicha_host.language.tokenizer import TextStream, Tokenizer, TokenizerError
from kiwicha_host.language.vocabulary import TokenKind, Vocabulary

#: What is written in more than one byte, cut in more than one way, or looked at by a pattern.
HARD = [*"a tTheĠ▁ \n\r\t'0123", "  ", "\r\n", "'ll", "The capital", " of", "é", "e\u0301", "日本", "🦙",
        "👩\u200d🚀", "\u00a0", "½", "\u0663"]


@pytest.fixture
def bytewise(tmp_path):
    """The vocabulary of the tiny models."""
    return read_gguf(tiny_llama.write_gguf(tmp_path / "model.gguf")).vocabulary


def scored(**changes):
    """A small vocabulary with scores, and tokens for all bytes."""
    pieces = {"▁": -40, "t": -41, "h": -42, "e": -43, "a": -44, "th": -1, "he": -2, "▁t": -3, "tea": -4, "the": -5,
              "▁a": -6}
    first = ("<unk>", "<s>", "</s>")
    made = tuple(f"<0x{byte:02X}>" for byte in range(256))
    kinds = (TokenKind.UNKNOWN, TokenKind.CONTROL, TokenKind.CONTROL, *[TokenKind.BYTE] * 256,
             *[TokenKind.NORMAL] * len(pieces))
    return Vocabulary(**{"model": "llama", "pre": "default", "tokens": (*first, *made, *pieces), "kinds": kinds,
                         "scores": (*[0.0] * 259, *map(float, pieces.values())), "bos": 1, "ends": frozenset([2]),
                         "unknown": 0, "add_bos": True, "add_space_prefix": True, **changes})


def pieces(vocabulary, text):
    return [vocabulary.tokens[token] for token in Tokenizer(vocabulary).encode(text)]


# Bytes and merges.

@pytest.mark.parametrize("pre, text, expected", [
    ("smollm", "The capital", ["The", "Ġcapital"]),
    ("smollm", "The 123", ["The", "Ġ", "1", "2", "3"]),
    ("starcoder", "is 12", ["i", "s", "Ġ", "1", "2"]),
    ("gpt-2", "The 123", ["The", "Ġ12", "3"]),
    ("gpt-2", "ing  the", ["ing", "Ġ", "Ġthe"]),
    ("llama-bpe", "ing  the", ["ing", "Ġ", "Ġthe"]),
    ("llama-bpe", "The 12", ["The", "Ġ", "1", "2"]),
    ("llama3", "The.\n\nThe", ["The", ".", "Ċ", "Ċ", "The"]),
])
def test_words_are_cut_as_the_file_says(bytewise, pre, text, expected):
    assert pieces(replace(bytewise, pre=pre), text) == ["<|start|>", *expected]


def test_a_word_that_is_a_token_needs_no_merges(bytewise):
    tokens, kinds = ("Ġunmerged", *bytewise.tokens[1:]), (TokenKind.NORMAL, *bytewise.kinds[1:])
    for pre, whole in (("llama-bpe", True), ("gpt-2", False)):
        found = pieces(replace(bytewise, pre=pre, tokens=tokens, kinds=kinds), " unmerged")
        assert found == ["<|start|>", *(["Ġunmerged"] if whole else "Ġunmerged")]


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe"])
def test_any_text_comes_back(bytewise, pre):
    tokenizer = Tokenizer(replace(bytewise, pre=pre))
    rng = random.Random(pre)
    for _ in range(300):
        text = "".join(rng.choice(HARD) for _ in range(rng.randrange(1, 12)))
        assert tokenizer.decode(tokenizer.encode(text)) == text, (pre, text)


def test_the_token_that_begins_a_text(bytewise):
    start = bytewise.tokens.index("<|start|>")
    assert Tokenizer(bytewise).encode("") == [start]
    assert Tokenizer(replace(bytewise, add_bos=False)).encode("The") == [bytewise.tokens.index("The")]


def test_tokens_that_are_known_by_their_text(bytewise):
    kinds = list(bytewise.kinds)
    kinds[0] = TokenKind.USER_DEFINED
    vocabulary = replace(bytewise, kinds=tuple(kinds), add_bos=False)
    tokenizer = Tokenizer(vocabulary)
    text = "<|start|>The<|end|> of<|pad|>"
    assert pieces(vocabulary, text) == ["<|start|>", "The", "<|end|>", "Ġof", "<|pad|>"]
    assert tokenizer.decode(tokenizer.encode(text)) == "The of<|pad|>"


def test_a_byte_without_a_token(bytewise):
    tokens = tuple("unused" if token == "ð" else token for token in bytewise.tokens)
    tokenizer = Tokenizer(replace(bytewise, tokens=tokens))
    assert tokenizer.decode(tokenizer.encode("日")) == "日"
    with pytest.raises(TokenizerError, match=r"^the vocabulary has no tokens for all of 'a 🦙'$"):
        tokenizer.encode("a 🦙")


# Characters and scores.

@pytest.mark.parametrize("text, expected", [
    ("the", ["▁", "the"]),                  # th before he and ▁t
    ("he", ["▁", "he"]), ("tea", ["▁t", "e", "a"]),
    ("a t", ["▁a", "▁t"]), ("thethe", ["▁", "the", "the"]), ("  a", ["▁", "▁", "▁a"]),
    ("té", ["▁t", "<0xC3>", "<0xA9>"]), ("</s>a", ["</s>", "▁a"]), ("\n", ["▁", "<0x0A>"]),
])
def test_the_best_score_is_merged_first(text, expected):
    assert pieces(scored(), text) == ["<s>", *expected]


def test_scores_and_not_the_order_of_tokens():
    scores = list(scored().scores)
    scores[scored().tokens.index("▁t")] = 0.0
    assert pieces(scored(scores=tuple(scores)), "the") == ["<s>", "▁t", "he"]


def test_a_blank_before_the_text():
    vocabulary = scored(add_space_prefix=False, add_bos=False)
    assert pieces(vocabulary, "the a") == ["the", "▁a"]
    rng = random.Random(1)
    for prefix in (False, True):
        tokenizer = Tokenizer(scored(add_space_prefix=prefix))
        for _ in range(200):
            text = "".join(rng.choice("theat 日🦙\n") for _ in range(rng.randrange(1, 12)))
            assert tokenizer.decode(tokenizer.encode(text)) == " " * prefix + text, text


def test_a_character_that_is_unknown():
    kinds = tuple(TokenKind.UNUSED if kind == TokenKind.BYTE else kind for kind in scored().kinds)
    tokens = tuple(token.replace("<0x", "<byte ") for token in scored().tokens)
    tokenizer = Tokenizer(scored(kinds=kinds, tokens=tokens))
    assert tokenizer.decode(tokenizer.encode("the")) == " the"
    with pytest.raises(TokenizerError, match=r"^the vocabulary has no tokens for all of 'téa'$"):
        tokenizer.encode("téa")
    assert tokenizer.decode([0]) == "\ufffd"


# Text as it comes.

def test_a_character_comes_when_it_is_whole(bytewise):
    tokenizer = Tokenizer(replace(bytewise, add_bos=False))
    tokens = tokenizer.encode("a日🦙b")
    stream = TextStream(tokenizer)
    assert [stream.push(token) for token in tokens] == ["a", "", "", "日", "", "", "", "🦙", "b"]
    assert stream.end() == ""


def test_bytes_that_are_no_character(bytewise):
    tokenizer = Tokenizer(replace(bytewise, add_bos=False))
    llama = tokenizer.encode("🦙")
    stream = TextStream(tokenizer)
    assert [stream.push(token) for token in llama[:2]] == ["", ""]
    assert stream.push(tokenizer.encode("a")[0]) == "\ufffda"
    assert stream.push(llama[0]) == "" and stream.end() == "\ufffd"
    assert tokenizer.decode(llama[1:2]) == "\ufffd"
    with pytest.raises(ValueError, match="token must be from 0 to 289, not 290"):
        stream.push(290)


# What is wrong, in one line.

@pytest.mark.parametrize("changes, message", [
    ({"pre": "default"}, "the vocabulary cuts words as 'default' does; supported are gpt-2, smollm,"),
    ({"merges": ("a b c",)}, "the vocabulary is damaged: 'a b c' is no pair of tokens to merge"),
    ({"merges": ("a",)}, "the vocabulary is damaged: 'a' is no pair of tokens to merge"),
    ({"merges": ("a Ġthe",)}, "the vocabulary is damaged: "),
    ({"tokens": ("a",) * 290}, "the vocabulary has the token 'a' 290 times"),
])
def test_bytewise_vocabularies_that_are_refused(bytewise, changes, message):
    with pytest.raises(TokenizerError) as caught:
        Tokenizer(replace(bytewise, **changes))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize("changes, message", [
    ({"scores": (0.0,)}, "the vocabulary has 270 tokens, and scores for 1"),
    ({"scores": (0.0,) * 270}, "the vocabulary scores 'th' as 'he': which of the two to merge first is not said"),
    ({"scores": (float("nan"),) * 270}, "the vocabulary scores "),
    ({"unknown": None}, "the vocabulary has no token for what is unknown"),
    ({"kinds": (TokenKind.BYTE,) * 270}, "the vocabulary is damaged: '<unk>' is to be a byte"),
])
def test_scored_vocabularies_that_are_refused(changes, message):
    with pytest.raises(TokenizerError) as caught:
        Tokenizer(scored(**changes))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_texts_that_are_none(bytewise):
    tokenizer = Tokenizer(bytewise)
    with pytest.raises(TypeError, match="text must be a str, not 5"):
        tokenizer.encode(5)
    with pytest.raises(TokenizerError, match=r"^the text has '\\udc80', which is not valid in UTF-8$"):
        tokenizer.encode("a\udc80")
    with pytest.raises(TypeError, match="vocabulary must be a Vocabulary, not None"):
        Tokenizer(None)


def test_both_kinds_come_from_files(tmp_path, bytewise):
    assert (bytewise.model, bytewise.bos, bytewise.ends, bytewise.add_bos) == ("gpt2", 1, {2}, True)
    want = scored()
    changed = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": list(want.tokens),
               "tokenizer.ggml.token_type": [int(kind) for kind in want.kinds],
               "tokenizer.ggml.scores": list(want.scores), "tokenizer.ggml.merges": None,
               "tokenizer.ggml.pre": None, "tokenizer.ggml.bos_token_id": None,
               "tokenizer.ggml.eos_token_id": None, "tokenizer.ggml.add_bos_token": None}
    path = tmp_path / "scored.gguf"
    assert read_gguf(tiny_llama.write_gguf(path, vocabulary=270, changed=changed)).vocabulary == want
    changed["tokenizer.ggml.eot_token_id"] = 0
    assert read_gguf(tiny_llama.write_gguf(path, vocabulary=270, changed=changed)).vocabulary.ends == {0, 2}
    for key, value, begun in (("tokenizer.ggml.pre", "llama-bpe", True), ("tokenizer.ggml.pre", "gpt-2", False)):
        changed = {key: value, "tokenizer.ggml.add_bos_token": None}
        assert read_gguf(tiny_llama.write_gguf(path, changed=changed)).vocabulary.add_bos == begun
