"""One POST, by what Python brings along: proxies as the environment has them, TLS by default."""

from __future__ import annotations

import functools
import http.client
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from advlock._checkins._plan import Post

TIMEOUT: Final = 5.0  # seconds for one try
_SAME_METHOD: Final = (301, 302, 307, 308)
_TOO_MANY: Final = 429
_SERVER: Final = 500


class Failed(Exception):  # noqa: N818 - it happens
    """A try failed; the words have no URL in them."""

    def __init__(self, why: str, *, worth_another_try: bool) -> None:
        super().__init__(why)
        self.worth_another_try = worth_another_try


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Goes where it is sent with the same body, but not from https to http.

    By itself urllib makes a GET of a POST, which loses the output, and refuses 307 and 308.
    """

    def redirect_request(  # noqa: PLR0913, PLR0917 - they are urllib's
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after not in {before, "https"}:
            raise Failed(f"sent on from {before} to {after}", worth_another_try=False)
        if code not in _SAME_METHOD:
            return super().redirect_request(req, fp, code, msg, headers, newurl)
        return _request(newurl, req.data, dict(req.headers))


def _request(url: str, body: Any, headers: dict[str, str]) -> urllib.request.Request:
    # http or https: so `_plan` has read it, and so it was sent on.
    return urllib.request.Request(url, body, headers, method="POST")  # noqa: S310


def send(post: Post) -> Mapping[str, str]:
    """Send it once; the headers of the answer.

    Raises:
        Failed: It did not arrive, or was refused.
    """
    headers = {"Content-Type": post.kind, "User-Agent": _user_agent()}
    request = _request(post.url, post.body, headers)
    opener = urllib.request.build_opener(_Redirects)
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            found: Mapping[str, str] = answer.headers
            return found
    except urllib.error.HTTPError as error:
        again = error.code >= _SERVER or error.code == _TOO_MANY
        error.close()
        raise Failed(f"HTTP status {error.code}", worth_another_try=again) from None
    except urllib.error.URLError as error:
        raise Failed(_words(error.reason), worth_another_try=True) from None
    except (OSError, http.client.HTTPException) as error:
        raise Failed(_words(error), worth_another_try=True) from None


def _words(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return f"no answer within {TIMEOUT:g} s"
    if isinstance(reason, OSError):
        return (reason.strerror or type(reason).__name__).lower()
    return type(reason).__name__


@functools.cache
def _user_agent() -> str:
    from importlib import metadata  # noqa: PLC0415 - takes its time

    try:
        return f"advlock/{metadata.version('advlock')}"
    except metadata.PackageNotFoundError:
        return "advlock"
