"""Inspection of a corpus before its extraction: the hash, the length and the faults of every recording."""

from contextlib import closing

import torch
from tqdm.auto import tqdm

from sclip import distributed
from sclip.concurrency import chunks, prefetch_batches, prefetch_count
from sclip.corpora.manifest import Manifest
from sclip.corpora.recordings import CONVERTED, Inspected, Recordings, inspect, inspect_all
from sclip.errors import Problems
from sclip.processes import prefetch_in_processes


def inspect_corpus(rows: Manifest, device: str | torch.device, problems: Problems) -> Recordings:
    """Inspect every row's recording. Each process of torchrun inspects a share, and gets what the others found out."""
    own = Inspected()
    share = distributed.rank_share(rows)
    with tqdm(None, "recordings", len(share), unit="", disable=distributed.bar_disabled()) as bar:
        batches = (list(batch) for batch in chunks(share, 64))
        if prefetch_count(device, 1):
            inspected = prefetch_in_processes(inspect_all, batches)
        else:
            inspected = (Inspected.of(recordings) for _, recordings in prefetch_batches(batches, inspect))
        with closing(inspected):
            for following in inspected:
                own.extend(following)
                bar.update(len(following.samples))
    recordings = Recordings(rows, distributed.gather_objects(own))
    for recording in recordings:
        if recording.note is not None:
            problems.note(CONVERTED, f"{recording.row.name}: {recording.note}", brief=True)
        if recording.fault is not None:
            problems.add(recording.row.name, recording.fault.reason)
    return recordings
