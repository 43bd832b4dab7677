"""Inject seeded faults into the stages of a tiny project: `python -m torture.run --faults 1000 --log faults.jsonl`.

After each fault the stage runs again without one. Its outputs must then equal those of an undisturbed run byte for
byte, or an error must name the damaged file. Each fault is decided by its seed alone. The log has a line for each one,
so a run that was stopped goes on where it stopped; `--only SEED` replays one.
"""

import argparse
import fnmatch
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from torture.faults import CLOCK, DAY, FILE_LIMIT, FULL_DISK, KILL, READ_ERROR, Injection
from torture.stages import INDEX, MODEL, STAGES, Stage, contents, copy, prepare, run, start

SURVIVED, REPORTED, WRONG = "survived", "reported", "silently wrong"
VERIFY = ("verify", "tiny")
KILL_IN_TIME, TWO = "kill at a random moment", "two processes"
DAMAGE, CHECKPOINT, BLOCK = "damaged file", "damaged checkpoint", "damaged block"
# The share of each kind.
KINDS = {
    **{KILL: 5, KILL_IN_TIME: 2, FULL_DISK: 3, FILE_LIMIT: 2, READ_ERROR: 2},
    **{DAMAGE: 5, CHECKPOINT: 1, BLOCK: 1, TWO: 1, CLOCK: 1},
}
# What a stage reads, of what it or other stages have written.
MANIFEST = ("data/tiny/manifest.jsonl", "data/tiny/manifest.digest.json")
READS = {
    "make-corpus": ("data/scenes-*/rows.jsonl", "data/scenes-*/rows.digest.json"),
    "extract-features": MANIFEST,
    "embed-clip": MANIFEST,
    "train": (*MANIFEST, "data/tiny/features/*", "data/tiny/vectors/*"),
    "evaluate": (*MANIFEST, "data/tiny/features/*", "data/tiny/vectors/*", f"{MODEL}/*"),
    "report": (*MANIFEST, "results/tiny/runs/*/*/*"),
    "index": (f"{MODEL}/*",),
}
WRITTEN = (".json", ".jsonl", ".safetensors")  # what is damaged of what a stage writes
# The folder that a stage writes to. What is already there may come from other encoders.
WRITES = {
    "extract-features": "data/tiny/features",
    "embed-clip": "data/tiny/vectors",
    "train": "models",
    "evaluate": "results",
    "report": "results",
}
OLDER = " over older outputs"
LEAST_LIMIT = 1000  # bytes: the output of the process is a file, too, which must have room for an error
BUSY = "another command is writing there"


@dataclass
class Outcome:
    seed: int
    kind: str
    stage: str
    what: str  # what exactly was done
    outcome: str
    details: str = ""  # why it is silently wrong


