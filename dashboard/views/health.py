from django.http import HttpRequest, HttpResponse


def healthz(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
    raise NotImplementedError


def readyz(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
    raise NotImplementedError
