"""Adds to a user what can be known from the address: one `user.enriched` event for every event with an `email`.

`domain` is what follows the @. `kind` is "personal" when the domain is one of the configuration value
`personal_domains` (separated by commas), else "work". Every other field is passed on as it came.
"""

import json
from typing import Any

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import logging, store
from wit_world.imports.logging import Level
from wit_world.imports.types import Error_Reject, Event

PERSONAL_DOMAINS = "gmail.com,outlook.com,proton.me,web.de"


class Handler(exports.Handler):
    """The name is the one of the exported interface; `handle` is called once in each instance."""

    def handle(self, e: Event) -> list[Event]:
        user = parse(e.data)
        user["domain"] = user["email"].rpartition("@")[2].lower()
        user["kind"] = "personal" if user["domain"] in personal_domains() else "work"
        logging.log(Level.INFO, "enrich", f"event {e.id} is about a {user['kind']} address")
        return [json_event("user.enriched", user["email"], user)]


def parse(data: bytes) -> dict[str, Any]:
    """Bad data stays bad, so it is rejected: a retry would only delay the dead letter."""
    try:
        user = json.loads(data)
    except ValueError as error:
        raise Err(Error_Reject(f"data is not JSON: {error}")) from error
    email = user.get("email") if isinstance(user, dict) else None
    # The address becomes an attribute of an event, and those have no control characters.
    if not isinstance(email, str) or "@" not in email or not email.isprintable():
        raise Err(Error_Reject("no email in data"))
    return user


def personal_domains() -> list[str]:
    domains = store.get("personal_domains")
    return (PERSONAL_DOMAINS if domains is None else domains).split(",")


def json_event(type: str, subject: str, value: Any) -> Event:
    """`id` and `source` stay empty: the host fills them in, the same on each attempt."""
    return Event(
        id="",
        source="",
        type=type,
        subject=subject,
        time=None,
        content_type="application/json",
        extensions=[],
        data=json.dumps(value).encode(),
    )
