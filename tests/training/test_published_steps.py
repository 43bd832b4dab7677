"""Compare 30 training steps with a plain PyTorch loop, written from the description of the published systems.

The loop shares no code with the heads, the losses and the trainer. It starts from the same weights and gets the same
batches. Afterwards all trained parameters and all running statistics must be equal.
"""

import dataclasses
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from small import ARCHITECTURES, clip_encoder, small_vocabulary, speech_encoder
from torch import nn

from sclip.config import Architecture, TrainingConfig
from sclip.model.speechclip import SpeechCLIP
from sclip.padded import Padded
from sclip.training.batches import Batch
from sclip.training.trainer import Trainer

STEPS, WARMUP_STEPS, SCALED_STEPS = 30, 10, 15
LEARNING_RATE, FINAL_LEARNING_RATE = 3e-3, 1e-8
TRAINING = TrainingConfig(
    steps=STEPS,
    warmup_steps=WARMUP_STEPS,
    learning_rate=LEARNING_RATE,
    final_learning_rate=FINAL_LEARNING_RATE,
    precision="fp32",
)
STATES, SPEECH_WIDTH, JOINT_WIDTH = 3, 32, 20  # of the small encoders
START, END = 49406, 49407  # tokens of CLIP
BLOCKED = [0, 2, 3]  # rows of the vocabulary
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Published:
    """Describe what distinguishes a published system from the others."""

    heads: int
    transformer_layer: bool = False  # a whole encoder layer and a last norm, or only attention and a norm
    utterance: bool = False
    slots: int = 0  # learned keyword tokens
    cif: bool = False
    # The published code has two accidents in CIF. The recipes do without them, but sclip can reproduce them.
    counts_padding: bool = False  # CIF's convolution reads padding, and BatchNorm counts empty slots


SYSTEMS = {
    "parallel": Published(heads=8, transformer_layer=True, utterance=True),
    "cascaded": Published(heads=1, slots=8),
    "cascaded-cif": Published(heads=1, cif=True),
    "hybrid": Published(heads=1, utterance=True, slots=8),
    "hybrid-cif": Published(heads=8, utterance=True, cif=True),
}
CASES = {arch: (arch, system) for arch, system in SYSTEMS.items()} | {
    f"{arch}, padding counted": (arch, dataclasses.replace(system, counts_padding=True))
    for arch, system in SYSTEMS.items()
    if system.cif
}


