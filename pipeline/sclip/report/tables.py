"""Build the report's tables, for Markdown and for the page."""

from typing import Any

from sclip.errors import counted, printable
from sclip.evaluation.retrieval import always_found
from sclip.report.results import EvaluatedRun, Results, differing_settings, training_of
from sclip.report.table import Column, Measurement, Table, TableRow, lookup, measure, summarize

MAX_SLOT_COLUMNS = 12
SYNONYMS_AS_ONE = "content, synonyms as one"  # a key of metrics.json
LISTED_GROUPS = 20  # speakers or languages
TOPLINE = "ASR → CLIP text (uses text)"  # retrieval with what a speech recogniser wrote
COMMON, LISTED = 10, 8  # a listed word occurs in at least this many captions; the length of each list


def tables(results: Results) -> list[Table]:
    """Return the tables that have rows and columns."""
    candidates = (
        retrieval(results),
        keywords(results),
        first_slots(results),
        words(results),
        localization(results),
        boundaries(results),
        spotting(results),
        *groups(results),
    )
    return [table for table in candidates if table.rows and table.columns]


def results_note(results: Results) -> str:
    """Return a text that says how to read the numbers and what they were measured on."""
    about = results.first_run.metrics["about"]
    sentences = [f"Speech features: {about['states']}."]
    if any(len(runs) == 1 for runs in results.runs.values()):
        resamples = about["bootstrap"]["resamples"]
        sentences.append(f"In brackets: 95 % intervals, from {resamples} bootstrap resamples of the test pictures.")
    pictures = results.first_run.metrics["counts"]["pictures"]
    if certain := always_found(pictures):
        sentences.append(
            f"The test split has {counted(pictures, 'pictures')}, so speech → image {' and '.join(certain)} is 100 % "
            "for every model."
        )
    if several := [f"{arch}: {len(runs)}" for arch, runs in results.runs.items() if len(runs) > 1]:
        sentences.append(f"With ±: mean and standard deviation over seeds (number of seeds: {', '.join(several)}).")
    if mixed := [line for runs in results.runs.values() for line in _different_trainings(runs)]:
        sentences.append(f"Mean and deviation mix seeds that were trained in different ways. {'. '.join(mixed)}.")
    if results.random_encoders:
        sentences.append(f"Not a result of trained encoders: {' and '.join(results.random_encoders)}.")
    if results.missing:
        sentences.append(f"Not run: {', '.join(results.missing)}.")
    return " ".join(sentences)


def _different_trainings(runs: list[EvaluatedRun]) -> list[str]:
    """Return a line for each run of one architecture if they were not trained in the same way, otherwise none."""
    different = differing_settings(runs)
    if not different and len({training_of(run) for run in runs}) == 1:
        return []
    lines = []
    for run in runs:
        architecture = run.metrics["about"].get("architecture")
        settings = [f"{key} {lookup(architecture, key.split('.'))}" for key in different if architecture is not None]
        lines.append(", ".join([f"{run.arch}, seed {run.seed}: {training_of(run)}", *settings]))
    return lines


def retrieval(results: Results) -> Table:
    recalls = ("R@1", "R@5", "R@10")
    columns = [Column(direction, recall) for direction in ("speech → image", "image → speech") for recall in recalls]
    columns.append(Column("speech → text", "R@10"))

    def cells(runs: list[EvaluatedRun], branch: str, query: str = "speech") -> list[Measurement | None]:
        to_image = [(f"{query}_to_image", recall) for recall in recalls]
        from_image = [(f"image_to_{query}", recall) for recall in recalls]
        measured = (*to_image, *from_image, (f"{query}_to_text", "R@10"))
        return [measure(runs, direction, branch, recall) for direction, recall in measured]

    rows = [TableRow(name, cells(runs, branch), runs[0].arch) for name, branch, runs in results.branches]
    topline = cells([results.first_run], "clip", "text")
    if any(topline):
        rows.append(TableRow("CLIP with written captions", topline))
    recognized = cells([results.first_run], "clip", "transcript")
    if any(recognized):
        rows.append(TableRow(TOPLINE, recognized))
    rows.append(TableRow("chance", cells([results.first_run], "chance")))
    note = (
        "R@K is the share of queries, in %, that have a correct match among their first K results. Speech to text is "
        f"zero-shot: training pairs speech with pictures only, never with text.{_text_counts(results)}"
        f"{_whose_transcripts(results)}"
    )
    return Table("Retrieval", note, columns, rows)


