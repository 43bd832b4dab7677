"""Models go to the hub and come back, over its HTTP API; every failure is one clear line, at once."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from golden_files import GOLDEN
from hub_server import LARGE, TOKEN, Hub
from metrics_files import write_metrics
from small import model, recordings

import sclip
from sclip.apps.hub import push
from sclip.cli import main
from sclip.encoders.source import hub_problem

FIRST, SECOND = "1" * 40, "2" * 40
SHIPPED = Path("models/scenes-hybrid-cif").resolve()
HUGE = 24 * 2**20  # bytes; the hub's library keeps what it has received in steps of 10 MB
CHECKPOINT = "base-hybrid-cif"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub with a model in two versions, and a published checkpoint."""
    folder = tmp_path_factory.mktemp("hub")
    hub = Hub(folder / "repos")
    for seed in (1, 2):
        one = model("hybrid", seed=seed)
        one.origin = {"seed": str(seed)}
        one.save(folder / str(seed))
    for repo in (
        "team/model",
        "team/cut",
        "team/stopped",
        "team/broken",
        "private/model",
        "team/readonly",
        "team/partial",
    ):
        hub.add(repo, FIRST, folder / "1", "v1")
        hub.add(repo, SECOND, folder / "2", "main")
    (hub.folder("team/partial", SECOND) / "model.safetensors").unlink()
    for repo in ("team/cut", "team/stopped"):
        (hub.folder(repo, SECOND) / "huge.safetensors").write_bytes(bytes(range(256)) * (HUGE // 256))
    (folder / "checkpoints/base/flickr").mkdir(parents=True)
    shutil.copy(GOLDEN / f"{CHECKPOINT}.ckpt", folder / "checkpoints/base/flickr/a b.ckpt")
    hub.add("authors/models", FIRST, folder / "checkpoints", "main")
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def online(hub, tmp_path_factory):
    """The results of one client process, by what it did, and the home folder that it filled."""
    home = tmp_path_factory.mktemp("home")
    encoders = ["--encoders", str(GOLDEN / f"{CHECKPOINT}.json")]
    cases = {
        "main": ["load", "team/model"],
        "branch": ["load", "team/model", "v1"],
        "commit": ["load", "team/model", FIRST],
        "no revision": ["load", "team/model", "v9"],
        "no repo": ["load", "team/none"],
        "private": ["load", "private/model"],
        "broken": ["load", "team/broken"],
        "missing file": ["load", "team/partial"],
        "import": ["sclip", "import", "hf://authors/models/base/flickr/a b.ckpt", str(home / "imported"), *encoders],
        "import --json": [
            *["sclip", "import", f"hf://authors/models@{FIRST}/base/flickr/a b.ckpt"],
            *[str(home / "imported-2"), *encoders, "--json"],
        ],
        "no file": ["sclip", "import", "hf://authors/models/large/x.ckpt", str(home / "x")],
        "no path": ["sclip", "import", "hf://authors/models", str(home / "x")],
        "a data set": ["sclip", "import", "hf://datasets/authors/models/x.ckpt", str(home / "x")],
    }
    results = hub.client(home, *cases.values())
    return dict(zip(cases, results, strict=True)), home


def test_a_model_is_that_of_the_revision(online):
    results, _ = online
    found = {name: results[name].get("seed") for name in ("main", "branch", "commit")}
    assert found == {"main": "2", "branch": "1", "commit": "1"}


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no revision", r"team/model: .*at v9: the repo has no such revision; give a branch, a tag or a commit of it"),
        (
            "no repo",
            r"team/none: .*the hub answered 401: there is no such repo, or it is private; check the name, .*HF_TOKEN",
        ),
        (
            "private",
            r"private/model: .*the hub answered 401: .* private repo log in with `hf auth login` or set HF_TOKEN",
        ),
        ("broken", r"team/broken: .*the hub answered 503: it is overloaded or has a fault; try again later"),
        ("missing file", r"model\.safetensors: no such file"),
        ("no file", r"authors/models: no file large/x\.ckpt; it has base/flickr/a b\.ckpt"),
        ("no path", r"hf://authors/models: expected a file of a model repo, hf://ORG/REPO/FILE"),
        ("a data set", r"expected a file of a model repo, hf://ORG/REPO/FILE"),
    ],
)
def test_a_failure_is_one_clear_line_at_once(online, case, message):
    result = online[0][case]
    assert not result["ok"]
    assert re.search(message, result["text"]), result["text"]
    assert result["text"].strip().count("\n") == 0
    assert result["waited"] == 0


