from django.http import HttpRequest, HttpResponse


def overview(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
    raise NotImplementedError


def overview_panel(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
    raise NotImplementedError