def _whose_transcripts(results: Results) -> str:
    """Say that the topline of speech recognition uses text, and whose transcripts it has."""
    metrics = results.first_run.metrics
    source = metrics["about"].get("transcripts")
    if source is None:
        return ""
    count, utterances = metrics["counts"]["transcripts"], metrics["counts"]["utterances"]
    some = "" if count == utterances else f", of {count:,} of the {utterances:,} utterances"
    return f" The row {TOPLINE!r} is no speech model: CLIP reads transcripts ({printable(source)}{some})."


def _text_counts(results: Results) -> str:
    """Say how many utterances have text and how many texts are distinct, if either is fewer than all."""
    counts = results.first_run.metrics["counts"]
    captions, distinct = counts["captions"], counts["distinct_captions"]
    repeated = f" Repeated texts count once; distinct texts among the {captions:,} captions: {distinct:,}."
    return _with_text(results) + (repeated if distinct < captions else "")


def _with_text(results: Results) -> str:
    """Say how many utterances have text, if only some do."""
    counts = results.first_run.metrics["counts"]
    utterances, captions = counts["utterances"], counts["captions"]
    if not 0 < captions < utterances:
        return ""
    return f" {captions:,} of {utterances:,} utterances have text; metrics that need text are measured on these."


def _content_words(results: Results) -> str:
    """Say which words count as content words."""
    stop_words = results.first_run.metrics["about"]["stop_words"]
    if stop_words.startswith("none"):
        return f" Content words: all words, without punctuation (stop words: {stop_words})."
    return f" Content words: all words except {stop_words} and punctuation."


def keywords(results: Results) -> Table:
    keys = {
        Column("", "hit rate"): ["hit_rate"],
        Column("", "F1, all tokens"): ["all", "f1"],
        Column("", "F1, content words"): ["content", "f1"],
        Column("", "F1, synonyms as one"): [SYNONYMS_AS_ONE, "f1"],
        Column("", "F1, complete words"): ["words", "f1"],
        Column("", "duplicates"): ["duplicates"],
        Column("", "distinct tokens", percent=False): ["distinct_tokens"],
        Column("", "keywords per utterance", percent=False): ["per_utterance"],
    }
    synonyms = " Synonyms as one: content words, where words of one meaning, such as small and little, are one word."
    if not any(SYNONYMS_AS_ONE in run.metrics.get("keywords", {}).get("model", {}) for run in results.all_runs):
        del keys[Column("", "F1, synonyms as one")]
        synonyms = ""
    rows = []
    for arch, runs in results.runs.items():
        if "keywords" not in runs[0].metrics:
            continue
        for predictor, label, row_arch in (
            ("model", arch, arch),
            ("commonest", "most frequent tokens", None),
            ("commonest_content", "most frequent content words", None),
        ):
            cells = [measure(runs, "keywords", predictor, *key) for key in keys.values()]
            rows.append(TableRow(label, cells, row_arch))
    note = (
        "Keywords compared with the tokens of the spoken caption, means over utterances. Hit rate: the share of "
        "keywords, in %, for which the caption contains the keyword or one of the four tokens with the nearest "
        f"embeddings.{synonyms} Complete words: pieces are joined with the keywords after them until one ends a word. "
        "Distinct tokens: in all keywords of the test split. The rows below each architecture are baselines: they "
        "always predict the most frequent tokens, or content words, of the training captions, as many as the "
        "architecture finds on average."
        f"{_content_words(results)}{_with_text(results)}"
    )
    return Table("Keywords", note, list(keys), rows)