def test_faults_that_are_not_of_the_hub_are_named():
    assert hub_problem(OSError(28, "No space left on device")) == "[Errno 28] No space left on device"
    with pytest.raises(sclip.UserError, match=r"a/-b: .*not available as a hub repo: .*-b") as error:
        sclip.load("a/-b")
    assert "cannot be reached" not in str(error.value)


def test_a_checkpoint_is_imported_by_its_address(online):
    results, home = online
    assert results["import"]["ok"], results["import"]["text"]
    report = json.loads(results["import --json"]["stdout"])
    assert report["out"] == str(home / "imported-2")
    assert report["read"][0].startswith("configuration: hybrid-cif")
    first, second = sclip.load(home / "imported"), sclip.load(home / "imported-2")
    assert first.origin["imported from"] == f"hf://authors/models@{FIRST}/base/flickr/a b.ckpt"
    assert first.origin["trained on"] == "flickr8k"
    assert first.origin == second.origin


def test_what_is_in_the_cache_needs_no_hub(hub, online):
    """Also for a hub that cannot be reached or has a fault, and then without half a minute of repeated requests."""
    home = online[1]
    for env in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        before = len(hub.requests)
        cases = [["load", "team/model"], ["load", "team/model", FIRST], ["load", "team/new"]]
        cases += [["load", "team/new", FIRST], ["clip", "ViT-B-32-quickgelu/openai"]]
        main, commit, *missing = hub.client(home, *cases, **env)
        assert (main.get("seed"), commit.get("seed")) == ("2", "1")
        assert len(hub.requests) == before
        for result in missing:
            assert not result["ok"]
            assert "Without a network: copy a filled cache to" in result["text"]
            assert result["text"].count("\n") == 0
            assert result["waited"] == 0
        if "HF_ENDPOINT" in env:
            assert "http://127.0.0.1:9 cannot be reached (ConnectError" in missing[0]["text"]
            assert "using commit 222222222222 from the cache" in main["stderr"]


