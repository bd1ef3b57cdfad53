"""URLs of Redis servers."""

from __future__ import annotations

import re
from typing import Any, Dict, Mapping
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from ngcp_task_agent.client.errors import NoAddress

_TLS_FILES = ("ca", "cert", "key")


def parse_url(url: str) -> Dict[str, Any]:
    """Parse a URL into the options of a ``redis`` backend.

    ``redis://[[user]:password@]host[:port]``, ``rediss://`` for TLS with
    ``?ca=/file&cert=/file&key=/file``, or ``unix://[[user]:password@]/path``.
    A database, as in ``redis://host/1``, is ignored: channels do not belong to
    one.

    :raises NoAddress: saying what is wrong, without quoting the URL: any part
        of it can be the password
    """

    def fault(what: str) -> NoAddress:
        if "@" in url:
            what += "; in a password, write / ? # @ as %2F %3F %23 %40"
        return NoAddress(f"not a usable URL: {what}")

    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise fault("the server's name is not valid") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise NoAddress("a URL must begin with redis://, rediss:// or unix://")
    login = {"username": parts.username, "password": parts.password}
    options: Dict[str, Any] = {k: unquote(v) for k, v in login.items() if v}
    query = dict(parse_qsl(parts.query))
    if parts.scheme == "unix":
        if host or not parts.path.startswith("/"):
            raise fault("the path in unix:///path must be absolute")
        options["unix_socket"] = unquote(parts.path)
        query.pop("db", None)
    else:
        if not url.partition(":")[2].startswith("//"):
            raise fault(f"a slash is missing: {parts.scheme}://")
        if not re.fullmatch(r"/?\d*", parts.path):
            raise fault("only /DATABASE may follow the server's name")
        try:
            port = parts.port
        except ValueError:
            port = 0
        if port == 0:
            raise fault("the port must be from 1 to 65535")
        options["host"] = host or "127.0.0.1"
        if port:
            options["port"] = port
    known = "nothing"
    if parts.scheme == "rediss":
        known = f"only {', '.join(_TLS_FILES)}"
        options["tls"] = {k: query.pop(k) for k in _TLS_FILES if k in query}
    if query or parts.fragment:
        raise fault(f"{known} may follow '?'")
    return options


def url_of(server: Mapping[str, Any]) -> str:
    """Return a URL of the server, without the password.

    :param server: what parse_url() returns
    """
    user = server.get("username")
    login = f"{quote(user, safe='')}@" if user else ""
    if "unix_socket" in server:
        return f"unix://{login}{quote(server['unix_socket'])}"
    host = server["host"]
    where = f"[{host}]" if ":" in host else host
    if "port" in server:
        where += f":{server['port']}"
    tls = server.get("tls")
    query = f"?{urlencode(tls, safe='/')}" if tls else ""
    scheme = "redis" if tls is None else "rediss"
    return f"{scheme}://{login}{where}{query}"
