"""Makes what a process makes at first use and keeps, in a process that is forked many times."""

from ctxbatch.model.devices import library_versions
from ctxbatch.text import unicode_words, words
from ctxbatch.versions import version_of


def make() -> None:
    """Look at all characters, and look up versions: a tenth of a second that each fork would take again."""
    words.letters_and_digits()
    words._marks_white_space()
    unicode_words._kinds()
    library_versions()
    for name in ("sentencex", "tokenizers"):
        version_of(name)
