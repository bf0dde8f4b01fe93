"""The HTTP session of the S3 client, which follows no redirect.

aiohttp would follow one to any host, and send the session token along. botocore itself handles a redirect to another
region: it signs the request anew, for an address that it knows.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

from aiobotocore.httpsession import AIOHTTPSession

_REDIRECTS = {301, 302, 303, 307, 308}


class RedirectError(OSError):
    """The store sends to another address, and does not name a region."""


class NoRedirects(AIOHTTPSession):  # type: ignore[misc]  # aiobotocore has no types
    """For `http_session_cls` of aiobotocore."""

    async def send(self, request: Any) -> Any:
        """As aiobotocore's. Without the name of a region botocore would ask for it, be redirected, and so on."""
        response = await super().send(request)
        if response.status_code in _REDIRECTS and "x-amz-bucket-region" not in response.headers:
            response.raw.close()
            raise RedirectError(response.status_code)
        return response

    async def _get_session(self, proxy_url: Any) -> Any:
        session = await super()._get_session(proxy_url)
        return SimpleNamespace(request=partial(session.request, allow_redirects=False))
