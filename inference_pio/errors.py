"""The errors a caller can expect; each knows the exit code the command line documents for it.

Messages are one sentence: what was wrong, where, and how to mend it.
"""

from __future__ import annotations


class InferencePioError(Exception):
    """Base of every error raised on purpose; exit code 1 unless a subclass says otherwise."""

    exit_code = 1


class BadInputError(InferencePioError, ValueError):
    """The caller's input or usage is wrong: a file, an option, a request."""

    exit_code = 2


class GateFailedError(InferencePioError):
    """An artifact differs from its original by more than the gate allows."""

    exit_code = 3


class ResourceLimitError(InferencePioError):
    """Memory or disk would be, or was, exceeded."""

    exit_code = 4
