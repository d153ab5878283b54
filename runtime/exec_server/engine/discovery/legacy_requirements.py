"""Requirements that follow from the administrator's legacy configuration, managed_config.toml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from exec_server.engine.discovery.config_files import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exec_server.engine.discovery.toml_text import Table

_T = TypeVar("_T")

_POLICIES: Final = {
    "untrusted": "untrusted",
    "on-failure": "on-request",
    "on-request": "on-request",
    "never": "never",
}
_REVIEWERS: Final = {
    "user": ["user"],
    "auto_review": ["auto_review", "user"],
    "guardian_subagent": ["auto_review", "user"],
}
_SANDBOX_MODES: Final = {
    "read-only": ["read-only"],
    "workspace-write": ["read-only", "workspace-write"],
    "danger-full-access": ["read-only", "danger-full-access"],
}
"""Requirements that follow from settings of the legacy form."""


def requirements_of(managed: Table) -> Table:
    """Return the requirements that follow from the administrator's legacy settings."""
    required: Table = {}
    policy = managed.get("approval_policy")
    if isinstance(policy, dict) and [*policy] == ["granular"]:
        required["allowed_approval_policies"] = [policy]
    elif policy is not None:
        required["allowed_approval_policies"] = [_among(_POLICIES, "approval_policy", policy)]
    for setting, requirement, allowed in (
        ("approvals_reviewer", "allowed_approvals_reviewers", _REVIEWERS),
        ("sandbox_mode", "allowed_sandbox_modes", _SANDBOX_MODES),
    ):
        value = managed.get(setting)
        if value is not None:
            required[requirement] = _among(allowed, setting, value)
    return required


def _among(known: Mapping[str, _T], setting: str, value: Any) -> _T:
    if not isinstance(value, str) or value not in known:
        raise ConfigError(
            f"Failed to parse config requirements as TOML: {setting} must be one of "
            + ", ".join(f"`{name}`" for name in known)
        )
    return known[value]
