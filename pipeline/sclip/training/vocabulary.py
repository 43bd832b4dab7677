"""Which tokens can become keywords: those of the captions."""

from sclip.config import Experiment
from sclip.encoders.clip import ClipEncoder
from sclip.errors import UserError
from sclip.features.vectors import TokenVectors
from sclip.heads.vocabulary import Vocabulary


def caption_vocabulary(
    tokens: TokenVectors | None, experiment: Experiment, clip: ClipEncoder, where: str
) -> Vocabulary | None:
    """Return the tokens of the captions, most frequent first, or None if the architecture has no keywords."""
    if experiment.head.keywords is None:
        return None
    _ = clip.text_tower  # raises an error if this CLIP takes no keywords
    if tokens is None:
        raise UserError(
            f"{where}: keywords are words of captions, but no row of split train has text; "
            "add text to the manifest, or choose an architecture without keywords"
        )
    counts = dict(zip(tokens.ids, tokens.counts.tolist(), strict=True))
    if experiment.training.vocabulary == "train":
        counts = {token: count for token, count in counts.items() if count}
    return Vocabulary.from_counts(counts, clip)
