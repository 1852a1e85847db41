"""The job of ``deephash serve``."""

import contextlib
import secrets
import socket

from deephash.config import schema
from deephash.config.checks import EXACT_ENGINE
from deephash.errors import ConfigError
from deephash.search.commands import open_index, update_index
from deephash.search.engines.synchronise import open_engine
from deephash.search.server.guard import is_loopback
from deephash.utils.extras import import_extra
from deephash.utils.progress import tell

PORT = 8000
"""The port if none is given and it is free; otherwise a free one."""

CONNECTIONS = 256
"""Connections at a time; further ones get status 503."""


def serve(cfg: schema.Serve) -> None:
    """Bring an index up to date and serve it until the process is interrupted.

    Args:
        cfg: the checked configuration.

    Raises:
        DeephashError: with a message for the user.
    """
    uvicorn = import_extra("uvicorn", "deephash serve")
    import_extra("fastapi", "deephash serve")
    from deephash.search.server.app import Limits, make_app
    from deephash.search.server.service import Service

    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_listen(cfg.host, cfg.port))  # refused before the update
        index = open_index(cfg)
        if cfg.update:
            update_index(index, cfg)
        exact = cfg.engine["_target_"] == EXACT_ENGINE
        engine = None if exact else stack.enter_context(open_engine(cfg.engine, index))
        service = Service(index, int(cfg.max_megapixels * 1e6), engine)
        images = len(service.snapshot())
        token = cfg.token
        if token is None and not is_loopback(cfg.host):
            token = secrets.token_urlsafe(24)
        app = make_app(service, Limits(size=int(cfg.max_megabytes * 1e6)), token)
        print(f"{images:,} images: {_address(cfg.host, listening, token)}   (Ctrl-C stops)")
        if token is not None:
            tell("The connection is not encrypted: use it in a network that you trust.")
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,  # it would contain the token
                limit_concurrency=CONNECTIONS,
                timeout_graceful_shutdown=5,
                server_header=False,
                ws="none",
            )
        )
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listening])


def _listen(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens, at ``PORT`` or a free port if none is given.

    Raises:
        ConfigError: the port is in use, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for choice in (PORT, 0) if port is None else (port,):
        try:
            return socket.create_server((host.strip("[]"), choice), family=family, backlog=128)
        except (OSError, OverflowError) as error:
            failure = error
    if port is None:
        raise ConfigError(f"host={host}  cannot be used: {failure}") from failure
    raise ConfigError(
        f"port={port}  cannot be used at {host}: {failure}. Leave it out for a free port."
    ) from failure


def _address(host: str, listening: socket.socket, token: str | None) -> str:
    """Return the address to open."""
    port = listening.getsockname()[1]
    if host in ("0.0.0.0", "::", "[::]"):
        host = socket.gethostname()
    elif ":" in host:
        host = f"[{host.strip('[]')}]"
    return f"http://{host}:{port}/" + (f"?token={token}" if token else "")
