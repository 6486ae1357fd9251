"""Says which spellings are one word.

The one identity of words: wherever two words are compared, their keys are.
"""

import unicodedata

import regex

# Soft hyphens, joiners, marks of direction, selectors of a glyph: nothing is seen where they stand.
_UNSEEN = regex.compile(r"[\p{Default_Ignorable_Code_Point}--\p{Cn}]", regex.V1)
_APOSTROPHES = str.maketrans("\u2019\u02bc", "''")


def word_key(text: str) -> str:
    """Return what all spellings of a word, or of several words, have in common.

    That is its canonical caseless form (the Unicode Standard, definition D145) in NFC, without characters
    that are not seen, with straight apostrophes, and with one space for each run of white space.
    """
    key = folded(text)
    return key if key.isalnum() else " ".join(key.split())


def folded(text: str) -> str:
    """Return the key of a text, with its white space as it is."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFD", _UNSEEN.sub("", text)).casefold()
    # Last, because to fold \u0149 gives an apostrophe.
    return unicodedata.normalize("NFC", plain.translate(_APOSTROPHES))
