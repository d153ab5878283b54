"""The rules of ``exec-server-codegen breaking``: every kind of change, and its severity.

A contract has two ends that are never replaced at once, so a change must hold for two pairs:

* an older client with a newer server, which must take what that client sends, and send nothing that
  it refuses;
* a newer client with an older server, whose messages the newer client must still take.

What a newer client sends is its author's choice: a method or a value that older servers lack says
since when it is there. That is why adding to what clients send is compatible, while for what
servers send both adding and removing a value break one of the pairs. Members are the exception:
receivers ignore those that they do not know.

``PARAM_`` rules are about what clients send, ``RESULT_`` rules about what servers send, in results
as well as in the params of notifications and of their own requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class Severity(StrEnum):
    """Severity of a change."""

    WIRE = "WIRE"
    """Peers of the two contracts misunderstand each other."""

    SOURCE = "SOURCE"
    """Messages stay as they are; code that uses the generated package has to change."""

    COMPATIBLE = "COMPATIBLE"
    """Nothing."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of change."""

    id: str
    """Stable name, for reports and for ``--ignore``."""

    severity: Severity
    description: str
    """Description of the change and of its effect."""


def _rules(severity: Severity, descriptions: Mapping[str, str]) -> dict[str, Rule]:
    return {name: Rule(name, severity, text) for name, text in descriptions.items()}


RULES: Final[Mapping[str, Rule]] = {
    **_rules(
        Severity.WIRE,
        {
            "REVISION_REMOVED": "A revision is gone as a whole.",
            "METHOD_REMOVED": "A method is gone: newer servers refuse the request, or no longer "
            "send the notification.",
            "METHOD_KIND_CHANGED": "A request became a notification, or the reverse.",
            "DIRECTION_CHANGED": "The other side sends the method now.",
            "SERVER_REQUEST_ADDED": "Servers send a request that older clients do not answer.",
            "PARAMS_PRESENCE_CHANGED": "Params that could be left out must be sent; of what "
            "servers send, also the reverse.",
            "ERROR_CODE_CHANGED": "An error, or a situation, is answered with another code.",
            "PARAM_REMOVED": "A member that clients send is gone: newer servers ignore it.",
            "PARAM_REQUIRED_ADDED": "Newer servers require a member that older clients do not "
            "know.",
            "PARAM_NOW_REQUIRED": "Newer servers require a member that older clients may leave "
            "out.",
            "PARAM_TYPE_NARROWED": "Newer servers refuse some of the values that older clients "
            "send.",
            "PARAM_TYPE_CHANGED": "Newer servers expect a value of another type.",
            "PARAM_ENUM_VALUE_REMOVED": "Newer servers refuse a choice that older clients may "
            "send.",
            "PARAM_BRANCH_REMOVED": "Newer servers refuse an object of a union, or no longer know "
            "a shape, that older clients may send.",
            "PARAM_LIMIT_TIGHTENED": "Newer servers refuse integers that older clients may send.",
            "PARAM_PATTERN_CHANGED": "Newer servers check strings against a pattern that older "
            "clients do not know.",
            "RESULT_MEMBER_REMOVED": "Newer servers no longer send a member that older clients "
            "require.",
            "RESULT_MEMBER_NOW_OPTIONAL": "Newer servers may leave out a member that older "
            "clients require.",
            "RESULT_REQUIRED_MEMBER_ADDED": "Newer clients require a member that older servers "
            "do not send.",
            "RESULT_MEMBER_NOW_REQUIRED": "Newer clients require a member that older servers may "
            "leave out.",
            "RESULT_TYPE_NARROWED": "Newer clients refuse some of the values that older servers "
            "send.",
            "RESULT_TYPE_WIDENED": "Older clients refuse some of the values that newer servers "
            "send.",
            "RESULT_TYPE_CHANGED": "Servers send a value of another type.",
            "RESULT_ENUM_VALUE_ADDED": "Older clients refuse a choice that newer servers may send.",
            "RESULT_ENUM_VALUE_REMOVED": "Newer clients refuse a choice that older servers may "
            "send.",
            "RESULT_BRANCH_ADDED": "Older clients refuse an object of a union that newer servers "
            "may send.",
            "RESULT_BRANCH_REMOVED": "Newer clients refuse an object of a union that older "
            "servers may send.",
            "RESULT_LIMIT_TIGHTENED": "Newer clients refuse integers that older servers may send.",
            "RESULT_LIMIT_LOOSENED": "Older clients refuse integers that newer servers may send.",
            "RESULT_PATTERN_CHANGED": "Strings that servers send follow another pattern, or none.",
            "DEFAULT_CHANGED": "The absence of a member means something else.",
            "UNIT_CHANGED": "The same integer means something else.",
            "AVAILABILITY_NARROWED": "A method or member of the revision is promised for fewer "
            "releases.",
        },
    ),
    **_rules(
        Severity.SOURCE,
        {
            "METHOD_FAMILY_CHANGED": "A method moved to another handler and client class.",
            "ERROR_REMOVED": "An error is gone, and with it its constant.",
            "RESULT_OPTIONAL_MEMBER_REMOVED": "A member that servers could leave out is gone, and "
            "with it its attribute.",
            "GENERATED_NAME_CHANGED": "A class or alias is gone, or has another name.",
            "GENERATED_MODULE_CHANGED": "A class or alias moved to another module.",
            "GENERATED_TYPE_CHANGED": "Bytes became text in the models, or the reverse.",
        },
    ),
    **_rules(
        Severity.COMPATIBLE,
        {
            "METHOD_ADDED": "A method is new: a request or notification of the client, or a "
            "notification of the server, which older clients ignore.",
            "PARAMS_PRESENCE_RELAXED": "Params of clients may be left out.",
            "ERROR_ADDED": "An error is new.",
            "PARAM_ADDED": "An optional member of what clients send is new.",
            "PARAM_NOW_OPTIONAL": "Clients may leave out a member.",
            "PARAM_TYPE_WIDENED": "Newer servers take more values.",
            "PARAM_ENUM_VALUE_ADDED": "Newer servers take one more choice.",
            "PARAM_BRANCH_ADDED": "Newer servers take one more object of a union, or shape.",
            "PARAM_LIMIT_LOOSENED": "Newer servers take more integers.",
            "PARAM_PATTERN_REMOVED": "Newer servers take any string.",
            "RESULT_MEMBER_ADDED": "An optional member of what servers send is new; older clients "
            "ignore it.",
            "AVAILABILITY_WIDENED": "A method or member of the revision is promised for more "
            "releases.",
        },
    ),
}
"""Every rule by its id: WIRE, then SOURCE, then COMPATIBLE."""
