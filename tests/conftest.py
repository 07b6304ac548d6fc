from standin import hub, loopback_only  # noqa: F401
