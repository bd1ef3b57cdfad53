"""Packaging metadata for pip and Debian's pybuild."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"',
    (HERE / "ngcp_task_agent/__init__.py").read_text(),
    re.M,
).group(1)

setup(
    name="ngcp-task-agent",
    version=VERSION,
    description="NGCP async communication for components",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    author="Sipwise Development Team",
    author_email="support@sipwise.com",
    url="https://www.sipwise.com",
    license="GPL-3.0-or-later",
    platforms=["Debian/Linux"],
    packages=find_packages(include=["ngcp_task_agent*"]),
    package_data={"ngcp_task_agent": ["py.typed", "client/*.json"]},
    python_requires=">=3.9",
    install_requires=[
        "PyYAML",
        "dbus-fast>=1.84.2",
        "jsonschema>=4.10",
        "redis>=4.3.4",
        "sdnotify",
        "setproctitle",
        "systemd-python",
    ],
    extras_require={
        "client": ["argcomplete", "rich"],
        "metrics": ["prometheus-client"],
    },
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.13",
    ],
)