def first_slots(results: Results) -> Table:
    """Return the hit rate of the first K keywords, for growing K."""
    most = max((len(run.words.get("slots", ())) for run in results.all_runs), default=0)
    counts = range(1, min(most, MAX_SLOT_COLUMNS) + 1)
    rows = [
        TableRow(arch, [summarize([_hit_rate(run, count) for run in runs]) for count in counts], arch)
        for arch, runs in results.runs.items()
        if runs[0].words
    ]
    note = (
        "The hit rate, in %, of the first 1, 2, 3, … keywords of each utterance. An utterance with fewer keywords "
        "counts with those it has."
    )
    return Table("Hit rate of the first keywords", note, [Column("first", str(count)) for count in counts], rows)


def _hit_rate(run: EvaluatedRun, count: int) -> Any:
    """Return the hit rate of the first `count` keywords, or of all keywords if the model has fewer."""
    rows = run.words["slots"][:count]
    return rows[-1]["hit_rate"] if rows else None


def words(results: Results) -> Table:
    """Return the recall of content words, by how many captions contain the word."""
    studied = {arch: runs for arch, runs in results.runs.items() if runs[0].words}
    bands = {
        (row["from"], row["below"]): row["words"] for runs in studied.values() for row in runs[0].words["by_frequency"]
    }
    rows, remarks = [], []
    for arch, runs in studied.items():
        recalls = [{(row["from"], row["below"]): row["found"] for row in run.words["by_frequency"]} for run in runs]
        rows.append(TableRow(arch, [summarize([recall.get(band) for recall in recalls]) for band in bands], arch))
        remarks += _best_and_worst_words(runs[0])
    note = (
        "The share, in %, of content words in the captions that are also among the keywords. The columns group the "
        f"words by the number of test captions that contain them. The lists below are for the first seed and for words "
        f"in at least {COMMON} captions.{_content_words(results)}"
    )
    columns = [Column(counted(number, "words") + " in", _band(*band)) for band, number in bands.items()]
    return Table("Word recall", note, columns, rows, tuple(remarks))


def _best_and_worst_words(run: EvaluatedRun) -> list[str]:
    """Name the common content words with the highest and the lowest recall."""
    common = [word for word in run.words["words"] if word["content"] and word["spoken"] >= COMMON]
    order = sorted(common, key=lambda word: (-word["found"] / word["spoken"], -word["spoken"], word["word"]))
    remarks = []
    for extreme, chosen in (("highest", order[:LISTED]), ("lowest", order[: -LISTED - 1 : -1])):
        if chosen:
            listed = ", ".join(f"{w['word']} ({100 * w['found'] / w['spoken']:.0f} % of {w['spoken']})" for w in chosen)
            remarks.append(f"Words with the {extreme} recall, {run.arch}: {listed}.")
    return remarks


def _band(start: int, below: int | None) -> str:
    if below is None:
        return f"{start} or more captions"
    last = below - 1
    return f"{start}–{last} captions" if last > start else f"{start} caption{'s' if start > 1 else ''}"


def localization(results: Results) -> Table:
    figures = {"located": "located", "overlap": "overlap", "chance": "chance", "in order": "in_order"}
    keys = [(group, name) for group in ("all", "content") for name in figures]
    rows = [
        TableRow(arch, [measure(runs, "localization", group, figures[name]) for group, name in keys], arch)
        for arch, runs in results.runs.items()
        if "localization" in runs[0].metrics
    ]
    note = (
        "Where the keywords that are words of the caption lie, in %: means over the utterances that have such "
        "keywords. Located: the frame with the slot's greatest weight lies within the word. Overlap: intersection of "
        "the slot's span and the word's time, divided by their union. Chance: what a random moment of the utterance "
        "would locate. In order: what evenly spaced moments would locate, one for each slot in turn; CIF's slots are "
        "in the order of time."
    )
    groups = {"all": "all words", "content": "content words"}
    return Table("Keyword localisation", note, [Column(groups[group], name) for group, name in keys], rows)