class PlainModel(nn.Module):
    """Hold the trained parts of a published system, and compute its loss in the plainest way."""

    def __init__(self, system: Published, table: torch.Tensor | None):
        super().__init__()
        self.system, self.table = system, table  # (V, W), if the system has keywords
        self.layer_weights = nn.Parameter(torch.zeros(STATES))
        self.cls = nn.Parameter(torch.randn(system.utterance + system.slots, SPEECH_WIDTH))
        self.log_scale = nn.Parameter(torch.zeros(()))
        if system.transformer_layer:
            layer = nn.TransformerEncoderLayer(
                SPEECH_WIDTH, system.heads, 4 * SPEECH_WIDTH, dropout=0, activation="gelu", batch_first=True
            )
            self.encoder = nn.TransformerEncoder(layer, 1, nn.LayerNorm(SPEECH_WIDTH), enable_nested_tensor=False)
        else:
            self.attention = nn.MultiheadAttention(SPEECH_WIDTH, system.heads, batch_first=True)
            self.attention_norm = nn.LayerNorm(SPEECH_WIDTH)
        if system.utterance:
            self.utterance = nn.Linear(SPEECH_WIDTH, JOINT_WIDTH)
        if system.cif:
            self.convolution = nn.Conv1d(SPEECH_WIDTH, SPEECH_WIDTH, 3, padding=1)
            self.score = nn.Linear(SPEECH_WIDTH, 1)
        if table is not None:
            self.project = nn.Linear(SPEECH_WIDTH, table.shape[1])
            self.batch_norm = nn.BatchNorm1d(table.shape[1] * (system.slots or 1))

    def loss(self, batch: Batch, clip: nn.Module, step: int) -> torch.Tensor:
        states, lengths, system = batch.states.values, batch.states.lengths, self.system
        frames = sum(weight * states[:, i] for i, weight in enumerate(self.layer_weights.softmax(0)))
        attended = self.attend(frames, lengths)  # (B, K+T, D)
        loss = torch.zeros(())
        if system.utterance:
            loss = loss + contrastive_loss(self.utterance(attended[:, 0]), batch, self.log_scale)
        if system.slots:
            slots = attended[:, system.utterance : system.utterance + system.slots]
            keywords = self.quantize(self.normalize_fixed(self.project(slots)))
            sentences = sentence_vectors(clip, keywords, [system.slots] * len(slots))
            loss = loss + contrastive_loss(sentences, batch, self.log_scale)
        if system.cif:
            slots, counts, quantity_loss = self.downsample(attended[:, system.utterance :], lengths, step)
            keywords = self.quantize(self.normalize_fired(self.project(slots), counts))
            loss = loss + contrastive_loss(sentence_vectors(clip, keywords, counts), batch, self.log_scale)
            loss = loss + 0.25 * quantity_loss
        return loss

    def attend(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.cls.expand(len(frames), -1, -1), frames], 1)
        padding = torch.arange(x.shape[1]) >= (lengths + len(self.cls))[:, None]
        if self.system.transformer_layer:
            return self.encoder(x, src_key_padding_mask=padding)
        return self.attention_norm(x + self.attention(x, x, x, key_padding_mask=padding)[0])

    def downsample(self, frames: torch.Tensor, lengths: torch.Tensor, step: int):
        """Return CIF's slots (B, S, D), the number of slots of each utterance, and the quantity loss."""
        fired, distances = [], []
        for utterance, length in zip(frames, lengths.tolist(), strict=True):
            target = round(length / 20)
            read = utterance if self.system.counts_padding else utterance[:length]
            hidden = F.relu(self.convolution(read.T)).T
            alpha = torch.sigmoid(self.score(hidden))[:length, 0]
            distances.append((alpha.sum() - target).abs())
            if step < SCALED_STEPS:
                alpha = alpha * ((target + 1e-5) / alpha.sum())
            fired.append(integrate_and_fire(utterance[:length], alpha))
        counts = [max(1, len(slots) - 1) for slots in fired]
        # The leftover of an utterance stays where the batch is wide enough, behind the slots that count.
        kept = [torch.stack(slots[: max(counts)]) for slots in fired]
        padded = nn.utils.rnn.pad_sequence(kept, batch_first=True)
        return padded, counts, torch.stack(distances).mean()

    def normalize_fixed(self, slots: torch.Tensor) -> torch.Tensor:
        """Normalise (B, K, W). The channels of BatchNorm are ordered by width first, then by slot."""
        by_width = slots.permute(0, 2, 1)  # (B, W, K)
        return self.batch_norm(by_width.reshape(len(slots), -1)).reshape(by_width.shape).permute(0, 2, 1)

    def normalize_fired(self, slots: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """Normalise (B, S, W) with one set of channels for all slots."""
        if self.system.counts_padding:
            return self.batch_norm(slots.permute(0, 2, 1)).permute(0, 2, 1)
        fired = self.batch_norm(torch.cat([row[:count] for row, count in zip(slots, counts, strict=True)]))
        return nn.utils.rnn.pad_sequence(fired.split(counts), batch_first=True)

    def quantize(self, slots: torch.Tensor) -> torch.Tensor:
        """Replace each slot (B, S, W) by the nearest token, with the gradient of a softmax."""
        cosines = F.cosine_similarity(slots[:, :, None], self.table, dim=-1)  # (B, S, V)
        blocked = torch.zeros(len(self.table))
        blocked[BLOCKED] = -torch.inf
        soft = ((cosines + blocked) / 0.1).softmax(-1)
        hard = F.one_hot(soft.argmax(-1), len(self.table)).float()
        return (hard + soft - soft.detach()) @ self.table


def integrate_and_fire(frames: torch.Tensor, alpha: torch.Tensor) -> list[torch.Tensor]:
    """Return one slot for each firing, and behind them the frames that are left over."""
    slots, slot, filled = [], torch.zeros(frames.shape[1]), torch.zeros(())
    for frame, weight in zip(frames, alpha, strict=True):
        while filled + weight >= 1:
            used = 1 - filled
            slots.append(slot + used * frame)
            slot, filled, weight = torch.zeros(frames.shape[1]), torch.zeros(()), weight - used
        slot, filled = slot + weight * frame, filled + weight
    return [*slots, slot]


def sentence_vectors(clip: nn.Module, keywords: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Run CLIP's text tower over all its positions, and read it at the end token, right after the last keyword."""
    token = clip.token_embedding.weight
    sentences = []
    for row, count in zip(keywords, counts, strict=True):
        padding = token[:1].expand(len(clip.positional_embedding) - count - 2, -1)
        sentences.append(torch.cat([token[START, None], row[:count], token[END, None], padding]))
    x = clip.transformer(torch.stack(sentences) + clip.positional_embedding, attn_mask=clip.attn_mask)
    ends = torch.stack([row[count + 1] for row, count in zip(x, counts, strict=True)])
    return clip.ln_final(ends) @ clip.text_projection


def contrastive_loss(speech: torch.Tensor, batch: Batch, log_scale: torch.Tensor) -> torch.Tensor:
    """Compare each utterance with each image. Another utterance of the same image is no negative."""
    similarity = F.normalize(speech, dim=-1) @ F.normalize(batch.images, dim=-1).T
    ids = batch.image_ids.tolist()
    same = [[i != j and ids[i] == ids[j] for j in range(len(ids))] for i in range(len(ids))]
    logits = (similarity * log_scale.exp()).masked_fill(torch.tensor(same), -torch.inf)
    right = torch.arange(len(ids))
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def rate_factor(step: int) -> float:
    """Return the published learning rate of a step, divided by the highest."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    final = FINAL_LEARNING_RATE / LEARNING_RATE
    return 1 - (1 - final) * (step + 1 - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)


def train_plainly(model: PlainModel, clip: nn.Module, batches: list[Batch]) -> list[float]:
    """Train the model, and return the norm of the gradients at each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-6)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor)
    norms = []
    for step, batch in enumerate(batches):
        optimizer.zero_grad()
        model.loss(batch, clip, step).backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 4).item())
        optimizer.step()
        scheduler.step()
    return norms


