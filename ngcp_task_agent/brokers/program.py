"""What brokers that run a program have in common, however it is run.

They answer with the program's output.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import signal
from abc import abstractmethod
from functools import partial
from typing import (
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    Optional,
    Protocol,
)

from ngcp_task_agent.brokers.base import (
    Broker,
    OnOutput,
    Program,
    Result,
    Work,
)
from ngcp_task_agent.brokers.stderr import StderrLog
from ngcp_task_agent.errors import CannotStart, Rejected
from ngcp_task_agent.process.run import EndCause, Exit
from ngcp_task_agent.process.spawn import Command, find_program
from ngcp_task_agent.process.users import User, ask_user, find_user, own_user
from ngcp_task_agent.protocol.messages import UNUSABLE, Request, load_json
from ngcp_task_agent.sizes import SIZE_SCHEMA, parse_size

logger = logging.getLogger(__name__)

# Limits for all extra words together: few systems could pass more to a
# program.
_MOST_WORDS = 4096
_MOST_CHARACTERS = 131072
IN_ENVIRONMENT = 65536  # bytes; Linux allows 128 KiB for a variable
_JSON_SPACE = " \t\n\r"
_ANY = "(?s:.*)"  # the rule for extra_args: yes

_WORDS = {
    "type": ["string", "array"],
    "items": {"type": "string"},
    "format": "shell-words",
    "title": "a string, split as a POSIX shell would, or a list of strings",
}


#: JSON Schemas of the options that all of them have.
OPTIONS: Dict[str, Any] = {
    "run": {
        "type": "string",
        "pattern": r"^(/[^\0]*[^/\0]|[^/\0\s]+)\Z",
        "title": "a program: an absolute path, or a name without '/' "
        "and without spaces; its arguments go into args",
    },
    "as_user": {
        "type": "string",
        "pattern": r"^(?![0-9]+\Z).",
        "title": "the name of a user, not a number",
    },
    "args": _WORDS,
    "extra_args": {
        "type": ["boolean", "array"],
        "items": {"type": "string", "format": "regex"},
        "minItems": 1,
        "title": "yes, no, or a list of regular expressions",
    },
    "stdin": {"enum": ["none", "data"], "title": "'none' or 'data'"},
    "timeout": {
        "type": "number",
        "minimum": 0,
        "maximum": 10**8,
        "title": "a number of seconds, 0 for no limit",
    },
    "max_output": SIZE_SCHEMA,
    "log_stderr": {"type": "boolean", "title": "yes or no"},
}


class Run(Protocol):
    """One run of a program, by whatever means; to be used once."""

    @property
    def pid(self) -> Optional[int]:
        """The process of the program, while it runs."""

    async def run(self) -> Exit:
        """Start the program, and wait for its end.

        :raises CannotStart: when it could not be started
        """

    def stop(self) -> None:
        """End it; run() returns soon, with ``EndCause.STOPPED``."""


class ProgramBroker(Broker):
    """Runs the program that a task names, by means that a subclass gives."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self._run: str = options["run"]
        self._args = split_args(options.get("args", []))
        allowed = options.get("extra_args") or []
        rules: List[str] = [_ANY] if allowed is True else allowed
        self._allowed = [re.compile(rule) for rule in rules]
        self._stdin: bool = options.get("stdin", "none") == "data"
        self._timeout: float = options.get("timeout", 300)
        self._max_output = parse_size(options.get("max_output", "8M"))
        self._log_stderr: bool = options.get("log_stderr", False)
        self._own_user = own_user()
        as_user = options.get("as_user")
        # Another user than the agent's own: the name service is asked for it.
        self._as_user = None if as_user == self._own_user.name else as_user

    @property
    def has_live_output(self) -> bool:
        return True

    @property
    def timeout(self) -> Optional[float]:
        return self._timeout

    @property
    def takes_extra_args(self) -> bool:
        return bool(self._allowed)

    def programs(self) -> Mapping[str, Program]:
        try:
            named = find_user(self._as_user) if self._as_user else None
        except CannotStart:
            return {}
        return {"run": Program(self._run, named or self._own_user)}

    def problems(self) -> Mapping[str, str]:
        problems = {}
        try:
            find_program(self._run)
        except CannotStart as error:
            hint = "; its arguments go into args" if " " in self._run else ""
            problems["run"] = f"{error}{hint}"
        try:
            if self._as_user:
                self._check_user(find_user(self._as_user))
        except CannotStart as error:
            problems["as_user"] = str(error)
        return problems

    def data(self, request: Request) -> Any:
        """Return the data; a string that begins with ``{`` is decoded.

        :raises Rejected: when that breaks the rules for JSON
        """
        data = request.data
        if isinstance(data, str) and data.lstrip(_JSON_SPACE)[:1] == "{":
            return load_json(data, "data")
        return data

    def prepare(self, request: Request) -> Work:
        data = self.data(request)
        extra = _extra_words(data)
        self._check_extra(extra)
        is_used = data is None or bool(extra) or self._stdin
        in_environment = isinstance(data, dict)
        return _ProgramWork(self, request, is_used, in_environment)

    @abstractmethod
    def make_run(self, command: Command, request: Request) -> Run:
        """Return what runs a request's command."""

    def _check_extra(self, extra: List[str]) -> None:
        """Check the words that a request adds to the command line.

        :raises Rejected: when the task does not allow them
        """
        if extra and not self._allowed:
            raise Rejected("extra_args are not allowed for this task")
        if len(extra) > _MOST_WORDS or sum(map(len, extra)) > _MOST_CHARACTERS:
            raise Rejected(
                f"extra_args: more than {_MOST_WORDS} words or "
                f"{_MOST_CHARACTERS} characters"
            )
        for number, word in enumerate(extra, 1):
            if UNUSABLE.search(word):
                raise Rejected(
                    f"extra_args: word {number} must not contain NUL or half "
                    "a surrogate pair"
                )
        for number, word in enumerate(extra, 1):
            if not any(rule.fullmatch(word) for rule in self._allowed):
                raise Rejected(
                    f"extra_args: word {number} matches nothing that this "
                    "task allows"
                )

    def _check_user(self, user: User) -> None:
        if not user.is_own and self._own_user.uid != 0:
            raise CannotStart(
                f"the agent runs as '{self._own_user.name}': only root can "
                f"run commands as '{user.name}'"
            )

    async def command(
        self, request: Request, take: Optional[OnOutput]
    ) -> Command:
        """Build the command for a request.

        :param take: what takes its live output, if anything does
        :raises CannotStart: when there is no such user, or no such name in
            ``PATH``
        """
        user = self._own_user
        if self._as_user:
            user = await ask_user(self._as_user)
            self._check_user(user)
        # A path is started as it is: if that fails, Process finds out why.
        program = self._run
        if "/" not in program:
            program = find_program(program)
        # A large message takes long to parse: only if its data is used.
        is_small = request.size <= IN_ENVIRONMENT
        data, encoded = None, ""
        if is_small or self._stdin or self._allowed:
            data = self.data(request)
        if is_small or self._stdin:
            encoded = json.dumps(data)
        extra = _extra_words(data)
        if extra:
            logger.debug("request %s: extra_args %r", request.uuid, extra)
        environment = user.environment()
        environment.update(
            NGCP_TASK_NAME=request.task,
            NGCP_TASK_UUID=request.uuid,
            NGCP_TASK_SRC=request.src,
            NGCP_TASK_DST=request.dst,
        )
        if is_small and len(encoded) <= IN_ENVIRONMENT:
            environment["NGCP_TASK_DATA"] = encoded
        return Command(
            argv=[program, *self._args, *extra],
            user=user,
            environment=environment,
            max_output=self._max_output,
            stdin=encoded.encode() if self._stdin else None,
            timeout=self._timeout or None,
            on_stdout=partial(take, "stdout") if take else None,
            on_stderr=self._on_stderr(request, take),
        )

    def _on_stderr(
        self, request: Request, take: Optional[OnOutput]
    ) -> Optional[Callable[[bytes], None]]:
        log = StderrLog(request).write if self._log_stderr else None
        live = partial(take, "stderr") if take else None
        if not log or not live:
            return log or live

        def both(data: bytes) -> None:
            log(data)
            live(data)

        return both

    def result(self, ended: Exit, unused: bool = False) -> Result:
        """Build the result for the client.

        :param unused: that the program could not use the data
        """
        error = self.error(ended)
        detail = _last_line(ended.stderr) if error else ""
        by_itself = ended.cause is not EndCause.STOPPED
        return Result(
            ended.stdout, error, detail, ended.exit_status, by_itself, unused
        )

    def error(self, ended: Exit) -> str:
        """Return what is wrong with the end of a command, or nothing."""
        if ended.cause is EndCause.TIMEOUT:
            return f"the command ran past its timeout of {self._timeout:g} s"
        if ended.cause is EndCause.OUTPUT:
            return f"the command wrote more than {self._max_output} bytes"
        if ended.cause is EndCause.STOPPED:
            return "the agent is stopping and has ended the command"
        if ended.signal is not None:
            return f"the command was killed by {signal_name(ended.signal)}"
        if ended.exit_status is None:
            return "the command has ended, but a debugger holds its status"
        if ended.exit_status != 0:
            return f"the command ended with exit status {ended.exit_status}"
        return ""


