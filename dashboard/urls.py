"""Every address of the console; the API's are under /api/v1."""

from django.urls import path

from dashboard.views import (
    audit,
    breakers,
    failures,
    lab,
    messages,
    monitoring,
    operations,
    overview,
    palette,
    people,
    services,
    settings,
    sidebar,
    status,
    workers,
)
from integrations.api import api

urlpatterns = [
    path("", overview.overview, name="overview"),
    # services
    path("services/", services.list.listing, name="services"),
    path("services/new/", services.edit.new, name="service-new"),
    path("services/new/preview/", services.preview.preview_new, name="service-preview"),
    path("services/<slug:name>/", services.detail.detail, name="service"),
    path("services/<slug:name>/try/", services.preview.try_out, name="service-try"),
    path("services/<slug:name>/edit/", services.edit.edit, name="service-edit"),
    path("services/<slug:name>/pause/", services.actions.pause, name="service-pause"),
    path("services/<slug:name>/resume/", services.actions.resume, name="service-resume"),
    path("services/<slug:name>/cancel-waiting/", services.actions.cancel_waiting, name="service-cancel-waiting"),
    path("services/<slug:name>/delete/", services.actions.delete, name="service-delete"),
    path("services/<slug:name>/breaker/", breakers.override, name="breaker-override"),
    path("services/<slug:name>/signing/rotate/", services.signing.rotate, name="signing-rotate"),
    path("services/<slug:name>/signing/enable/", services.signing.enable, name="signing-enable"),
    path("services/<slug:name>/signing/disable/", services.signing.disable, name="signing-disable"),
    path("services/<slug:name>/calls/", services.calls.listing, name="service-calls"),
    path("services/<slug:name>/calls/<str:public_id>/", services.calls.detail, name="service-call"),
    path("services/<slug:name>/endpoints/new/", services.endpoints.endpoint_new, name="endpoint-new"),
    path(
        "services/<slug:name>/endpoints/<slug:endpoint>/edit/", services.endpoints.endpoint_edit, name="endpoint-edit"
    ),
    path(
        "services/<slug:name>/endpoints/<slug:endpoint>/delete/",
        services.endpoints.endpoint_delete,
        name="endpoint-delete",
    ),
    # messages
    path("messages/", messages.list.listing, name="messages"),
    path("messages/new/", messages.send.new, name="message-new"),
    path("messages/views/", messages.saved_views.save_view, name="view-save"),
    path("messages/views/<int:pk>/delete/", messages.saved_views.delete_view, name="view-delete"),
    path("messages/export.<str:name>", messages.export.export, name="message-export"),
    path("messages/<str:public_id>/", messages.detail.detail, name="message"),
    path("messages/<str:public_id>/replay/", messages.replay.replay, name="message-replay"),
    path("messages/<str:public_id>/cancel/", messages.actions.cancel, name="message-cancel"),
    path("messages/<str:public_id>/retry-now/", messages.actions.retry_now, name="message-retry-now"),
    path("messages/<str:public_id>/body/", messages.downloads.body, name="message-body"),
    path("attempts/<str:public_id>/body/", messages.downloads.attempt_body, name="attempt-body"),
    # failure groups
    path("failures/", failures.listing, name="failures"),
    path("failures/<str:public_id>/", failures.detail, name="failure"),
    path("failures/<str:public_id>/resolve/", failures.resolve, name="failure-resolve"),
    path("failures/<str:public_id>/open/", failures.reopen, name="failure-open"),
    path("failures/<str:public_id>/ignore/", failures.ignore, name="failure-ignore"),
    path("failures/<str:public_id>/note/", failures.note, name="failure-note"),
    # bulk operations
    path("operations/", operations.listing, name="operations"),
    path("operations/new/", operations.new, name="operation-new"),
    path("operations/<str:public_id>/", operations.detail, name="operation"),
    path("operations/<str:public_id>/start/", operations.start, name="operation-start"),
    path("operations/<str:public_id>/change/", operations.change, name="operation-change"),
    path("operations/<str:public_id>/pause/", operations.pause, name="operation-pause"),
    path("operations/<str:public_id>/resume/", operations.resume, name="operation-resume"),
    path("operations/<str:public_id>/cancel/", operations.cancel, name="operation-cancel"),
    # lab
    path("lab/", lab.lab, name="lab"),
    path("lab/<str:public_id>/", lab.result, name="lab-result"),
    # breakers, workers, audit
    path("breakers/", breakers.listing, name="breakers"),
    path("workers/", workers.listing, name="workers"),
    path("status/", status.status, name="status"),
    path("audit/", audit.listing, name="audit"),
    # people and settings
    path("login/", people.login, name="login"),
    path("logout/", people.logout, name="logout"),
    path("setup/<str:secret>/", people.setup, name="setup"),
    path("settings/", settings.settings, name="settings"),
    path("settings/people/new/", settings.person_new, name="person-new"),
    path("settings/people/<int:pk>/edit/", settings.person_edit, name="person-edit"),
    path("settings/tokens/new/", settings.token_new, name="token-new"),
    path("settings/tokens/<int:pk>/delete/", settings.token_delete, name="token-delete"),
    path("settings/retention/", settings.retention_edit, name="retention"),
    path("settings/password/", people.password, name="password"),
    # fragments for htmx
    path("_p/overview/", overview.overview_panel, name="_overview"),
    path("_p/services/", services.list.listing_panel, name="_services"),
    path("_p/services/<slug:name>/", services.detail.detail_panel, name="_service"),
    path("_p/services/<slug:name>/form/<slug:group>/", services.edit.form_group, name="_service_form"),
    path("_p/form/<slug:group>/", services.edit.form_group, name="_new_form"),
    path("_p/services/<slug:name>/try/", services.preview.backtest_panel, name="_service_try"),
    path("_p/policy/retries/", services.preview.preview_panel, {"group": "retries"}, name="_preview_retries"),
    path("_p/policy/breaker/", services.preview.preview_panel, {"group": "breaker"}, name="_preview_breaker"),
    path("_p/messages/", messages.list.listing_panel, name="_messages"),
    path("_p/messages/words/", messages.suggestions.suggestions, name="_suggestions"),
    path("_p/messages/<str:public_id>/", messages.detail.detail_panel, name="_message"),
    path("_p/failing/", sidebar.failing_panel, name="_failing"),
    path("_p/failures/", failures.listing_panel, name="_failures"),
    path("_p/failures/<str:public_id>/", failures.detail_panel, name="_failure"),
    path("_p/operations/", operations.listing_panel, name="_operations"),
    path("_p/operations/<str:public_id>/", operations.detail_panel, name="_operation"),
    path("_p/breakers/", breakers.listing_panel, name="_breakers"),
    path("_p/workers/", workers.listing_panel, name="_workers"),
    path("_p/status/", status.status_panel, name="_status"),
    path("_p/lab/endpoints/", lab.endpoints, name="_lab_endpoints"),
    path("_p/trouble/", sidebar.trouble_panel, name="_trouble"),
    path("_p/palette/", palette.palette, name="_palette"),
    # for machines
    path("healthz", monitoring.healthz, name="healthz"),
    path("readyz", monitoring.readyz, name="readyz"),
    path("metrics", monitoring.metrics, name="metrics"),
    path("api/v1/", api.urls),
]

handler400 = "dashboard.views.errors.malformed"
handler403 = "dashboard.views.errors.forbidden"
handler404 = "dashboard.views.errors.not_found"
handler500 = "dashboard.views.errors.broken"
