"""Give damaged files to all readers: `python -m fuzz.run --inputs 1000000 --minutes 50 --log fuzz.jsonl`.

Each input is a valid file with some mutations, decided by the reader's name and the input's number. A reader must
return or raise a UserError, within ten seconds and without much memory. Every reader works in a process of its own, so
a crash of the interpreter is found too. The log says how far each reader is, so a run that was stopped goes on there;
`--only READER:NUMBER` replays an input.
"""

import argparse
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path

import torch
from fuzz.mutations import mutate
from fuzz.readers import ALLOWED, Reader, write_seeds
from tqdm.auto import tqdm

SECONDS = 10  # for one input
MEMORY = 500_000  # kB that one reader may need more than before
LONGEST_ERROR = 20_000  # characters
CHUNK = 200  # inputs of a reader at a time


class TooSlow(Exception):
    """An input took too long."""


def _stop(*_: object) -> None:
    raise TooSlow


def try_input(name: str, reader: Reader, folder: Path, number: int) -> str | None:
    """Read one mutated input, and return what is wrong with the reader, or None."""
    choose = random.Random(f"{name} {number}")
    path = folder / choose.choice(reader.files)
    valid = path.read_bytes()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path.write_bytes(mutate(valid, choose))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        reader.read(folder)
    except ALLOWED as error:
        if len(str(error)) > LONGEST_ERROR:
            return f"an error of {len(str(error)):,} characters: {str(error)[:500]}"
    except (Exception, TooSlow):
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        path.write_bytes(valid)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    return f"{grown / 1000:.0f} MB of memory" if grown > MEMORY else None


def work(name: str, reader: Reader, folder: Path, numbers: range, results: Path) -> None:
    """Try some inputs in this process, and write after each how far it is, and what is wrong."""
    signal.signal(signal.SIGALRM, _stop)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1), os.dup2(silent, 2)
    place = os.open(f"{results}.place", os.O_WRONLY | os.O_CREAT)
    with results.open("w") as file:
        for number in numbers:
            os.pwrite(place, struct.pack("q", number), 0)
            problem = try_input(name, reader, folder / name, number)
            if problem is not None:
                file.write(json.dumps({"reader": name, "number": number, "problem": problem}) + "\n")
                file.flush()
    os.pwrite(place, struct.pack("q", numbers.stop), 0)


def try_inputs(name: str, reader: Reader, folder: Path, numbers: range) -> tuple[int, list[dict[str, object]]]:
    """Try inputs in a forked process. Return the number of the next input, and the problems."""
    results = folder / "results"
    pid = os.fork()
    if not pid:
        status = 1
        with suppress(BaseException):
            work(name, reader, folder, numbers, results)
            status = 0
        os._exit(status)
    _, status = os.waitpid(pid, 0)
    problems = [json.loads(line) for line in results.read_text().splitlines()]
    (reached,) = struct.unpack("q", Path(f"{results}.place").read_bytes())
    if status:  # the input that ended the process is the last one
        code = os.waitstatus_to_exitcode(status)
        problems.append({"reader": name, "number": reached, "problem": f"the process ended with {code}"})
        reached += 1
    return reached, problems


def fuzz(folder: Path, inputs: int, seconds: float, log: Path | None) -> tuple[Counter[str], list[dict[str, object]]]:
    """Try inputs of all readers in turn, and return their counts and the problems."""
    readers = write_seeds(folder)
    done: Counter[str] = Counter()
    problems: list[dict[str, object]] = []
    if log is not None and log.exists():
        for entry in map(json.loads, log.read_text().splitlines()):
            done |= Counter(entry["done"])
            problems += entry["problems"]
    began, total = time.monotonic(), sum(reader.share for reader in readers.values())
    while done.total() < inputs and time.monotonic() - began < seconds:
        # The reader that is furthest behind its share.
        name = min(readers, key=lambda name: done[name] / readers[name].share)
        chunk = min(CHUNK, max(1, round(inputs * readers[name].share / total / 4)), inputs - done.total())
        reached, found = try_inputs(name, readers[name], folder, range(done[name], done[name] + chunk))
        done[name] = reached
        problems += found
        for problem in found:
            print(f"{problem['reader']}:{problem['number']}: {problem['problem']}", flush=True)
        if log is not None:
            with log.open("a") as file:
                file.write(json.dumps({"done": {name: reached}, "problems": found}) + "\n")
    return done, problems


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--log", type=Path, help="continue what this file has, and add to it")
    parser.add_argument("--only", help="READER:NUMBER: replay an input, and show its error")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # no thread, because threads do not survive a fork
    with tempfile.TemporaryDirectory(prefix="sclip-fuzz-") as name:
        folder = Path(name)
        if options.only is not None:
            reader, _, number = options.only.rpartition(":")
            signal.signal(signal.SIGALRM, _stop)
            print(try_input(reader, write_seeds(folder)[reader], folder / reader, int(number)) or "no problem")
            return 0
        done, problems = fuzz(folder, options.inputs, 60 * options.minutes, options.log)
    for name, count in sorted(done.items()):
        print(f"{name:24}{count:>9,} inputs, {sum(problem['reader'] == name for problem in problems)} problems")
    print(f"{done.total():,} inputs, {len(problems)} problems")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
