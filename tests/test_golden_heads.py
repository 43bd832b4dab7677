"""Compare every head with the published code on the same weights: outputs, losses, gradients, statistics."""

import json

import pytest
import torch
from golden_files import GOLDEN, assert_close, cases, load, with_prefix
from open_clip.transformer import QuickGELU, TextTransformer

from sclip.config import Architecture, AttentionConfig, CifConfig, HeadConfig, KeywordConfig, ObjectiveConfig
from sclip.encoders.clip import TextTower
from sclip.heads.cif import integrate_and_fire
from sclip.heads.head import EncoderSizes, HeadOutput, SpeechHead
from sclip.interop.published import head_tensors
from sclip.objective import Objective
from sclip.padded import Padded

pytestmark = pytest.mark.golden


def architecture(case: dict, weights: dict) -> Architecture:
    """Return the configuration of a case in meta.json, with the published code's known deviations."""
    name = case["arch"]
    parallel, cif = name == "parallel", name.endswith("cif")
    head = HeadConfig(
        attention_config(case, weights),
        utterance=parallel or name.startswith("hybrid"),
        keywords=None if parallel else keyword_config(case, weights, cif),
        normalize_states=case.get("normalize", False),
    )
    cascaded_weight, parallel_weight = case.get("weights", (1.0, 1.0))
    objective = ObjectiveConfig(
        parallel=parallel_weight if head.utterance else 0.0,
        cascaded=0.0 if parallel else cascaded_weight,
        quantity=0.25 if cif else 0.0,
        learn_temperature=case.get("trainable_t", True),
    )
    return Architecture(head, objective)


def attention_config(case: dict, weights: dict) -> AttentionConfig:
    hidden = weights.get("parallel_branch.self_att.model.layers.0.linear1.weight")
    return AttentionConfig(case["heads"], 0 if hidden is None else hidden.shape[0] / hidden.shape[1], 0.0)


def keyword_config(case: dict, weights: dict, cif: bool) -> KeywordConfig:
    tokens = "cascaded_branch." + ("cascaded_cls" if case["arch"].startswith("hybrid") else "cls")
    cif_config = CifConfig(
        layers=case.get("cif_layers", 1), kernel=case.get("width", 3), dropout=0.0, convolves_padding=True
    )
    return KeywordConfig(
        slots=None if cif else weights[tokens].shape[1],
        cif=cif_config if cif else None,
        hidden=tuple(case.get("proj", [])[1:-1]),
        dropout=0.0,
        norm_counts_padding=cif,
    )


class Case:
    """Holds a head with the weights, the text tower and the input of one case."""

    def __init__(self, name: str):
        meta = json.loads((GOLDEN / "meta.json").read_text())
        dims, self.meta, self.data = meta["dims"], meta["cases"][name], load(f"{name}.safetensors")
        weights = with_prefix(self.data, "weight.")
        self.config = architecture(self.meta, weights)
        sizes = EncoderSizes(dims["hidden_states"], dims["speech"], dims["clip"], dims["clip"])
        text = TextTransformer(
            dims["context"], dims["vocab"], dims["clip"], dims["clip_heads"], dims["clip_layers"],
            output_dim=dims["clip"], act_layer=QuickGELU,
        )  # fmt: skip
        text.load_state_dict(with_prefix(weights, "clip.model."))
        self.tower = TextTower(text.eval().requires_grad_(False), dims["sot"], dims["eot"])
        self.head = SpeechHead(self.config.head, sizes, self.tower.table, blocked=[0, 2, 3])
        self.objective = Objective(self.config.objective)
        head = head_tensors(weights, self.config.head)
        if not len(self.head.tokens):
            head["tokens"] = self.head.tokens.detach()
        self.head.load_state_dict(head)
        if self.config.objective.learn_temperature:
            self.objective.load_state_dict({"log_scale": weights["criterion.temperature"]})
        self.states = Padded(self.data["input.hidden_states"].transpose(0, 1), self.data["input.lengths"])

    def run(self, mode: str) -> tuple[HeadOutput, dict]:
        self.head.train(mode != "eval")
        output = self.head(self.states, self.tower, step=5000 if mode == "train_unscaled" else 0)
        losses = self.objective(output, self.data["input.image"], self.data["input.ids"])
        return output, losses


