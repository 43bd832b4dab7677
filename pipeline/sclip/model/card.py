"""The card of a model folder: what it is, what it needs, where it comes from."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sclip.model.folder import EncoderReference, ModelConfig

_TEMPLATE = """\
---
library_name: sclip
tags: [speech, clip, speech-image-retrieval]
---
# {arch}: speech in CLIP's image–text space

{what}

```python
import sclip

model = sclip.load("path/to/this/folder")
{usage}
```

| part | from | weights and configuration (SHA-256) |
|---|---|---|
| speech encoder | {speech} | `{speech_hash}` |
| CLIP | {clip} | `{clip_hash}` |

The input of the speech encoder is the {normalized} waveform. `encode_speech` and `keywords` compute exact hidden
states in fp32. The weights of each encoder keep their original licence.

{origin}"""


def model_card(config: "ModelConfig") -> str:
    lines, usage = [], ['model.encode_image(["picture.jpg"])', 'model.encode_text(["a written caption"])']
    if config.head.utterance:
        lines.append("An utterance vector for each recording, in the space of CLIP's picture vectors.")
    if config.head.keywords is not None:
        how = "as many as CIF fires" if config.head.keywords.cif else f"{config.head.keywords.slots} fixed slots"
        lines.append(f"Keywords for each recording ({how}): tokens of CLIP's vocabulary, encoded by its text tower.")
        usage.append('model.keywords(["caption.wav"])')
    origin = "".join(f"- {key}: {value}\n" for key, value in config.origin.items())
    return _TEMPLATE.format(
        arch=config.arch,
        what=" ".join(lines),
        usage="\n".join(['model.encode_speech(["caption.wav"])', *usage]),
        speech=_place(config.speech_encoder, "speech"),
        speech_hash=config.speech_encoder.hash,
        clip=_place(config.clip_encoder, "clip"),
        clip_hash=config.clip_encoder.hash,
        normalized="normalised" if config.speech_encoder.normalize_waveform else "unchanged",
        origin=origin,
    )


def _place(encoder: "EncoderReference", part: str) -> str:
    if encoder.name is None:
        return f"[`{part}/`]({part}) in this folder"
    return f"`{encoder.name}`" + (f" at `{encoder.revision}`" if encoder.revision else "")
