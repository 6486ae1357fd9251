"""What a model's folder may hold: what does not fit is told at the start, and what is loaded is digested."""

import hashlib
import json
import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

from ctxbatch.errors import InputError, StoreError
from ctxbatch.model.encoder import Encoder
from ctxbatch.model.facts import read_facts
from ctxbatch.model.hub import find_model
from ctxbatch.model.resolve import resolve
from ctxbatch.run_config import RunConfig
from tests.helpers.models import make_model, set_tokenizer_option


@pytest.fixture
def model(tiny, tmp_path):
    """A model's folder to spoil."""
    return shutil.copytree(tiny(), tmp_path / "model")


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def add_a_token_without_embedding(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["zzz"] = len(content["model"]["vocab"]) + 500
    path.write_text(json.dumps(content))


def cut(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])


def take_out(name):
    return lambda folder: change_weights(folder, lambda weights: weights.pop(name))


def say(**changes):
    return lambda folder: change_json(folder / "config.json", **changes)


SPOILED = {
    "a tokenizer larger than the embeddings": (add_a_token_without_embedding, "has token ids up to"),
    "a padding token that is none": (say(pad_token_id=-5), "pad_token_id -5, but its weights have"),
    "another vocabulary": (say(vocab_size=77), "config.json says vocab_size 77 and width 32"),
    "more layers than anybody has": (say(num_hidden_layers=10**9), "its weights lack 999999997 of them"),
    "no layers": (say(num_hidden_layers=0), "num_hidden_layers 0: it must be 1 or more"),
    "a negative size": (say(hidden_size=-32), "hidden_size -32: it must be 1 or more"),
    "heads that do not divide": (say(num_attention_heads=5), "is not a multiple of num_attention_heads 5"),
    "negative heads": (say(num_attention_heads=-4), "num_attention_heads -4: it must be 1 or more"),
    "more positions than there are": (say(max_position_embeddings=10**12), "max_position_embeddings 10000"),
    "a value of another type": (
        say(num_hidden_layers="3"),
        "num_hidden_layers'? (expected int, got str|'3': it must)",
    ),
    "a kind of another type": (say(model_type=["bert"]), "config.json: unhashable type"),
    "JSON nested too deeply": (lambda f: (f / "config.json").write_text("[" * 30_000), "recursion depth"),
    "weights named elsewhere": (say(transformers_weights="x.safetensors"), "has transformers_weights"),
    "quantised weights": (say(quantization_config={"quant_method": "x"}), "has quantization_config"),
    "an adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "holds an adapter"),
    "no longest input": (lambda f: set_tokenizer_option(f, "model_max_length", "x"), "no fast tokenizer: "),
    "a tensor is missing": (take_out("encoder.layer.1.output.dense.weight"), "lack encoder.layer.1.output"),
    "embeddings are missing": (take_out("embeddings.word_embeddings.weight"), "lack embeddings.word_embed"),
    "a truncated file": (lambda folder: cut(folder, -10), "is damaged: .*not fully covered"),
    "an empty file": (lambda folder: cut(folder, 0), "is damaged: .*header too small"),
    "a header without end": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 7 + b"\0" + b"x" * 100),
        "its header claims 72,057,594,037,927,935 bytes",
    ),
    "a folder in place of the weights": (
        lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors").mkdir()),
        "holds no .safetensors weights",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
def test_a_model_that_cannot_work_is_refused_in_one_line(what, model):
    spoil, said = SPOILED[what]
    spoil(model)
    with pytest.raises(InputError, match=rf"^--model {model}[^\n]*{said}[^\n]*$") as refused:
        read_facts(find_model(str(model), None))
    assert str(refused.value).count("--model") == 1


@pytest.mark.usefixtures("conversions_elsewhere")
@pytest.mark.parametrize("what", ["no layers", "a tensor is missing", "an empty file"])
def test_it_is_refused_before_anything_runs(what, model):
    spoil, said = SPOILED[what]
    spoil(model)
    with pytest.raises(InputError, match=rf"^--model {model}[^\n]*{said}[^\n]*$"):
        resolve(RunConfig(model=str(model)), "cpu")


def test_what_a_configuration_says_of_attention_is_not_loaded_from_anywhere(model):
    change_json(model / "config.json", attn_implementation="kernels-community/flash-attn")
    Encoder(resolve(RunConfig(model=str(model)), "cpu"), "cpu")


# --- the weights' digest --------------------------------------------------------------------------


def split(folder, place="parts"):
    """Have the weights in two files of a subfolder, as an index says."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / place).mkdir(exist_ok=True)
    names = sorted(weights)
    parts = {f"{place}/{n}.safetensors": names[n::2] for n in range(2)}
    for file, its in parts.items():
        save_file({name: weights[name] for name in its}, folder / file, {"format": "pt"})
    write_index(folder, {name: file for file, its in parts.items() for name in its})


def write_index(folder, weight_map, metadata=None):
    index = {"metadata": metadata or {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_other_weights_in_a_subfolder_that_the_index_names_are_not_those_of_the_store(model, tmp_path):
    split(model)
    config = resolve(RunConfig(model=str(model)), "cpu")
    Encoder(config, "cpu")
    other = make_model(tmp_path / "other", "bert", seed=1)
    split(other)
    shutil.copytree(other / "parts", model / "parts", dirs_exist_ok=True)
    with pytest.raises(
        StoreError, match="not the model that the store was made with: the checksum of its weights"
    ):
        Encoder(config, "cpu")


def test_which_of_two_files_the_index_names_is_part_of_the_digest(model, tmp_path):
    other = make_model(tmp_path / "other", "bert", seed=1)
    names = list(load_file(model / "model.safetensors"))
    (model / "model.safetensors").rename(model / "a.safetensors")
    shutil.copy(other / "model.safetensors", model / "b.safetensors")
    digests = []
    for file in ("a.safetensors", "b.safetensors"):
        write_index(model, dict.fromkeys(names, file))
        digests.append(find_model(str(model), None).weights_digest())
    assert digests[0] != digests[1]
    assert digests[1] == find_model(str(other), None).weights_digest()


def test_weights_have_the_digest_that_they_had_in_the_first_version(model):
    """Of one file its own; of several, also where only one of them is loaded, that of all their digests."""
    weights = model / "model.safetensors"
    one = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert find_model(str(model), None).weights_digest() == one
    shutil.copy(weights, model / "model.fp16.safetensors")
    both = hashlib.sha256((one + one).encode()).hexdigest()
    assert find_model(str(model), None).weights_digest() == both
    names = list(load_file(weights))
    weights.rename(model / "model-1.safetensors")
    files = ("model-1.safetensors", "model.fp16.safetensors")
    write_index(model, {name: files[number % 2] for number, name in enumerate(names)})
    assert find_model(str(model), None).weights_digest() == both


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/x.safetensors", "a/../../x.safetensors", "weights.bin", "."]
)
def test_an_index_names_files_of_its_folder_alone(name, model):
    names = list(load_file(model / "model.safetensors"))
    (model / "model.safetensors").rename(model.parent / "x.safetensors")
    write_index(model, dict.fromkeys(names, name))
    with pytest.raises(InputError, match=r"which is not a .safetensors file of the folder"):
        find_model(str(model), None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "Input data was truncated"),
        (b"[" * 50_000, ""),
        (b'{"metadata": {}, "weight_map": {"a": 5}}', "Expected `str`, got `int`"),
        (b'{"metadata": {}, "weight_map": {}}', "it lists no weights"),
        (b'{"metadata": {}, "weight_map": {"a": "b.safetensors"}}', "'b.safetensors', which is missing"),
        (b" " * (33 << 20), "it is larger than 32 MiB"),
    ],
)
def test_a_broken_index_is_told_in_one_line(content, said, model):
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"index.json cannot be used: [^\n]*{said}[^\n]*$"):
        find_model(str(model), None)


def test_weights_that_are_links_into_a_cache_are_loaded_and_others_than_files_are_not(model, tmp_path):
    digest = find_model(str(model), None).weights_digest()
    (model / "model.safetensors").rename(tmp_path / "blob")
    (model / "model.safetensors").symlink_to(tmp_path / "blob")
    assert find_model(str(model), None).weights_digest() == digest
    (model / "model.safetensors").unlink()
    os.mkfifo(model / "model.safetensors")
    with pytest.raises(InputError, match=r"holds no .safetensors weights"):
        find_model(str(model), None)
