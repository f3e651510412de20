"""
Which route took a request: its template, such as ``/orders/{id}``, never the path.

It is known once the application has routed the request, and read from what the frameworks leave in the scope.
A request that never came so far, because a layer refused it, is known only by its path.
"""

import re
from typing import Any, Final

from resilience.integrations._asgi_messages import Scope

_PARAMETER: Final = re.compile(r"\{[^{}:]+(?::([^{}]*))?\}")
_CONVERTOR: Final = re.compile(r"\{([^{}:]+):[^{}]*\}")


def normalised(template: str) -> str:
    """Return *template* without the types of its parameters: ``/orders/{id:int}`` is ``/orders/{id}``."""
    return _CONVERTOR.sub(r"{\1}", template)


def pattern_of(template: str) -> re.Pattern[str]:
    """Return what matches the paths that *template* may stand for: a parameter is one step of a path."""
    parts = _PARAMETER.split(template)
    # Every other part is the type of a parameter, or None.
    steps = (
        re.escape(part) if not number % 2 else ".+" if part == "path" else "[^/]+"
        for number, part in enumerate(parts)
    )
    return re.compile("".join(steps))


def path_of(scope: Scope) -> str:
    """Return the path within the application."""
    path: str = scope["path"]
    root = scope.get("app_root_path") or scope.get("root_path", "")
    return path.removeprefix(root) if root else path


def template_of(scope: Scope) -> str | None:
    """Return the template of the route that took the request, or None if none did or none is known."""
    template = scope.get("path_template")  # Litestar
    if template is None:
        route = scope.get("route")  # Starlette, FastAPI
        if route is None:
            return None
        template = _template_of_route(scope, route)
    return normalised(template) if template is not None and ":" in template else template


def is_told_by_route(scope: Scope) -> bool:
    """Whether the route alone says what `template_of` returns: no mount nor included router led to it."""
    return not ("app_root_path" in scope or "fastapi" in scope or "path_template" in scope)


def _template_of_route(scope: Scope, route: Any) -> str | None:
    # Mounts leave where the application itself is.
    prefix = _template_of_mounts(scope) if "app_root_path" in scope else ""
    if prefix is None or hasattr(route, "routes"):  # a mount itself took it: an application without routes
        return prefix
    if "fastapi" in scope:
        context = scope["fastapi"].get("effective_route_context")
        if context is not None and getattr(context, "original_route", None) is route:
            # FastAPI keeps what it includes as it was made, and the prefixes apart from it.
            route = context
    own = getattr(route, "path_format", None) or getattr(route, "path", None)
    return prefix + own if isinstance(own, str) else None


def _template_of_mounts(scope: Scope) -> str | None:
    """
    Return the templates of the mounts that led to the route, joined; None if they cannot be told.

    The scope has only what they matched: with ``/tenants/{id}`` it would be one name for each tenant.
    """
    root, base = scope.get("root_path", ""), scope["app_root_path"]
    left = scope["path"].removeprefix(base)
    length = len(root) - len(base)
    routes: Any = getattr(scope.get("router"), "routes", ())
    template = ""
    while length > 0:
        for mount in routes:
            matched = mount.path_regex.match(left) if hasattr(mount, "routes") else None
            if matched is not None:
                break
        else:
            return None
        rest = "/" + matched["path"]
        length -= len(left) - len(rest)
        template += mount.path
        left, routes = rest, mount.routes
    return template
