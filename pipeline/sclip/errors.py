"""The one error a user can mend: the command line prints it as a single line."""


class UserError(ValueError):
    """Names the file, the row or the key, what was found there and what was expected."""
