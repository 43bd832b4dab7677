"""Errors that users can act on."""

import click


class UserError(ValueError):
    """Names the file, row, key or tensor at fault, what was found and what was expected."""


class Problems:
    """Bad input, row by row: stops at the first, or goes on without it and counts."""

    def __init__(self, skip: bool = False):
        self.skip = skip
        self.skipped: dict[str, str] = {}  # a row's name: what is wrong with it
        self.notes: list[str] = []

    def add(self, row: str, message: str) -> None:
        """The row cannot be used."""
        if not self.skip:
            raise UserError(f"{row}: {message} (--on-error skip goes on without it)")
        self.skipped[row] = message

    def note(self, row: str, message: str) -> None:
        """The row can be used, after something was done to it."""
        self.notes.append(f"{row}: {message}")

    def nothing_left(self, message: str) -> UserError:
        """For when no row can be used: with what is wrong with the first ones, which is often wrong with all."""
        reasons = [f"\n  {row}: {reason}" for row, reason in self.skipped.items()]
        return UserError(f"{message}{':' if reasons else ''}{''.join(reasons[:3])}")

    def report(self) -> None:
        for row, message in self.skipped.items():
            click.echo(f"skipped  {row}: {message}", err=True)
        for note in self.notes:
            click.echo(f"note     {note}", err=True)
        if self.skipped:
            click.echo(f"{len(self.skipped)} rows skipped", err=True)
