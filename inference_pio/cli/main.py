"""`inference-pio`: the group of verbs, exit codes and the one place where errors are printed."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

import click

from inference_pio.cli.common import visible
from inference_pio.errors import InferencePioError, ResourceLimitError
from inference_pio.version import __version__

VERBS = {
    "export": "Export a checkpoint to an artifact.",
    "build": "Build an artifact's TensorRT engines for the GPU of this machine.",
    "calibrate": "Run a checkpoint on text and choose its rounding; exports reuse the result.",
    "verify": "Compare an artifact with its original and judge it by a gate.",
    "generate": "Continue a prompt.",
    "chat": "Talk to a model in the terminal.",
    "bench": "Measure speed and memory of an artifact.",
    "inspect": "Show what an artifact is, check its files, and judge graphs by a runtime's rules.",
    "models": "List the model plugins and their artifacts.",
    "plan": "Say whether a model fits a machine, where, and how fast it can be at best.",
    "doctor": "Show what this machine can run and what is wrong with its installation.",
    "demo": "Export, verify and run the bundled tiny model.",
}

EXIT_INTERNAL, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


class LazyGroup(click.Group):
    """Imports a verb's module only when it is asked for, so that `--help` and errors are instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"inference_pio.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="inference-pio")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Export language models to verified, quantized artifacts and run them without PyTorch.

    Exit codes: 0 done, 1 internal error, 2 wrong use or bad input, 3 an accuracy gate failed or a graph was refused,
    4 not enough memory or disk, 130 interrupted.
    """
    ctx.obj = {"debug": debug}


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code; errors are one sentence on standard error."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        result = cli.main(arguments, prog_name="inference-pio", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as exit_request:
        return exit_request.exit_code
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except InferencePioError as error:
        return _fail(str(error), error.exit_code, debug)
    except MemoryError:
        return _fail("memory ran out: close other programs or use a smaller model", ResourceLimitError.exit_code, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", EXIT_INTERRUPTED, debug)
    except Exception as error:  # noqa: BLE001 (the last resort of a program)
        hint = "" if debug else "; run again with --debug for the traceback"
        return _fail(f"internal error: {type(error).__name__}: {error}{hint}", EXIT_INTERNAL, debug)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    click.echo(f"error: {visible(message)}", err=True)
    return code
