"""The HTTP session of the S3 client, which follows no redirect.

aiohttp would follow one to any host, and send the session token along. botocore itself handles a redirect to another
region: it signs the request anew, for an address that it knows.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any

from aiobotocore.httpsession import AIOHTTPSession


class NoRedirects(AIOHTTPSession):  # type: ignore[misc]  # aiobotocore has no types
    """For `http_session_cls` of aiobotocore; a redirect is the answer of the store, and so a fault."""

    async def _get_session(self, proxy_url: Any) -> Any:
        session = await super()._get_session(proxy_url)
        return SimpleNamespace(request=partial(session.request, allow_redirects=False))
