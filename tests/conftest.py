from standin import hub, hub_client, loopback_only  # noqa: F401
