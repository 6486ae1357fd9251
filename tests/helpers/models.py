"""Makes tiny random models of every family, each with its kind of tokenizer."""

import json
from collections import Counter
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, MPNetTokenizer, RobertaTokenizer, XLMRobertaTokenizer

TEXT = """\
The old bank stood by the river, and its door was never locked; nobody wanted what lay inside.
I want an apple. I want an orange! I want an adventure?
Don't you think that unbelievable things happen here, in no-man's-land (at 3.14)?
Naïve façade, café crème: the résumé of Zoë, 汉字 and 漢字 in one line, with emoji 😀 and 👩‍👩‍👧 too.
  Spaces   at the beginning,\ttabs and\u00a0hard spaces in the middle, and at the end   \n
"Quoted speech," she said, "is not the same as [MASK] or <mask>."
One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen \
seventeen eighteen nineteen twenty twenty-one twenty-two twenty-three twenty-four twenty-five \
twenty-six twenty-seven twenty-eight twenty-nine thirty, unbelievableness and \
antidisestablishmentarianism included, all without a stop
--- *** ---
קוראים לי נועה ואני גרה בתל אביב. Привет, мир! e\u0301te\u0301
"""

# Without the word that is longer than a tiny model's window.
PLAIN_TEXT = "".join(line for line in TEXT.splitlines(keepends=True) if "antidis" not in line)

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}
FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet", "modernbert")


def make_model(folder: Path, family: str, seed: int = 0, **changes: object) -> Path:
    """Save a tiny random model and its tokenizer; ``changes`` go into its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _TOKENIZERS[family]()
    tokenizer.save_pretrained(folder)
    settings = {**SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **changes}
    if family in ("roberta", "xlm-roberta", "mpnet"):
        settings["max_position_embeddings"] = (
            int(settings["max_position_embeddings"]) + settings["pad_token_id"] + 1
        )
    if family == "electra":
        settings = {"embedding_size": 16, **settings}
    if family == "modernbert":
        settings |= {
            "cls_token_id": 0,
            "sep_token_id": 0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "local_attention": 8,
        }
        settings |= {"global_attn_every_n_layers": 2}
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(family, **settings)
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():  # wider than the usual 0.02, so that layers and contexts differ visibly
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
            elif "bias" in name:
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    return folder


def set_tokenizer_option(folder: Path, name: str, value: object) -> None:
    """Change an entry of a saved tokenizer's configuration."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))


def _wordpieces(specials: list[str]) -> dict[str, int]:
    """Return a BERT vocabulary of the words that occur at least twice, and of all characters."""
    lower = TEXT.lower()
    words = [w for w, n in Counter(lower.split()).items() if n > 1 and w.isalpha()]
    characters = sorted({c for c in lower if not c.isspace()} - {"字", "e\u0301"[1]})
    pieces = ["##able", "##ness", "un", "believ", "twen", "##ty"]
    vocabulary = specials + sorted({*words, *characters, *(f"##{c}" for c in characters), *pieces})
    return {piece: number for number, piece in enumerate(vocabulary)}


def _bert() -> BertTokenizer:
    return BertTokenizer(
        vocab=_wordpieces(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]), do_lower_case=True
    )


def _mpnet() -> MPNetTokenizer:
    return MPNetTokenizer(
        vocab=_wordpieces(["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"]), do_lower_case=True
    )


def _byte_level(specials: list[str], trim_offsets: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trim_offsets)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    return tokenizer


def _roberta() -> RobertaTokenizer:
    trained = json.loads(_byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], True).to_str())["model"]
    return RobertaTokenizer(vocab=trained["vocab"], merges=[tuple(merge) for merge in trained["merges"]])


def _xlm_roberta() -> XLMRobertaTokenizer:
    words = [word for word, n in Counter(TEXT.split()).items() if n > 1]
    pieces = {
        "▁",
        *(f"▁{w}" for w in words),
        *(c for c in TEXT if not c.isspace() and c != "字"),
        "n't",
        "ing",
        "▁un",
    }
    specials = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return XLMRobertaTokenizer(
        vocab=specials + [(piece, -float(9 - len(piece[:6]))) for piece in sorted(pieces)]
    )


def _modernbert() -> transformers.PreTrainedTokenizerFast:
    tokenizer = _byte_level(["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"], False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="[CLS]", pad_token="[PAD]", sep_token="[SEP]", unk_token="[UNK]"
    )


_TOKENIZERS = {
    "bert": _bert,
    "roberta": _roberta,
    "xlm-roberta": _xlm_roberta,
    "distilbert": _bert,
    "electra": _bert,
    "mpnet": _mpnet,
    "modernbert": _modernbert,
}


def numbered_lines(n: int) -> str:
    """Return n numbered lines of text, without the word that is longer than a window."""
    lines = [line for line in PLAIN_TEXT.splitlines() if line.strip()]
    return "".join(f"{number}: {lines[number % len(lines)]}\n" for number in range(n))
