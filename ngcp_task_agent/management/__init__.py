"""Management over the bus: the interface, the agent's side, and a client."""
