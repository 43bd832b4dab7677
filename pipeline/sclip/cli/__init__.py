"""The command line: a command parses its options, calls one function and prints the result.

A user's mistake is one line and exit status 1. Options are checked before anything that takes seconds to import, such
as torch.
"""

from sclip.cli import corpus, demo, evaluation, features, hub, keywords, project, search, tools, training, transcription
from sclip.cli.group import main

__all__ = ["main"]

COMMANDS = (
    project.init,
    project.list_,
    project.fingerprint_code,
    corpus.fetch,
    corpus.make_corpus,
    corpus.check_corpus,
    features.plan,
    features.extract_features,
    features.embed_clip,
    transcription.transcribe,
    training.train,
    project.verify,
    evaluation.evaluate,
    evaluation.report,
    evaluation.table,
    evaluation.compare,
    search.index,
    search.search,
    search.embed,
    keywords.keywords,
    keywords.segment,
    hub.push,
    hub.benchmark,
    demo.demo,
    tools.import_,
    tools.bench,
    tools.pretrain,
)
for command in COMMANDS:
    main.add_command(command)
