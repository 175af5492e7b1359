"""The ``unveil`` command. Its modules import what they need when a command runs, so that help answers at once."""

from __future__ import annotations

import sys
import warnings


def main() -> None:
    """Run the command line: exit code 0 when all went well, 1 when the work failed, 2 for bad usage."""
    from unveil.cli.app import app
    from unveil.errors import InputError, ModelFileError, ParameterError

    warnings.formatwarning = lambda message, category, *_: f"unveil: {category.__name__}: {message}\n"
    try:
        app()
    except (InputError, ModelFileError) as error:
        _fail(str(error), 1)
    except ParameterError as error:
        _fail(str(error), 2)
    except MemoryError:
        _fail("not enough memory; use a smaller model, or data in a .npy file, which is read piece by piece", 1)
    except OSError as error:
        _fail(f"{error.filename or 'file'}: {error.strerror or error}; check the name and that you may use it", 1)


def _fail(message: str, code: int) -> None:
    print(f"unveil: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)