class _ProgramWork(Work):
    """One run of a task's program.

    :param is_used: whether the program reads the request's data, or gets
        words of it, or there is none
    :param in_environment: whether it can use the data if that is in its
        environment
    """

    def __init__(
        self,
        broker: ProgramBroker,
        request: Request,
        is_used: bool,
        in_environment: bool,
    ) -> None:
        self._broker = broker
        self._request = request
        self._is_used = is_used
        self._in_environment = in_environment
        self._take: Optional[OnOutput] = None
        self._run: Optional[Run] = None
        self._stopped = False

    @property
    def pid(self) -> Optional[int]:
        return self._run.pid if self._run else None

    def on_output(self, take: OnOutput) -> None:
        self._take = take

    async def run(self) -> Result:
        try:
            # No other reference: standard input can be large.
            self._run = self._make_run(
                await self._broker.command(self._request, self._take)
            )
            if self._stopped:
                return Result(error="the agent is stopping")
            ended = await self._run.run()
        except CannotStart as error:
            return Result(
                error=f"the command cannot be started: {error}", by_itself=True
            )
        return self._broker.result(ended, not self._is_used)

    def _make_run(self, command: Command) -> Run:
        if self._in_environment and "NGCP_TASK_DATA" in command.environment:
            self._is_used = True
        return self._broker.make_run(command, self._request)

    def stop(self) -> None:
        self._stopped = True
        if self._run:
            self._run.stop()


def _extra_words(data: Any) -> List[str]:
    """Return the words that a request's data adds to the command line.

    :raises Rejected: when they are no words
    """
    extra = data.get("extra_args") if isinstance(data, dict) else None
    if extra is None:
        return []
    if isinstance(extra, str):
        return extra.split()
    if isinstance(extra, list) and all(isinstance(w, str) for w in extra):
        return extra
    raise Rejected("extra_args must be a string or a list of strings")


def split_args(args: Any) -> List[str]:
    """Split a task's ``args`` as a POSIX shell would, unless they are a list.

    :raises ValueError: for an unclosed quote or a trailing backslash
    """
    return shlex.split(args) if isinstance(args, str) else list(args)


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().split("\n")
    return lines[-1].strip()


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