def make_batch(seed: int) -> Batch:
    """Draw 8 utterances of 6 images. One has a target of 2.5 keywords, which is rounded to 2, and one a target of 0."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(15, 80, (8,), generator=generator)
    lengths[:2] = torch.tensor([50, 9])
    states = torch.randn(8, STATES, int(lengths.max()) + 3, SPEECH_WIDTH, generator=generator)
    states = states + torch.randn(8, 1, 1, SPEECH_WIDTH, generator=generator)  # utterances differ as a whole
    for row, length in zip(states, lengths.tolist(), strict=True):
        row[:, length:] = 0
    images = torch.randn(6, JOINT_WIDTH, generator=generator)
    ids = torch.tensor([0, 1, 2, 2, 3, 4, 5, 0])
    return Batch(Padded(states, lengths), images[ids], ids)


def without_dropout(architecture: Architecture, counts_padding: bool) -> Architecture:
    """Return a recipe's architecture without dropout, and with the accidents of the published code if asked for."""
    head = architecture.head
    keywords = head.keywords
    if keywords is not None and keywords.cif is not None:
        cif = dataclasses.replace(
            keywords.cif, dropout=0.0, scaled_steps=SCALED_STEPS, convolves_padding=counts_padding
        )
        keywords = dataclasses.replace(keywords, cif=cif, norm_counts_padding=counts_padding)
    if keywords is not None:
        keywords = dataclasses.replace(keywords, dropout=0.0)
    attention = dataclasses.replace(head.attention, dropout=0.0)
    head = dataclasses.replace(head, attention=attention, keywords=keywords)
    return dataclasses.replace(architecture, head=head)


def sclip_model(arch: str, counts_padding: bool) -> SpeechCLIP:
    torch.manual_seed(0)
    clip = clip_encoder()
    vocabulary = small_vocabulary(clip)
    padding, start, end, word, *words = vocabulary.ids
    ids = (padding, word, start, end, *words)  # in the order of the published lists
    pieces = tuple(clip.piece(i) for i in ids)
    vocabulary = dataclasses.replace(vocabulary, ids=ids, pieces=pieces, blocked=tuple(BLOCKED))
    architecture = without_dropout(ARCHITECTURES[arch], counts_padding)
    return SpeechCLIP(arch, architecture, speech_encoder(), clip, vocabulary if architecture.head.keywords else None)


# The beginning of a name in the plain loop, and in sclip's model.
NAMES = {
    "layer_weights": "head.weighting.logits",
    "cls": "head.tokens",
    "log_scale": "objective.log_scale",
    "attention.in_proj_": "head.attention.qkv.",
    "attention.out_proj.": "head.attention.out.",
    "attention_norm.": "head.attention.norm.",
    "encoder.layers.0.self_attn.in_proj_": "head.attention.qkv.",
    "encoder.layers.0.self_attn.out_proj.": "head.attention.out.",
    "encoder.layers.0.norm1.": "head.attention.norm.",
    "encoder.layers.0.linear1.": "head.attention.feed_forward.up.",
    "encoder.layers.0.linear2.": "head.attention.feed_forward.down.",
    "encoder.layers.0.norm2.": "head.attention.feed_forward.norm.",
    "encoder.norm.": "head.attention.feed_forward.last_norm.",
    "utterance.": "head.utterance.0.",
    "convolution.": "head.cif.convolutions.0.",
    "score.": "head.cif.score.",
    "project.": "head.keywords.project.0.",
    "batch_norm.": "head.keywords.norm.norm.",
}


