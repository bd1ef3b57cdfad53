"""The daemon: start, reload, drain, and its ties to systemd."""
