"""/api/v1."""

from ninja import NinjaAPI

api = NinjaAPI(title="Switchboard", version="1", urls_namespace="api")
