"""The group that all commands belong to."""

import atexit
import gc
import logging
import os
import re
import shlex
from importlib.metadata import version
from typing import Any

import click

from sclip import __version__
from sclip.errors import UserError, one_line, printable
from sclip.startup import STOPPED, STOPPED_STATUS

MORE_MEMORY = (
    "Use a GPU with more free memory, or set features.batch_seconds (finished shards are kept) or training.batch (the "
    "training starts again) to a smaller number"
)
MORE_THREADS = (
    "the system allows no more processes and threads. Stop other programs, or raise the limit (`ulimit -u`, or the "
    "limit of a container), and run the same command again"
)
FITTING_TORCHAUDIO = (
    "Install one that does: 2.11.1 for torch 2.13 or newer, 2.11.0 for torch 2.11 or 2.12, torch's own version for an "
    "older torch, and a build without CUDA for a torch without CUDA. Or uninstall it: only MFCCs need torchaudio"
)
CHOSEN_PRESET = "sclip.preset"  # the key of click's context for a preset other than the default one


class _Handler(logging.Handler):
    """Prints on standard error what this package logs, and the warnings of libraries that do not print their own."""

    def filter(self, record: logging.LogRecord) -> bool:
        package = record.name.split(".")[0]
        if package == "sclip":
            return True
        prints_itself = package != "root" and bool(logging.getLogger(package).handlers)
        return record.levelno >= logging.WARNING and not prints_itself

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(_shown(self.format(record)), err=True)


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Turn errors that a user can act on, and Ctrl-C, into one line."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo(STOPPED, err=True)
            raise SystemExit(STOPPED_STATUS) from None
        except BrokenPipeError:
            raise  # of `| head`: click ends without a message
        except UserError as error:
            raise click.ClickException(_shown(with_preset(str(error), ctx))) from None
        except ImportError as error:
            _explain_torchaudio(error)
            raise
        except RuntimeError as error:
            if str(error) == "can't start new thread":  # the message of Python's threads
                raise click.ClickException(MORE_THREADS) from None
            if type(error).__name__ != "OutOfMemoryError":  # torch's, without importing torch
                raise
            reason = ". ".join(_shown(str(error)).replace("\n", " ").split(". ")[:2]).rstrip(".")
            raise click.ClickException(f"{reason}. {MORE_MEMORY}") from None
        except OSError as error:  # of a full disk, or of a folder that cannot be written
            _explain_torchaudio(error)
            raise click.ClickException(_shown(_reason(error))) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order in which they are used."""
        return list(self.commands)


def _explain_torchaudio(error: Exception) -> None:
    """Say what to do if an import failed because of torchaudio. transformers imports it wherever it is installed."""
    cause = (error.__cause__ or error) if isinstance(error, ImportError) else error  # transformers wraps some errors
    reason = _shown(one_line(cause)).rstrip(".")
    is_of_a_file = getattr(cause, "strerror", None) is not None  # whose name may have any word
    if "torchaudio" in reason.lower() and not is_of_a_file:
        found = f"torchaudio {version('torchaudio')} does not work with torch {version('torch')}"
        raise click.ClickException(f"{found}: {reason}. {FITTING_TORCHAUDIO}") from None


def with_preset(message: str, ctx: click.Context) -> str:
    """Return a message whose advice, such as `sclip embed-clip`, names the preset if that is not the default one.

    The code that writes the message knows files and folders, but no presets.
    """
    group, preset = ctx.find_root().command, ctx.meta.get(CHOSEN_PRESET)
    if preset is None or not isinstance(group, _Commands):
        return message
    names = [name for name, command in group.commands.items() if any(o.name == "preset" for o in command.params)]
    advice = rf"`sclip ({'|'.join(names)})(?=[ `])(?![^`]*--preset)"
    return re.sub(advice, lambda found: f"{found[0]} --preset {shlex.quote(preset)}", message)


def _reason(error: OSError) -> str:
    """Return an error of the system in the form of the others: the file, and what is wrong with it."""
    if error.strerror is None:
        return str(error)
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return ": ".join([" -> ".join(names), error.strerror] if names else [error.strerror])


def _shown(message: str) -> str:
    """Return a message without control characters, which names of files may have. Its own lines stay."""
    return "\n".join(map(printable, message.split("\n")))


@click.group(cls=_Commands)
@click.version_option(__version__)
def main() -> None:
    """SpeechCLIP+: speech in CLIP's image-text space, without transcripts."""
    # At the end of the process, the collector would search torch's million objects once more, for half a second.
    atexit.register(gc.freeze)
    logging.getLogger("sclip").setLevel(logging.INFO)
    # On the root logger: without a handler there, open_clip's log calls would add one that prints each line again.
    root = logging.getLogger()
    if not any(isinstance(handler, _Handler) for handler in root.handlers):
        root.addHandler(_Handler())