def check_outputs(case: Case, output: HeadOutput, losses, mode: str) -> None:
    expected = with_prefix(case.data, f"{mode}.")
    actual = {}
    if output.utterance is not None:
        actual["parallel_audio_feat"] = torch.nn.functional.normalize(output.utterance, dim=-1)
    if output.keywords is not None:
        actual["cascaded_audio_feat"] = torch.nn.functional.normalize(output.sentence, dim=-1)
        actual |= {"cosine": output.keywords.cosines, "keywords": output.keywords.embeddings.values}
        actual |= case.head.keywords.quantize.perplexities(output.keywords)
        assert torch.equal(output.keywords.rows, expected.pop("vq_targets"))
    if output.cif is not None:
        firing = output.cif.firing
        actual |= {"alpha": output.cif.firing.alpha, "quantity_out": output.cif.quantity}
        actual["dsample_feats"] = firing.slots.values
        assert torch.equal(firing.slots.lengths, expected.pop("dsample_feats_length"))
        assert torch.equal(~firing.slots.valid, expected.pop("dsample_feats_pad_mask").bool())
        assert torch.equal(output.cif.target, expected.pop("target_len"))
        if "fired_marks" in expected:
            assert torch.equal(firing.fired, expected.pop("fired_marks").bool())
        unscaled = case.head.cif.alpha(case.head.attention(case.head.tokens, case.head.weighting(case.states))[1])
        actual["orig_alpha"] = unscaled
    names = {"loss": "total", "p_cl_loss": "parallel", "c_cl_loss": "cascaded", "quantity_loss": "quantity"}
    actual |= {f"loss.{name}": getattr(losses, attribute) for name, attribute in names.items()}
    del expected["image_feat"]  # the normalised pictures: only the losses use them
    for name, value in expected.items():
        assert_close(actual[name], value, f"{mode}.{name}")


@pytest.mark.parametrize("name", cases())
def test_evaluation_matches_published_code(name):
    case = Case(name)
    output, losses = case.run("eval")
    check_outputs(case, output, losses, "eval")


def steps() -> list[tuple[str, str]]:
    """Return the name and mode of each training step to test. CIF stops scaling its weights at step 5,000."""
    architectures = json.loads((GOLDEN / "meta.json").read_text())["cases"]
    cif = [name for name in cases() if architectures[name]["arch"].endswith("cif")]
    return [(name, "train") for name in cases()] + [(name, "train_unscaled") for name in cif]


@pytest.mark.parametrize(("name", "mode"), steps())
def test_training_step_matches_published_code(name, mode):
    case = Case(name)
    output, losses = case.run(mode)
    after = {key: value.clone() for key, value in case.head.state_dict().items() if "running" in key}
    check_outputs(case, output, losses, mode)
    losses.total.backward()
    check_gradients(case, "grad." if mode == "train" else "grad_unscaled.")
    if mode == "train":
        expected = head_tensors(with_prefix(case.data, "after."), case.config.head)
        assert expected.keys() == after.keys()
        for key, value in expected.items():
            assert_close(after[key], value, f"after.{key}")


def check_gradients(case: Case, prefix: str) -> None:
    published = with_prefix(case.data, prefix)
    omitted = [name for name in case.meta["zero_gradients"] if name.startswith(prefix)]
    assert len(published) + len(omitted) == len(case.meta["trainable"])
    expected = head_tensors(published, case.config.head)
    actual = {name: p.grad for name, p in case.head.named_parameters() if p.numel()}
    if "criterion.temperature" in published:
        expected["log_scale"], actual["log_scale"] = (
            published["criterion.temperature"],
            case.objective.log_scale.grad,
        )
    zero = head_tensors({name.removeprefix(prefix): torch.zeros(1) for name in omitted}, case.config.head)
    assert actual.keys() == expected.keys() | zero.keys()
    for name, value in expected.items():
        assert_close(actual[name], value, prefix + name)
    scale = max(float(g.abs().max()) for g in actual.values())
    for name in zero:
        assert float(actual[name].abs().max()) < 1e-4 * scale, name


def cif_cases() -> list[str]:
    if not (GOLDEN / "cif.safetensors").is_file():
        return []
    return sorted({key.split(".")[0] for key in load("cif.safetensors")})


@pytest.mark.parametrize("name", cif_cases())
def test_integrate_and_fire_matches_published_code(name):
    case = with_prefix(load("cif.safetensors"), f"{name}.")
    x, alpha = case["x"].requires_grad_(), case["alpha"].requires_grad_()
    training = "target_length" in case
    firing = integrate_and_fire(x, alpha, tail=None if training else 0.5)
    assert torch.equal(firing.slots.lengths, case["out_length"])
    assert_close(firing.slots.values, case["out"], "out", 1e-5)
    if training:
        assert torch.equal(firing.fired, case["fired"].bool())
        (firing.slots.values * case["probe"]).sum().backward()
        assert_close(x.grad, case["grad_x"], "grad_x", 1e-5)
        assert_close(alpha.grad, case["grad_alpha"], "grad_alpha", 1e-5)
