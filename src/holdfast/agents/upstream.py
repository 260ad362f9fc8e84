"""What the HTTP status of a model API says about a failure; the same for every vendor."""

from __future__ import annotations

from holdfast.agents.failure import FailureClass

_BY_STATUS: dict[int, FailureClass] = {
    400: FailureClass.BAD_REQUEST,
    401: FailureClass.AUTH,
    402: FailureClass.USAGE_LIMIT,
    403: FailureClass.AUTH,
    # Both OpenAI and Anthropic answer 404 for a model that does not exist or that the account may not use.
    404: FailureClass.MODEL,
    408: FailureClass.NETWORK,
    413: FailureClass.CONTEXT_EXCEEDED,
    422: FailureClass.BAD_REQUEST,
    429: FailureClass.RATE_LIMIT,
}


def by_http_status(status: int) -> FailureClass:
    """The class of a failure of which only the HTTP status (100-599) is known."""
    known = _BY_STATUS.get(status)
    if known is not None:
        return known
    if status >= 500:
        return FailureClass.OVERLOADED
    if status >= 400:
        return FailureClass.BAD_REQUEST
    return FailureClass.UNKNOWN