def boundaries(results: Results) -> Table:
    metrics = {"F1": "f1", "R-value": "r_value"}
    keys = [(f"within {t} ms", name, f"{t}ms", key) for t in (20, 50) for name, key in metrics.items()]
    rows = []
    for arch, runs in results.runs.items():
        if "boundaries" not in runs[0].metrics:
            continue
        for predictor, label in {
            "cif": arch,
            "cif_shifted": f"{arch}, shifted",
            "even": "evenly spaced",
            "even_shifted": "evenly spaced, shifted",
            "random": "at random",
        }.items():
            cells = [measure(runs, "boundaries", tolerance, predictor, key) for _, _, tolerance, key in keys]
            rows.append(TableRow(label, cells, arch if predictor.startswith("cif") else None))
    note = (
        "Firing times of continuous integrate-and-fire (CIF) compared with the times at which words end, in %. The "
        "rows below each architecture are baselines with the same number of firings: evenly spaced, and at random (the "
        "mean of ten draws). Shifted: all firings are moved by one time, at most 0.2 s, because CIF may fire some time "
        "after a word; one half of the pictures chooses the time for the other. R-value: of Räsänen et al. (2009)."
    )
    return Table("Word boundaries", note, [Column(group, name) for group, name, _, _ in keys], rows)


def spotting(results: Results) -> Table:
    metrics = ("P@10", "P@N", "EER", "AP")
    keys = [(kind, metric) for kind in ("semantic", "exact") for metric in metrics]
    rows = []
    for arch, runs in results.runs.items():
        spotted = runs[0].metrics.get("keyword_spotting", {})
        for system in spotted.get("semantic", {}) | spotted.get("exact", {}):
            if system != "chance":
                cells = [measure(runs, "keyword_spotting", kind, system, metric) for kind, metric in keys]
                rows.append(TableRow(f"{arch}, {system}", cells, arch))
    note = (
        "Ranking the labelled utterances for each written keyword, in %. Semantic: people found the keyword relevant. "
        "Exact: the keyword was spoken. Parallel and cascaded: the utterance's vector and the keyword as a text; "
        "slots: the keyword slots. P@N: precision among the first N, where N are relevant; EER: equal error rate; AP: "
        "average precision. Intervals are over keywords."
    )
    return Table("Keyword spotting", note, [Column(kind, metric) for kind, metric in keys], rows)


def groups(results: Results) -> list[Table]:
    """Return a table for speakers and one for languages, if the corpus names several of them."""
    return [_groups(results, column) for column in lookup(results.first_run.metrics, ["groups"]) or {}]


def _groups(results: Results, column: str) -> Table:
    first = results.first_run.metrics["groups"][column]
    listed = first["groups"][:LISTED_GROUPS]
    branches = results.branches
    columns = [Column("test", "utterances", percent=False)]
    columns += [Column(name, recall) for name, _, _ in branches for recall in ("R@1", "R@10")]
    scores = {name: [_by_name(run, column) for run in runs] for name, _, runs in branches}
    rows = []
    for group in listed:
        cells = [
            summarize([lookup(groups_of_run, [group["name"], branch, recall]) for groups_of_run in scores[name]])
            for name, branch, _ in branches
            for recall in ("R@1", "R@10")
        ]
        rows.append(TableRow(printable(group["name"]), [Measurement(group["utterances"], places=0), *cells]))
    cut = (
        f" The {len(listed)} {column}s with most utterances, of {first['count']}."
        if len(listed) < first["count"]
        else ""
    )
    note = (
        f"Speech to image by {column}, in %. The utterances of each {column} are queries among all test pictures, so "
        f"the rows can be compared with one another and with the whole split.{cut} metrics.json has up to 100."
    )
    return Table(f"By {column}", note, columns, rows)


def _by_name(run: EvaluatedRun, column: str) -> dict[str, Any]:
    """Return a run's scores of each group, by the group's name."""
    return {group["name"]: group for group in lookup(run.metrics, ["groups", column, "groups"]) or ()}
