"""What every command shares: lazy groups, `--json`, `--quiet`, and how errors end a run."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .errors import EXIT_FAILED, EXIT_INTERRUPTED, EgodojoError
from .locations import Location, location

if TYPE_CHECKING:
    from rich.console import Console

# What the machine refuses wherever it is asked: nobody's mistake in the code, so no traceback.
_MACHINE_ERRNOS = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EIO,
        errno.EMFILE,
        errno.ENAMETOOLONG,
        errno.ENOSPC,
        errno.EPERM,
        errno.EROFS,
        errno.ESTALE,
    }
)
_MACHINE_HINT = "Check free space and permissions, then rerun the command: it goes on."


class LocationType(click.ParamType[Location]):
    """A folder or file on a disk, or its URI in object storage: a `Path` or an `ObjectPath`."""

    name = "path"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Location:
        """Checks nothing but the form."""
        return location(value)


LOCATION = LocationType()


class PageType(click.Path):
    """A file to write, refused before any work when its folder cannot be made."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """The path, when it lies in a folder or in what may become one."""
        page = Path(os.fsdecode(super().convert(value, param, ctx)))
        above = next(path for path in page.absolute().parents if path.exists())
        if not above.is_dir():
            self.fail(f"{str(page)!r} cannot be written: {str(above)!r} is no folder.", param, ctx)
        return page


PAGE = PageType()

F = TypeVar("F", bound=Callable[..., Any])


class LazyGroup(click.Group):
    """A group whose commands are strings `module:attribute`, imported when they are used.

    `helps` gives the one-line help shown in listings, so that `--help` imports nothing.
    """

    def __init__(
        self,
        *args: Any,
        commands_at: Mapping[str, tuple[str, str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.commands_at = dict(commands_at or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order they are declared: the order of the work."""
        return [*self.commands_at, *sorted(set(self.commands) - set(self.commands_at))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name in self.commands_at:
            module, _, attribute = self.commands_at[cmd_name][0].partition(":")
            command = getattr(importlib.import_module(module), attribute)
            assert isinstance(command, click.Command)
            return command
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Add a suggestion to click's own message for an unknown command."""
        from .config import nearest

        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            hint = nearest(name, self.list_commands(ctx))
            ctx.fail(f"No such command {name!r}. {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands from their declared one-liners."""
        rows = [(name, self._short_help(ctx, name)) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def _short_help(self, ctx: click.Context, name: str) -> str:
        if name in self.commands_at:
            return self.commands_at[name][1]
        command = super().get_command(ctx, name)
        return command.get_short_help_str(limit=90) if command else ""


def output_options(function: F) -> F:
    """Add `--json` (parameter `as_json`) and `--quiet` (parameter `quiet`) to a command."""
    as_json = click.option(
        "--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."
    )
    quiet = click.option("--quiet", is_flag=True, help="No progress, no tables; errors only.")
    return as_json(quiet(function))


def training_options(function: F) -> F:
    """Add `--out`, `--set` (parameter `sets`) and `--workers` to a command that trains."""
    out = click.option("--out", required=True, type=click.Path(path_type=Path), help="Run folder.")
    sets = click.option(
        "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change one setting."
    )
    workers = click.option(
        "--workers",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Training processes; more than one are started by Ray Train.",
    )
    return out(sets(workers(function)))


def emit(
    data: Mapping[str, Any] | Sequence[Any],
    *,
    as_json: bool,
    text: str | Callable[[], str] | None = None,
    quiet: bool = False,
) -> None:
    """Print a result on stdout: JSON when asked for, else its text form."""
    if as_json:
        click.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))
    elif text is not None and not quiet:
        click.echo(text() if callable(text) else text)


def console(quiet: bool = False) -> Console:
    """A rich console on stderr, where everything that is not a result goes."""
    from rich.console import Console

    return Console(stderr=True, quiet=quiet, highlight=False)


def run(command: click.Command, args: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; user errors become one sentence and a hint."""
    ended_by: list[int] = []
    try:
        with _ended_in_order(ended_by):
            result = command.main(args=args, prog_name="egodojo", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except EgodojoError as error:
        click.echo(f"egodojo: {error.message}", err=True)
        if error.hint:
            click.echo(f"  hint: {error.hint}", err=True)
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        how = f"ended by {signal.Signals(ended_by[0]).name}" if ended_by else "interrupted"
        click.echo(f"egodojo: {how}; rerun the same command to go on.", err=True)
        return 128 + ended_by[0] if ended_by else EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        if error.errno not in _MACHINE_ERRNOS:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        click.echo(f"egodojo: {where}{error.strerror}.", err=True)
        click.echo(f"  hint: {_MACHINE_HINT}", err=True)
        return EXIT_FAILED


@contextmanager
def _ended_in_order(ended_by: list[int]) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command the way Ctrl-C does: locks and workers are let go.

    Args:
        ended_by: Gets the number of the signal that came.
    """

    def end(number: int, frame: FrameType | None) -> None:
        ended_by.append(number)
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP: let it be so
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
