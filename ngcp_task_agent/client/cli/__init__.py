"""``ngcp-invoke-task``: the client for a shell."""
