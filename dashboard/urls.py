"""Every address of the console; the API answers under /api/v1."""

from django.urls import path

from dashboard.views import (
    audit,
    breakers,
    calls,
    explorer,
    failures,
    health,
    lab,
    operations,
    overview,
    people,
    services,
    settings,
    shell,
    signing,
    status,
    workers,
)
from dashboard.views.messages import actions, detail, downloads, list, replay, send
from integrations.api import api

urlpatterns = [
    path("", overview.overview, name="overview"),
    # services
    path("services/", services.listing, name="services"),
    path("services/new/", services.new, name="service-new"),
    path("services/new/preview/", services.preview_new, name="service-preview"),
    path("services/<slug:name>/", services.detail, name="service"),
    path("services/<slug:name>/try/", services.try_out, name="service-try"),
    path("services/<slug:name>/edit/", services.edit, name="service-edit"),
    path("services/<slug:name>/pause/", services.pause, name="service-pause"),
    path("services/<slug:name>/resume/", services.resume, name="service-resume"),
    path("services/<slug:name>/delete/", services.delete, name="service-delete"),
    path("services/<slug:name>/breaker/", breakers.steer, name="breaker-steer"),
    path("services/<slug:name>/signing/rotate/", signing.rotate, name="signing-rotate"),
    path("services/<slug:name>/signing/enable/", signing.enable, name="signing-enable"),
    path("services/<slug:name>/signing/disable/", signing.disable, name="signing-disable"),
    path("services/<slug:name>/calls/", calls.listing, name="service-calls"),
    path("services/<slug:name>/calls/<str:public_id>/", calls.detail, name="service-call"),
    path("services/<slug:name>/endpoints/new/", services.endpoint_new, name="endpoint-new"),
    path("services/<slug:name>/endpoints/<slug:endpoint>/edit/", services.endpoint_edit, name="endpoint-edit"),
    path("services/<slug:name>/endpoints/<slug:endpoint>/delete/", services.endpoint_delete, name="endpoint-delete"),
    # messages
    path("messages/", list.listing, name="messages"),
    path("messages/new/", send.new, name="message-new"),
    path("messages/views/", explorer.save_view, name="view-save"),
    path("messages/views/<int:pk>/delete/", explorer.delete_view, name="view-delete"),
    path("messages/export.<str:name>", explorer.export, name="message-export"),
    path("messages/<str:public_id>/", detail.detail, name="message"),
    path("messages/<str:public_id>/replay/", replay.replay, name="message-replay"),
    path("messages/<str:public_id>/cancel/", actions.cancel, name="message-cancel"),
    path("messages/<str:public_id>/retry-now/", actions.retry_now, name="message-retry-now"),
    path("messages/<str:public_id>/body/", downloads.body, name="message-body"),
    path("attempts/<str:public_id>/body/", downloads.attempt_body, name="attempt-body"),
    # what failed alike
    path("failures/", failures.listing, name="failures"),
    path("failures/<str:public_id>/", failures.detail, name="failure"),
    path("failures/<str:public_id>/resolve/", failures.resolve, name="failure-resolve"),
    path("failures/<str:public_id>/open/", failures.reopen, name="failure-open"),
    path("failures/<str:public_id>/ignore/", failures.ignore, name="failure-ignore"),
    path("failures/<str:public_id>/note/", failures.note, name="failure-note"),
    # bulk work
    path("operations/", operations.listing, name="operations"),
    path("operations/new/", operations.new, name="operation-new"),
    path("operations/<str:public_id>/", operations.detail, name="operation"),
    path("operations/<str:public_id>/start/", operations.start, name="operation-start"),
    path("operations/<str:public_id>/change/", operations.change, name="operation-change"),
    path("operations/<str:public_id>/pause/", operations.pause, name="operation-pause"),
    path("operations/<str:public_id>/resume/", operations.resume, name="operation-resume"),
    path("operations/<str:public_id>/cancel/", operations.cancel, name="operation-cancel"),
    # the endpoint tester
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
    # fragments that refresh themselves
    path("_p/overview/", overview.overview_panel, name="_overview"),
    path("_p/services/", services.listing_panel, name="_services"),
    path("_p/services/<slug:name>/", services.detail_panel, name="_service"),
    path("_p/services/<slug:name>/form/<slug:group>/", services.form_group, name="_service_form"),
    path("_p/form/<slug:group>/", services.form_group, name="_new_form"),
    path("_p/services/<slug:name>/try/", services.trial_panel, name="_service_try"),
    path("_p/policy/retries/", services.preview_panel, {"group": "retries"}, name="_preview_retries"),
    path("_p/policy/breaker/", services.preview_panel, {"group": "breaker"}, name="_preview_breaker"),
    path("_p/messages/", list.listing_panel, name="_messages"),
    path("_p/messages/words/", explorer.words, name="_words"),
    path("_p/messages/<str:public_id>/", detail.detail_panel, name="_message"),
    path("_p/failing/", failures.failing_panel, name="_failing"),
    path("_p/failures/", failures.listing_panel, name="_failures"),
    path("_p/failures/<str:public_id>/", failures.detail_panel, name="_failure"),
    path("_p/operations/", operations.listing_panel, name="_operations"),
    path("_p/operations/<str:public_id>/", operations.detail_panel, name="_operation"),
    path("_p/breakers/", breakers.listing_panel, name="_breakers"),
    path("_p/workers/", workers.listing_panel, name="_workers"),
    path("_p/status/", status.status_panel, name="_status"),
    path("_p/lab/endpoints/", lab.endpoints, name="_lab_endpoints"),
    path("_p/trouble/", shell.trouble_panel, name="_trouble"),
    path("_p/palette/", shell.palette, name="_palette"),
    # for machines
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", health.metrics, name="metrics"),
    path("api/v1/", api.urls),
]

handler400 = "dashboard.views.errors.malformed"
handler403 = "dashboard.views.errors.forbidden"
handler404 = "dashboard.views.errors.not_found"
handler500 = "dashboard.views.errors.broken"