@pytest.fixture(scope="module")
def second_client(hub, online, tmp_path_factory):
    """The results of loads from repos with faults, the last one also in the cache, and the home folder."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(online[1] / "hub/models--team--model", home / "hub/models--team--broken")
    names = ("team/cut", "team/stopped", "team/stopped", "team/broken")
    return home, hub.client(home, *(["load", name] for name in names))


def test_a_hub_with_a_fault_does_not_stop_what_is_in_the_cache(second_client):
    result = second_client[1][3]
    assert result["ok"], result["text"]
    assert "answered 503; using commit 222222222222 from the cache" in result["stderr"]


def downloads(hub, repo: str) -> dict[str, list[str | None]]:
    """Return the ranges that were asked for of each file, None for a whole file."""
    asked: dict[str, list[str | None]] = {}
    for method, path, headers in hub.requests:
        if method == "GET" and path.startswith(f"/{repo}/resolve/"):
            asked.setdefault(path.removeprefix(f"/{repo}/resolve/{SECOND}/"), []).append(headers["Range"])
    return asked


def test_a_download_goes_on_after_its_connection_breaks(hub, second_client):
    home, (result, *_) = second_client
    assert result["ok"], result["text"]
    whole, rest = downloads(hub, "team/cut")["huge.safetensors"]
    assert whole is None
    assert 0 < int(re.fullmatch(r"bytes=(\d+)-", rest)[1]) < HUGE
    (file,) = home.glob(f"hub/models--team--cut/snapshots/{SECOND}/huge.safetensors")
    assert file.read_bytes() == (hub.folder("team/cut", SECOND) / file.name).read_bytes()


def test_a_second_download_fetches_only_what_is_missing(hub, second_client):
    _, (_, first, second, _) = second_client
    assert not first["ok"]
    assert "team/stopped: no such folder, and not available as a hub repo: the hub answered 503" in first["text"]
    assert first["text"].count("\n") == 0
    assert second["ok"], second["text"]
    asked = downloads(hub, "team/stopped")
    assert asked.pop("huge.safetensors") == [None, None]
    assert "model.safetensors" in asked
    assert all(ranges == [None] for ranges in asked.values())


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory):
    """A project with a trained and evaluated model that was pushed, and the answer."""
    project = tmp_path_factory.mktemp("project")
    trained = model("hybrid")
    trained.encoders_inside = True
    trained.origin = {"trained on": "scenes", "preset": "tiny", "seed": "0", "speech encoder": "models/mini-hubert"}
    trained.save(project / "models/tiny/hybrid/seed-0")
    recall = {name: {"value": value, "low": value - 1, "high": value + 1} for name, value in
              (("R@1", 11.0), ("R@5", 22.0), ("R@10", 33.25))}  # fmt: skip
    metrics = {
        "about": {"arch": "hybrid", "preset": "tiny", "seed": 0, "states": "hidden states stored in fp16"},
        "counts": {"utterances": 1200, "pictures": 600},
        "speech_to_image": {"parallel": recall, "chance": {"R@1": 1.0}},
        "image_to_speech": {"parallel": recall},
        "keywords": {"model": {"content": {"f1": {"value": 44.5, "low": 43.0, "high": 46.0}}}},
    }
    results = project / "results/tiny/runs/hybrid/seed-0"
    results.mkdir(parents=True)
    write_metrics(results / "metrics.json", metrics)
    home = tmp_path_factory.mktemp("home")
    answers = hub.client(
        home,
        ["sclip", "push", "models/tiny/hybrid/seed-0", "me/other"],
        ["token", "hf_wrong"],
        ["sclip", "push", "models/tiny/hybrid/seed-0", "me/other"],
        ["token", TOKEN],
        ["sclip", "push", "models/tiny/hybrid/seed-0", "me/hybrid", "--license", "mit", "--json"],
        ["sclip", "push", str(SHIPPED), "me/scenes", "--revision", "second"],
        ["sclip", "push", "models/tiny/hybrid/seed-0", "team/readonly"],
        ["sclip", "push", "models/tiny/hybrid/seed-0", "team/broken"],
        ["sclip", "push", "models/tiny/hybrid/seed-0", "hybrid"],
        ["sclip", "push", str(SHIPPED), "me/x", "--metrics", str(results / "metrics.json")],
        ["load", "me/hybrid"],
        cwd=project,
    )
    names = ("no token", "wrong token", "trained", "shipped", "read only", "broken", "no name", "metrics", "load")
    return project, home, dict(zip(names, answers, strict=True))


def card_of(hub, repo: str, branch: str = "main") -> tuple[dict, str]:
    text = (hub.folder(repo, hub.refs[repo][branch]) / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_a_pushed_model_has_a_card_with_its_results(hub, pushed):
    answer = json.loads(pushed[2]["trained"]["stdout"])
    assert answer["repo"] == "me/hybrid"
    assert answer["commit"] == hub.refs["me/hybrid"]["main"]
    assert answer["metrics"] == "results/tiny/runs/hybrid/seed-0/metrics.json"
    head, body = card_of(hub, "me/hybrid")
    assert (head["license"], head["pipeline_tag"], head["language"]) == ("mit", "feature-extraction", "en")
    assert head["library_name"] == "sclip"
    assert "hybrid" in head["tags"]
    (index,) = head["model-index"]
    numbers = {(r["task"]["name"], m["type"]): m["value"] for r in index["results"] for m in r["metrics"]}
    assert numbers["speech to image, parallel", "recall_at_10"] == 33.25
    assert numbers["keywords that are content words of the caption", "f1"] == 44.5
    assert "| speech to image | parallel | R@10 | 33.2 | 32.2 to 34.2 |" in body
    assert "1,200 utterances and 600 pictures of the test split of tiny" in body
    assert 'sclip.load("me/hybrid")' in body
    assert "a copy of `models/mini-hubert`" in body
    assert "Twemoji (CC BY 4.0)" in body
    assert "| head | `model.safetensors` | mit |" in body


def test_a_model_with_encoders_next_to_it_is_pushed_with_them(hub, pushed):
    text = pushed[2]["shipped"]["text"]
    assert pushed[2]["shipped"]["ok"], text
    folder = hub.folder("me/scenes", hub.refs["me/scenes"]["second"])
    size = sum(file.stat().st_size for file in (folder / "clip").rglob("*"))
    assert f"clip/: the encoder is inside, {size / 1e6:,.1f} MB" in text
    assert "results on the card: none; give --metrics" in text
    assert not (hub.folder("me/scenes", hub.refs["me/scenes"]["main"]) / "config.json").exists()  # another branch
    head, body = card_of(hub, "me/scenes", "second")
    assert head["license"] == "other"
    assert "model-index" not in head
    assert f"{size / 1e6:,.1f} MB" in body
    copy, original = sclip.load(folder), sclip.load(SHIPPED)
    given = recordings(16_000)
    assert torch.allclose(copy.encode_speech(given), original.encode_speech(given), atol=1e-5)
    assert copy.keywords(given, top=1)[0][0].pieces[0].text == original.keywords(given, top=1)[0][0].pieces[0].text


def test_a_pushed_model_loads_from_the_hub(pushed):
    result = pushed[2]["load"]
    assert (result["ok"], result["text"]) == (True, "hybrid"), result


def test_large_files_go_to_the_object_store_and_others_into_the_commit(hub, pushed):
    folder = hub.folder("me/hybrid", hub.refs["me/hybrid"]["main"])
    sizes = {path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    assert min(sizes) < LARGE < max(sizes)
    assert {len(data) for data in hub.objects.values()} >= {size for size in sizes if size > LARGE}


def test_a_second_push_replaces_what_the_model_no_longer_has(hub, pushed):
    project, home, _ = pushed
    model("parallel").save(project / "parallel")
    folder = hub.folder("me/hybrid", hub.refs["me/hybrid"]["main"])
    assert (folder / "vocabulary.json").is_file()
    (folder / "picture.png").write_bytes(b"the user's own")
    (result,) = hub.client(home, ["sclip", "push", str(project / "parallel"), "me/hybrid"], HF_TOKEN=TOKEN)
    assert result["ok"], result["text"]
    folder = hub.folder("me/hybrid", hub.refs["me/hybrid"]["main"])
    assert not (folder / "vocabulary.json").exists()
    assert (folder / "picture.png").is_file()
    assert sclip.load(folder).name == "parallel"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "no token",
            r"me/other: not pushed: not logged in; use `hf auth login`, or set HF_TOKEN to a token with write",
        ),
        (
            "wrong token",
            r"me/other: not pushed: the hub answered 401: the token is not valid; use `hf auth login` again",
        ),
        ("read only", r"team/readonly: not pushed: the hub answered 403: the token may not do this; use .* with write"),
        ("broken", r"team/broken: not pushed: the hub answered 503: it is overloaded or has a fault; try again later"),
        ("no name", r"hybrid: not the name of a hub repo, which is ORG/NAME"),
        ("metrics", r"metrics\.json: about\.arch: expected 'hybrid-cif', found 'hybrid'; give the model's own metrics"),
    ],
)
def test_a_push_that_fails_is_one_line(hub, pushed, case, message):
    result = pushed[2][case]
    assert not result["ok"]
    assert re.search(message, result["text"]), result["text"]
    assert result["text"].strip().count("\n") == 0
    assert result["waited"] == 0
    assert "me/other" not in hub.refs


def test_a_push_without_a_network_is_one_line(hub, pushed):
    project, home, _ = pushed
    command = ["sclip", "push", "models/tiny/hybrid/seed-0", "me/other"]
    (result,) = hub.client(home, command, cwd=project, HF_TOKEN=TOKEN, HF_ENDPOINT="http://127.0.0.1:9")
    assert "me/other: not pushed: http://127.0.0.1:9 cannot be reached (ConnectError" in result["text"]
    assert result["text"].strip().count("\n") == 0
    assert result["waited"] == 0


def test_a_model_whose_encoders_are_copied_into_the_push_keeps_its_results(monkeypatch, tmp_path):
    """The copy that is uploaded has other files than the trained model, whose results these are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sclip.apps.hub.get_token", lambda: TOKEN)
    monkeypatch.setattr("sclip.apps.hub._upload", lambda *_: ("https://hub/me/a", FIRST))
    trained = sclip.load(SHIPPED)
    trained.encoders_inside = False
    trained.origin |= {"preset": "scenes", "seed": "0"}
    trained.save(Path("models/scenes/hybrid-cif/seed-0"))
    results = Path("results/scenes/runs/hybrid-cif/seed-0/metrics.json")
    results.parent.mkdir(parents=True)
    write_metrics(results, {"about": {"arch": "hybrid-cif"}})
    for given in (None, str(results)):
        pushed = push("models/scenes/hybrid-cif/seed-0", "me/a", metrics=given)
        assert pushed.encoder_bytes
        assert pushed.metrics == str(results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "nosuch: no such folder, and not the name of a hub repo, which is ORG/NAME"),
        ([str(SHIPPED), "--metrics", "none.json"], "none.json: no such file; run `sclip evaluate` again"),
    ],
)
def test_a_push_without_a_login_names_what_is_wrong_here_first(arguments, message, monkeypatch):
    monkeypatch.setattr("sclip.apps.hub.get_token", lambda: None)
    result = CliRunner().invoke(main, ["push", arguments[0], "me/other", *arguments[1:]])
    assert (result.exit_code, result.stderr) == (1, f"Error: {message}\n")
