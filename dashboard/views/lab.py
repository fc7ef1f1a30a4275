from django.http import HttpRequest, HttpResponse


def lab(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
    raise NotImplementedError


def result(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
    raise NotImplementedError


def endpoints(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
    raise NotImplementedError
