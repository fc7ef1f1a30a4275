from django.http import HttpRequest, HttpResponse


def listing(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
    raise NotImplementedError


def listing_panel(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
    raise NotImplementedError
