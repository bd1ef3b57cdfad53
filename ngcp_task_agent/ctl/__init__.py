"""ngcp-task-agentctl: look at the agent of this node, and manage it."""
