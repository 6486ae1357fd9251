"""Computes rows in a slow, obviously right way: one sentence at a time, fp32, eager attention, plain numpy.

Shares no code with the package. Follows the definitions of word, window, pooling, shift and salience in
README.md and the guide.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from icu4py.breakers import WordBreaker


@dataclass
class OracleRow:
    word: str
    word_index: int
    char_start: int
    char_end: int
    n_pieces: int
    static: np.ndarray
    contextual: dict[int, np.ndarray] = field(default_factory=dict)
    received: dict[int, np.ndarray] = field(default_factory=dict)  # attention by layer, one number a head

    def salience(self, layer, head=None):
        return self.received[layer].mean() if head is None else self.received[layer][head - 1]


class Oracle:
    def __init__(self, folder: str | Path):
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        self.config = self.model.config
        special = self.tokenizer("a")["input_ids"]
        plain = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        at = next(i for i in range(len(special)) if special[i : i + len(plain)] == plain)
        self.prefix, self.suffix = special[:at], special[at + len(plain) :]
        positions = self.config.max_position_embeddings
        if self.config.model_type in ("roberta", "xlm-roberta", "mpnet"):
            positions -= self.config.pad_token_id + 1
        self.window = min(positions, self.tokenizer.model_max_length) - len(self.prefix) - len(self.suffix)

    def rows(self, text, *, pool="mean", static="embeddings", keep_punctuation=False, given=None):
        """Return the rows of one sentence, and the words that fit into no window.

        ``given`` are start and end of its words: each has the pieces that touch it.
        """
        encoding = self.tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,  # "[SEP]" in a text is text
            return_offsets_mapping=True,
            truncation=False,
            padding=False,
        )
        ids = encoding["input_ids"]
        spans = [strip(text, start, end) for start, end in encoding["offset_mapping"]]
        words = self._words(text, spans)
        if given is not None:
            words = [
                (start, end, [n for n, (first, last) in enumerate(spans) if first < end and last > start])
                for start, end in given
            ]
        if not keep_punctuation:
            words = [w for w in words if any(c.isalnum() for c in text[w[0] : w[1]])]
        windows = cut_windows(len(ids), self.window)
        hidden = [self._hidden(ids[start:end], static) for start, end in windows]
        rows, rejected = [], []
        for index, (char_start, char_end, pieces) in enumerate(words):
            number = best_window(windows, pieces[0], pieces[-1] + 1, len(ids))
            if number is None:
                rejected.append(text[char_start:char_end])
                continue
            local = [len(self.prefix) + piece - windows[number][0] for piece in pieces]
            if pool == "none":
                for piece, position in zip(pieces, local, strict=True):
                    start, end = spans[piece]
                    if end > start:
                        rows.append(
                            self._row(
                                text[char_start:char_end],
                                index,
                                start,
                                end,
                                1,
                                hidden[number],
                                [position],
                                [position],
                            )
                        )
            else:
                taken = local[:1] if pool == "first" else local
                rows.append(
                    self._row(
                        text[char_start:char_end],
                        index,
                        char_start,
                        char_end,
                        len(local),
                        hidden[number],
                        taken,
                        local,
                    )
                )
        return rows, rejected

    def _row(self, word, index, start, end, n_pieces, window, positions, pieces):
        hidden, received = window
        static, *layers = [state[positions].mean(axis=0) for state in hidden]
        sums = {layer: each[:, pieces].sum(axis=1) for layer, each in enumerate(received, 1)}
        return OracleRow(word, index, start, end, n_pieces, static, dict(enumerate(layers, 1)), sums)

    def _words(self, text, spans):
        """Return (char_start, char_end, pieces) of every word."""
        begin = defaultdict(list)  # the pieces that begin at a place
        cover = defaultdict(list)  # those that lie around it
        for n, (first, last) in enumerate(spans):
            if last > first:
                begin[first].append(n)
            for place in range(first + 1, last):
                cover[place].append(n)
        found, end = [], 0
        for cell in WordBreaker(text, "en"):
            start, end = end, end + len(cell)
            begun = sorted(n for place in range(start, end) for n in begin[place])
            pieces = [*range(begun[0], begun[-1] + 1)] if begun else cover[start][-1:]
            if pieces and any(c.isprintable() and c != " " for c in cell):
                found.append((start, end, pieces))
        return found

    @torch.no_grad()
    def _hidden(self, ids, static):
        """Return the vectors and the attention of one window.

        The vectors are the static ones, then the hidden states of every layer, each (tokens, D). The
        attention of every layer is what each token receives from all tokens, (heads, tokens).
        """
        batch = torch.tensor([[*self.prefix, *ids, *self.suffix]])
        output = self.model(input_ids=batch, output_hidden_states=True, output_attentions=True)
        states = output.hidden_states
        received = [attention[0].sum(dim=1).numpy() for attention in output.attentions]
        first = self.model.get_input_embeddings().weight[batch[0]] if static == "lookup" else states[0][0]
        return [first.numpy(), *(state[0].numpy() for state in states[1:])], received


def is_space(c):
    """Return True for white space as tokenizers define it: str.isspace, without four control characters."""
    return c.isspace() and c not in "\x1c\x1d\x1e\x1f"


def strip(text, start, end):
    while start < end and is_space(text[start]):
        start += 1
    while start < end and is_space(text[end - 1]):
        end -= 1
    return start, end


def cut_windows(n_pieces, size):
    windows, start = [], 0
    while start + size < n_pieces:
        windows.append((start, start + size))
        start += max(1, size // 2)
    windows.append((max(0, n_pieces - size), n_pieces))
    return windows


def best_window(windows, first, end, n_pieces):
    best, best_margin = None, -1
    for number, (start, stop) in enumerate(windows):
        if start <= first and end <= stop:
            left = float("inf") if start == 0 else first - start
            right = float("inf") if stop == n_pieces else stop - end
            if min(left, right) > best_margin:
                best, best_margin = number, min(left, right)
    return best


def log_ratio(contextual, static, floor):
    shift = np.zeros_like(contextual)
    for i, (c, s) in enumerate(zip(contextual.tolist(), static.tolist(), strict=True)):
        if c * s > 0 and abs(c) >= floor and abs(s) >= floor:
            shift[i] = np.log(c / s)
    return shift


def asinh(contextual, static, delta):
    return np.arcsinh(contextual / delta) - np.arcsinh(static / delta)
