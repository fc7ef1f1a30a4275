from __future__ import annotations

import os

import dj_database_url

SECRET_KEY = "shop"
USE_TZ = True
DATABASES = {"default": dj_database_url.parse(os.environ["SHOP_DATABASE"])}
INSTALLED_APPS = ["switchboard_client.django", "tests.clients.shop"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SWITCHBOARD = {"url": os.environ["SHOP_SWITCHBOARD"], "token": os.environ["SHOP_TOKEN"]}