class Torturer:
    """Runs faults on copies of the prepared projects."""

    def __init__(self, folder: Path, stages: dict[str, Stage]):
        self.folder, self.stages = folder, stages

    def run(self, seed: int) -> Outcome:
        choose = random.Random(seed)
        kind = choose.choices(list(KINDS), list(KINDS.values()))[0]
        stage = self.stages[choose.choice(list(STAGES))]
        does: dict[str, Callable[[Stage, random.Random], tuple[str, str, str]]] = {
            DAMAGE: self.damage,
            CHECKPOINT: self.damage_checkpoint,
            BLOCK: self.damage_block,
            TWO: self.two_processes,
            KILL_IN_TIME: self.kill_in_time,
        }
        try:
            what, outcome, details = does.get(kind, lambda *given: self.inject(kind, *given))(stage, choose)
        finally:
            self.clean()
        return Outcome(seed, kind, stage.name, what, outcome, details)

    def clean(self) -> None:
        for path in self.folder.glob("work*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def inject(self, kind: str, stage: Stage, choose: random.Random) -> tuple[str, str, str]:
        """Run a stage whose process fails at one read or write."""
        limits = {READ_ERROR: stage.reads, FILE_LIMIT: largest_output(stage)}
        least = LEAST_LIMIT if kind == FILE_LIMIT else 1
        at = choose.randint(least, max(least, limits.get(kind, stage.writes)))
        work, older = self.start_project(stage, choose)
        first = run(work, stage.command, Injection(kind, at))
        what = f"{kind} at {at}{older}"
        if first.crashed:
            return what, WRONG, f"no error in one line:\n{first.output[-3000:]}"
        if kind == CLOCK:
            for name in stage.outputs:
                os.utime(work / name, (time.time() + choose.choice((-DAY, DAY)),) * 2)
        if first.status == 0 and contents(work) != stage.expected:
            return what, WRONG, f"ended without an error: {difference(contents(work), stage.expected)}"
        if first.status > 0 and not names_a_file(first.output, stage):
            return what, WRONG, f"the error names no file: {first.output[-600:]}"
        return what, *self.recover(work, stage)

    def kill_in_time(self, stage: Stage, choose: random.Random) -> tuple[str, str, str]:
        share = choose.random()
        work, older = self.start_project(stage, choose)
        start(work, stage.command).wait(kill_after=share * stage.seconds)
        return f"killed after {share:.3f} of the time{older}", *self.recover(work, stage)

    def two_processes(self, stage: Stage, choose: random.Random) -> tuple[str, str, str]:
        """Start a second process on the same outputs: one of them may be refused, and none may do harm."""
        share = choose.random()
        work, _ = self.start_project(stage, choose)
        one = start(work, stage.command, log="one")
        time.sleep(share * stage.seconds)
        other = start(work, stage.command, log="other")
        for ended in (one.wait(), other.wait()):
            if ended.status and BUSY not in ended.output:
                return f"a second process after {share:.3f}", WRONG, ended.output[-3000:]
        return f"a second process after {share:.3f}", *self.recover(work, stage)

    def damage(self, stage: Stage, choose: random.Random) -> tuple[str, str, str]:
        """Damage a file that this stage writes or reads, and run the stage again."""
        work = copy(stage.after, self.folder / "work")
        written = [name for name in stage.outputs if Path(name).suffix in WRITTEN and is_read(name)]
        read = [
            name
            for name in sorted(stage.expected)
            if any(fnmatch.fnmatch(name, pattern) for pattern in READS[stage.name]) and is_read(name)
        ]
        path = work / choose.choice(choose.choice([files for files in (written, read) if files]))
        what = f"{path.relative_to(work)}: {spoil(path, choose)}"
        again = run(work, stage.command)
        if again.crashed:
            return what, WRONG, again.output[-3000:]
        if again.status == 0 and contents(work) == stage.expected:
            return what, SURVIVED, ""
        if again.status and path.name in again.output:
            return what, REPORTED, ""
        verified = run(work, VERIFY)
        if verified.status == 1 and (path.name in verified.output or path.parent.name in verified.output):
            return what, REPORTED, ""
        problem = again.output[-600:] if again.status else difference(contents(work), stage.expected)
        return what, WRONG, f"{problem}\nverify: {verified.output[-600:]}"

    def damage_checkpoint(self, _: Stage, choose: random.Random) -> tuple[str, str, str]:
        """Kill a training late, damage its checkpoint, and resume."""
        stage = self.stages["train"]
        work = copy(stage.before, self.folder / "work")
        run(work, stage.command, Injection(KILL, choose.randint(stage.writes * 2 // 3, stage.writes)))
        checkpoints = list(work.glob("models/unfinished/**/checkpoint.pt"))
        if not checkpoints:
            return "no checkpoint yet", *self.recover(work, stage)
        what = f"checkpoint.pt: {spoil(checkpoints[0], choose)}"
        again = run(work, stage.command)
        if again.status or contents(work) != stage.expected:
            return what, WRONG, again.output[-3000:] + difference(contents(work), stage.expected)
        return what, REPORTED if "checkpoint.damaged.pt" in again.output else SURVIVED, ""

    def damage_block(self, _: Stage, choose: random.Random) -> tuple[str, str, str]:
        """Kill an index when it has written blocks, damage one of them, and resume."""
        stage = self.stages["index"]
        work = copy(stage.before, self.folder / "work")
        run(work, stage.command, Injection(KILL, choose.randint(stage.writes // 3, stage.writes)))
        blocks = sorted(work.glob(f"{INDEX}/unfinished/*.safetensors"))
        if not blocks:
            return "no block, or all of them removed", *self.recover(work, stage)
        path = choose.choice(blocks)
        what = f"{path.name}: {spoil(path, choose)}"
        again = run(work, stage.command)
        if again.status or contents(work) != stage.expected:
            return what, WRONG, again.output[-3000:] + difference(contents(work), stage.expected)
        return what, REPORTED if path.name in again.output else SURVIVED, ""

    def start_project(self, stage: Stage, choose: random.Random) -> tuple[Path, str]:
        """Copy the project before a stage; in one of three cases, with outputs of older encoders in place."""
        work = copy(stage.before, self.folder / "work")
        if stage.older is None or choose.random() > 1 / 3:
            return work, ""
        older = contents(stage.older).keys() - contents(stage.before).keys()
        for name in sorted(name for name in older if name.startswith(WRITES[stage.name])):
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(stage.older / name, work / name)
        return work, OLDER

    def recover(self, work: Path, stage: Stage) -> tuple[str, str]:
        """Run a stage again, without a fault."""
        again = run(work, stage.command)
        if again.status:
            return WRONG, f"the next run failed: {again.output[-3000:]}"
        found = contents(work)
        return (SURVIVED, "") if found == stage.expected else (WRONG, difference(found, stage.expected))


def is_read(name: str) -> bool:
    """Return whether any program reads a file. A model's card and the history of its training are for people."""
    return Path(name).name not in ("README.md", "history.json")


def largest_output(stage: Stage) -> int:
    return max((stage.after / name).stat().st_size for name in stage.outputs)


def spoil(path: Path, choose: random.Random) -> str:
    """Cut a file, or flip one of its bits; say which."""
    data = bytearray(path.read_bytes())
    if choose.random() < 0.4:
        length = choose.randrange(len(data))
        path.write_bytes(data[:length])
        return f"cut to {length} of {len(data)} bytes"
    # Half of the places are in the first kilobyte, which has the header.
    place = choose.randrange(len(data) if choose.random() < 0.5 else min(1000, len(data)))
    data[place] ^= 1 << choose.randrange(8)
    path.write_bytes(data)
    return f"a bit of byte {place} flipped"


def names_a_file(output: str, stage: Stage) -> bool:
    """Return whether an error names a file or a folder of the project."""
    lines = [line for line in output.splitlines() if line.startswith("Error: ")]
    names = [*stage.expected, *(str(path.relative_to(stage.before)) for path in stage.before.glob("*"))]
    parts = {part for name in names for part in Path(name).parts}
    return bool(lines) and any(part in lines[-1] for part in parts)


def difference(found: dict[str, str], expected: dict[str, str]) -> str:
    parts = {
        "missing": expected.keys() - found.keys(),
        "left over": found.keys() - expected.keys(),
        "different": {name for name in found.keys() & expected.keys() if found[name] != expected[name]},
    }
    return "; ".join(f"{what}: {', '.join(sorted(names)[:5])}" for what, names in parts.items() if names)


def summarize(outcomes: list[Outcome]) -> None:
    """Print the faults by kind, and each one that was silently wrong."""
    for kind in KINDS:
        counts = Counter(outcome.outcome for outcome in outcomes if outcome.kind == kind)
        print(f"{kind:24}" + ", ".join(f"{counts[name]} {name}" for name in (SURVIVED, REPORTED, WRONG)))
    counts = Counter(outcome.outcome for outcome in outcomes)
    print(f"injected {len(outcomes)}: " + ", ".join(f"{counts[name]} {name}" for name in (SURVIVED, REPORTED, WRONG)))
    for outcome in outcomes:
        if outcome.outcome == WRONG:
            print(f"\nseed {outcome.seed}: {outcome.stage}: {outcome.what}\n{outcome.details}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", type=int, help="replay the fault with this seed")
    parser.add_argument("--log", type=Path, help="continue what this file has, and add to it")
    options = parser.parse_args(arguments)
    seeds = range(options.first, options.first + options.faults) if options.only is None else [options.only]
    outcomes = []
    if options.log is not None and options.log.exists() and options.only is None:
        outcomes = [Outcome(**json.loads(line)) for line in options.log.read_text().splitlines()]
    done = {outcome.seed for outcome in outcomes}
    with tempfile.TemporaryDirectory(prefix="sclip-torture-") as folder:
        # Processes that are killed leave temporary files, which are removed with this folder.
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        torturer = Torturer(Path(folder), prepare(Path(folder)))
        try:
            for seed in seeds:
                if seed not in done:
                    outcome = torturer.run(seed)
                    outcomes.append(outcome)
                    print(f"seed {seed}: {outcome.stage}: {outcome.what}: {outcome.outcome}", flush=True)
                    if options.log is not None and options.only is None:
                        with options.log.open("a") as log:
                            log.write(json.dumps(asdict(outcome)) + "\n")
        except KeyboardInterrupt:
            print("stopped; with the same --log it goes on from here")
    summarize(outcomes)
    return int(any(outcome.outcome == WRONG for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
