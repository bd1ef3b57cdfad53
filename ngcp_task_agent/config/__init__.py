"""The configuration: a folder of YAML files."""