def sclip_name(name: str) -> str:
    """Return sclip's name of a tensor of the plain loop."""
    (prefix,) = (prefix for prefix in NAMES if name.startswith(prefix))
    return NAMES[prefix] + name.removeprefix(prefix)


def in_plain_names(trained: nn.Module, plain: PlainModel) -> dict[str, torch.Tensor]:
    """Return copies of all trained tensors of sclip, under the names and in the layout of the plain loop."""
    state = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    renamed = {name: state.pop(sclip_name(name)) for name in plain.state_dict()}
    assert not state, "the plain loop must have all trained tensors"
    if plain.system.slots:  # sclip orders the channels of BatchNorm by slot first, then by width
        for name in ("weight", "bias", "running_mean", "running_var"):
            by_slot = renamed[f"batch_norm.{name}"].view(plain.system.slots, -1)
            renamed[f"batch_norm.{name}"] = by_slot.T.reshape(-1)
    return renamed


def zero_gradients(system: Published) -> dict[str, slice]:
    """Return the entries of sclip's parameters whose gradient is zero in exact arithmetic.

    The softmax of attention cancels the bias of the keys. BatchNorm cancels what is the same in all slots: the bias of
    the projection before it, and the attention layer's last bias if nothing else reads the layer's output.
    """
    entries = {"head.attention.qkv.bias": slice(SPEECH_WIDTH, 2 * SPEECH_WIDTH)}
    if system.slots or system.cif:
        entries["head.keywords.project.0.bias"] = slice(None)
    if system.slots and not system.utterance:
        entries["head.attention.norm.bias"] = slice(None)
    return entries


def clear_rounding(parameter: nn.Parameter, entries: slice) -> None:
    """Check that these entries of the gradient are rounding, and set them to zero.

    Adam would amplify the rounding to whole steps, and BatchNorm's running mean would contain them. The norm of the
    whole gradient is between 1 and 60 in these tests.
    """

    def clear(gradient: torch.Tensor) -> torch.Tensor:
        assert gradient[entries].abs().max() < 1e-12
        gradient = gradient.clone()
        gradient[entries] = 0
        return gradient

    parameter.register_hook(clear)


@pytest.fixture(autouse=True)
def fp64(cores, monkeypatch):
    """Compute everything in fp64.

    Adam amplifies the rounding of a gradient that is near zero, and the gradient of a ReLU jumps. In fp32, whether two
    trainings differ thus depends on the CPU and on the seed.
    """
    cores(1)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch, "float32", torch.float64)
    yield
    torch.set_default_dtype(default)


@pytest.mark.parametrize("case", CASES)
def test_training_equals_a_plain_loop(case):
    arch, system = CASES[case]
    model = sclip_model(arch, system.counts_padding)
    trainer = Trainer(model, TRAINING, 0, torch.device("cpu"))
    plain = PlainModel(system, model.text_tower.table[list(model.vocabulary.ids)] if model.text_tower else None)
    start = in_plain_names(trainer.trained, plain)
    plain.load_state_dict(start)
    held = zero_gradients(system)
    for name, parameter in plain.named_parameters():
        if sclip_name(name) in held:
            clear_rounding(parameter, held[sclip_name(name)])
            clear_rounding(trainer.trained.get_parameter(sclip_name(name)), held[sclip_name(name)])

    batches = [make_batch(seed) for seed in range(STEPS)]
    for batch in batches:
        trainer.train_step([batch])
    norms = train_plainly(plain, model.clip.model, batches)

    assert max(norms) > 4, "no gradient was clipped"
    trained = in_plain_names(trainer.trained, plain)
    for name, expected in plain.state_dict().items():
        torch.testing.assert_close(
            trained[name], expected, atol=TOLERANCE, rtol=0, msg=lambda text, n=name: f"{n}: {text}"
        )
    moved = {name: (p - start[name]).abs().max() for name, p in plain.named_parameters() if p.numel()}
    still = [name for name, distance in moved.items() if distance < 1e5 * TOLERANCE and sclip_name(name) not in held]
    assert not still, "these parameters did not move enough to compare them"
