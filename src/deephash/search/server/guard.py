"""Access to the server: which requests are refused, and the headers of every response."""

import secrets
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "deephash_token"

POLICY = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy of all responses: nothing is loaded from elsewhere."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def is_loopback(host: str) -> bool:
    """Return whether an address or host name is one of this machine only.

    >>> is_loopback("127.0.0.1"), is_loopback("[::1]"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """ASGI middleware that refuses requests of other sites and, with a token, of other people.

    Without a token, only requests to a loopback address or ``localhost`` are served, so a web site
    whose name resolves to this machine (DNS rebinding) cannot read the images. With a token, a
    request must have it in the header ``Authorization: Bearer``, or in the cookie that
    ``/?token=`` sets.

    Args:
        app: the application.
        token: None if the server listens on a loopback address.
    """

    def __init__(self, app: ASGIApp, token: str | None = None) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # there are no web sockets: the connection is closed

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        response = self._refusal(scope)
        await (self.app if response is None else response)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the response to a request that is not served; None if it is."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        try:
            host = urlsplit(f"//{hosts[0]}").hostname if len(hosts) == 1 else None
        except ValueError:
            host = None
        if host is None:
            return _error(400, "The request needs one valid Host header.")
        if self.token is None and not is_loopback(host):
            return _error(403, f"This server does not answer to the name {host!r}: use localhost.")
        if (message := _of_another_site(scope, headers, hosts[0])) is not None:
            return _error(403, message)
        return None if self.token is None else self._without_token(scope, headers, self.token)

    def _without_token(self, scope: Scope, headers: Headers, token: str) -> Response | None:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        if scope["path"] == "/" and given and _equal(given[0], token):
            page = RedirectResponse("/", status_code=303)
            page.set_cookie(COOKIE, token, httponly=True, samesite="strict")
            return page
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _equal(bearer.strip(), token):
            return None
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        if cookie is not None and _equal(cookie.value, token):
            return None
        response = _error(401, "A token is needed: open the address that deephash serve printed.")
        response.headers["WWW-Authenticate"] = "Bearer"
        return response


def _of_another_site(scope: Scope, headers: Headers, host: str) -> str | None:
    """Return a message if a page of another site made a request, other than opening the page."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return f"Requests from {origin!r} are refused: use the page of this server."
    site = headers.get("sec-fetch-site", "none")
    if site not in ("same-origin", "none") and scope["path"] != "/":
        return "Requests from pages of other sites are refused."
    return None


def _equal(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "replace"), token.encode())


def _error(status: int, message: str) -> JSONResponse:
    content: dict[str, Any] = {"error": message}
    return JSONResponse(content, status_code=status)
