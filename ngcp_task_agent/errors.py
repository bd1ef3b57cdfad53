"""The errors of the agent, as a tree.

AgentError
├── Rejected            a request that is answered with ``rejected``
│   ├── Busy            there is no room or time for it now
│   ├── Duplicate       it has been seen before
│   ├── Malformed       a message that is not a request (messages.py)
│   └── DestinationError    a ``dst`` that does not follow the grammar
├── NoReplyAddress      a request that does not say where to answer
├── CannotStart         a program that could not be started
├── CannotCancel        a job that does not end
├── CannotReload        the agent could not read its configuration again
├── BusAway             there is no connection to the system bus
├── NotAllowed          the running agent has refused what it was asked
├── BusError            a method that was called over the bus has failed
└── ClientError         what the client reports (client/errors.py)

Each text is a sentence for people; none of them reports a bug in the agent.
"""

from __future__ import annotations


class AgentError(Exception):
    """The root: ``str()`` is a sentence that a person can act on."""


class Rejected(AgentError):
    """The request is refused; the text becomes the response's reason."""


class Busy(Rejected):
    """There is no room or time for the request now."""


class Duplicate(Rejected):
    """The request has been seen before."""


class DestinationError(Rejected):
    """The ``dst`` is malformed; the text quotes the faulty part."""


class NoReplyAddress(AgentError):
    """The request does not say where to send the answers."""


class CannotStart(AgentError):
    """A program could not be started; the text says which and why."""


class CannotCancel(AgentError):
    """A job was cancelled, but does not end."""


class CannotReload(AgentError):
    """The agent could not read its configuration again; the text says why."""


class BusAway(AgentError):
    """There is no connection to the system bus; the text says why."""


class NotAllowed(AgentError):
    """The running agent refuses what it was asked; the text says why."""


class BusError(AgentError):
    """A method called over the bus has failed, or has not answered.

    :ivar name: the D-Bus name of the error
    """

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text or name)
        self.name = name
