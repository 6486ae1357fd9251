"""Knows the supported families of models: where each keeps what the encoders need to reach."""

from dataclasses import dataclass

from ctxbatch.config import ResolvedConfig
from ctxbatch.errors import StoreError
from ctxbatch.model.consistency import Parts


@dataclass(frozen=True, slots=True)
class Family:
    """Where a model family keeps what the encoder needs to reach.

    ``layers`` is the path of its list of layers. ``first_position_after_pad`` says whether positions are
    counted from the padding token's id on, which leaves fewer of them, and only of other tokens.
    ``final_norm`` is the path of a norm after the last layer that belongs to that layer's hidden state.
    ``shows_attention`` says whether its attention goes through the function that transformers can be given.
    From the module ``mixed`` of a layer on, nothing of that layer looks from one token to another, or at what
    was before. ``embeddings`` and ``positions`` are names of weights; `ctxbatch.model.consistency.Parts` says
    more.
    """

    layers: str
    first_position_after_pad: bool = False
    final_norm: str | None = None
    shows_attention: bool = True
    mixed: str | None = None
    embeddings: str = "embeddings.word_embeddings.weight"
    positions: str | None = "embeddings.position_embeddings.weight"

    @property
    def parts(self) -> Parts:
        """What is compared with the configuration before anything is loaded."""
        return Parts(self.layers, self.embeddings, self.positions)


FAMILIES = {
    "bert": Family("encoder.layer", mixed="attention.output"),
    "roberta": Family("encoder.layer", first_position_after_pad=True, mixed="attention.output"),
    "xlm-roberta": Family("encoder.layer", first_position_after_pad=True, mixed="attention.output"),
    "distilbert": Family("transformer.layer", mixed="sa_layer_norm"),
    "electra": Family("encoder.layer", mixed="attention.output"),
    "mpnet": Family("encoder.layer", first_position_after_pad=True, shows_attention=False),
    "modernbert": Family(
        "layers", final_norm="final_norm", embeddings="embeddings.tok_embeddings.weight", positions=None
    ),
}


def family_of(config: ResolvedConfig) -> Family:
    """Return the family that a store says its model is of.

    Raises:
        StoreError: It says none that there is.
    """
    if config.model_type not in FAMILIES:
        raise StoreError(
            f"the store names a model of the type {config.model_type!r}; supported are {', '.join(FAMILIES)}"
        )
    return FAMILIES[config.model_type]
