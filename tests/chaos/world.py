"""The world of a run: Redis, the agents and the observers."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional, Set

from tests.chaos.agent import Agent
from tests.chaos.observer import Observer
from tests.chaos.proxy import Proxies, Proxy
from tests.chaos.server import Server, rights
from tests.chaos.tasks import NODES
from tests.parts import CHANNEL, wait_for


class World:
    """All parts of a run, except for its clients.

    :ivar restarts: how often the server was restarted
    :ivar restarted: nodes whose agent was restarted
    :ivar left: how many commands killed agents have left
    """

    def __init__(self, folder: Path, root: Path, stock_limits: bool) -> None:
        user = [*rights(root)]
        self.user = user
        self.server = Server(folder, user, stock_limits)
        self._proxies = Proxies()
        self.agents: List[Agent] = []
        self.observers: List[Observer] = []
        self.restarts = 0
        self.restarted: Set[str] = set()
        self.left = 0
        for number, node in enumerate(NODES):
            proxy = None
            if number:
                proxy = Proxy(self._proxies, self.server.port)
            self.agents.append(Agent(node, root, self.server, proxy))

    def observe(self, *command: str) -> Observer:
        """Start an observer; all exist before the agents are let in."""
        observer = Observer(self.server.port, *command)
        self.observers.append(observer)
        return observer

    def start(self) -> None:
        self.server.start()
        self.let_agents_in()
        for agent in self.agents:
            agent.start()
        try:
            wait_for(
                lambda: (
                    self.server.subscribers(CHANNEL) == len(NODES)
                    or not all(agent.is_alive for agent in self.agents)
                )
            )
            assert all(agent.is_alive for agent in self.agents)
        except AssertionError as error:
            logs = [agent.text() for agent in self.agents]
            raise AssertionError("\n".join(logs)) from error

    def end_server(self, dump: Optional[bool]) -> None:
        """See Server.end()."""
        for agent in self.agents:
            if agent.proxy:
                agent.proxy.refuse(True)
        self.server.end(dump)

    def start_server(self) -> None:
        self.server.start()
        self.restarts += 1
        self.let_agents_in()

    def let_agents_in(self) -> None:
        """Let them connect to a server to which all observers listen."""
        for observer in self.observers:
            observer.wait_for_session(self.restarts + 1)
        self.server.open()
        for agent in self.agents:
            if agent.proxy:
                agent.proxy.refuse(False)

    def stop(self) -> None:
        """Stop all parts; may be called again."""
        for agent in self.agents:
            agent.kill()
            agent.close()
            if agent.proxy:
                agent.proxy.stop()
        self._proxies.stop()
        for observer in self.observers:
            observer.stop()
        self.server.stop()
