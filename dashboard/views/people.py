from django.http import HttpRequest, HttpResponse


def login(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
    raise NotImplementedError


def logout(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
    raise NotImplementedError


def setup(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
    raise NotImplementedError


def password(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
    raise NotImplementedError
