"""Django's settings, in one file. They come from SWITCHBOARD_ variables (docs/reference/configuration.md) with safe
defaults; `manage.py check` reports wrong ones."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import dj_database_url
import platformdirs

from dashboard import environment
from dashboard.compression import cache_headers

environment.use_safe_sqlite()
SQLITE_WITHOUT_WAL_RESET_BUG = environment.SQLITE_WITHOUT_WAL_RESET_BUG

# Where templates/, static/ and docs/ are: in a checkout next to this package, in a wheel inside it (pyproject.toml).
PACKAGE = Path(__file__).resolve().parent
IS_INSTALLED = (PACKAGE / "templates").is_dir()
BASE_DIR = PACKAGE if IS_INSTALLED else PACKAGE.parent
PROGRAM = "switchboard" if IS_INSTALLED else "manage.py"  # in texts that name a command
# What starts it again as a child. -P: the folder in which an installed program is started is no place of modules.
COMMAND_LINE = [sys.executable, *(["-P", "-m", "dashboard"] if IS_INSTALLED else [str(BASE_DIR / "manage.py")])]
USUAL_DATA_DIR = platformdirs.user_data_path("switchboard", appauthor=False) if IS_INSTALLED else BASE_DIR / "data"
DATA_DIR = Path(environment.text("DATA") or USUAL_DATA_DIR).resolve()
DATABASE_URL = environment.database_url()
DIRECT_URL = environment.direct_url(DATABASE_URL)
REDIS_URL = environment.text("REDIS_URL")
EMBEDDED = not DATABASE_URL or DATABASE_URL.startswith("sqlite")

SQLITE_PATH = environment.sqlite_path(DATABASE_URL, DATA_DIR) if EMBEDDED else None

KEYS = environment.installation_keys(DATA_DIR, SQLITE_PATH)
SECRET_KEY = KEYS.secret_key
ENCRYPTION_KEYS = KEYS.encryption_keys

DEBUG = environment.flag("DEBUG")
HTTPS = environment.flag("HTTPS")
ALLOWED_HOSTS = environment.listed("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")

# ---- Switchboard --------------------------------------------------------------------------------------------------
METRICS_ALLOW = environment.text("METRICS_ALLOW", "127.0.0.0/8, ::1/128")  # CIDRs that read /metrics without a token
ALLOW_PRIVATE = environment.text("ALLOW_PRIVATE")  # CIDRs that every service may reach; a system check validates them
TRUSTED_PROXIES = environment.text("TRUSTED_PROXIES")  # CIDRs whose X-Forwarded-For and -Proto are believed
IDLE_CONNECTIONS = int(environment.number("IDLE_CONNECTIONS", 100))  # for each client address; 0 is no limit
TOKEN_RATE = environment.number("TOKEN_RATE", 200)  # API requests a second for each token; 0 is off
CLUSTER = environment.text("CLUSTER", "switchboard")  # `manage.py up` sets its own, so that its lanes stay on its host
OWN_PORTS = environment.listed("OWN_PORT")  # never targets of a call: a proxy's, and that of this `manage.py up`

INSTALLED_APPS = [
    "integrations",
    "dashboard",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "django_q",
    "axes",
    "csp",
    "ninja",
]

MIDDLEWARE = [
    "dashboard.middleware.any_host_for_monitoring",
    "dashboard.middleware.timed_pages",
    "dashboard.middleware.browser_restrictions",
    "django.middleware.security.SecurityMiddleware",
    "dashboard.compression.Compression",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "dashboard.middleware.no_nul",
    "dashboard.middleware.viewer_time_zone",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "dashboard.urls"
WSGI_APPLICATION = "dashboard.wsgi.application"
ASGI_APPLICATION = "dashboard.asgi.application"

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "csp.context_processors.nonce",
                "dashboard.context.console",
            ],
        },
    }
]

# ---- Database -----------------------------------------------------------------------------------------------------
# IMMEDIATE: a transaction takes SQLite's one write lock when it begins, so that no other transaction changes the rows
# that it has read (SQLite silently ignores select_for_update). So: no ATOMIC_REQUESTS, and no atomic() around reads.
SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;PRAGMA cache_size=-20000;"
    "PRAGMA temp_store=MEMORY;PRAGMA journal_size_limit=67108864",
}

# integrations/postgresql/base.py has the timeouts of a session. Options in the URL override these.
# PostgreSQL prepares the statements that every delivery repeats (integrations/models/sql.py), unless a pooler stands
# before it.
POSTGRES_OPTIONS = {
    "prepare_threshold": 3,
    "connect_timeout": 5,
    "tcp_user_timeout": 5000,
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 3,
}


def _postgres(url: str) -> dict[str, Any]:
    parsed: dict[str, Any] = dict(
        dj_database_url.parse(url, engine="integrations.postgresql", conn_max_age=60, conn_health_checks=True)
    )
    return parsed | {"OPTIONS": POSTGRES_OPTIONS | parsed.get("OPTIONS", {})}


if EMBEDDED:
    DATABASES: dict[str, Any] = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(SQLITE_PATH),
            "OPTIONS": SQLITE_OPTIONS,
            "CONN_MAX_AGE": None,
            "TEST": {"NAME": f"{SQLITE_PATH}.test"},  # a file, because several processes read it
        }
    }
else:
    DATABASES = {"default": _postgres(DATABASE_URL)}
DIRECT_DATABASE = _postgres(DIRECT_URL) if DIRECT_URL else None  # the same database past a pooler

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# ---- Workers: django-q2 is the process pool, the clock and the wake-up ---------------------------------------------
Q_CLUSTER: dict[str, Any] = {
    "name": "switchboard",  # salts the signature, so it is the same on every host
    "cluster_name": CLUSTER,  # the queue: one per `manage.py up`
    "workers": int(environment.number("LANES", 2)),
    "queue_limit": int(environment.number("LANES", 2)),
    "bulk": 1,
    "poll": 0.5,
    "timeout": 60,  # a slice of a lane is 15 s
    "retry": 120,
    "max_attempts": 1,
    "ack_failures": True,  # otherwise a failed task would return forever
    "save_limit": -1,  # do not store results: the default cuts the throughput to a tenth
    "scheduler": False,  # it ticks only every 30 s; the supervisor schedules instead
    "catch_up": False,
    "recycle": 1_000_000,  # a lane keeps its connections and its calls in flight from slice to slice
    "guard_cycle": 0.5,
    "log_level": "WARNING",
    "label": "Switchboard workers",
}
if REDIS_URL:
    Q_CLUSTER["redis"] = REDIS_URL
else:
    Q_CLUSTER["orm"] = "default"

CACHES = {
    "default": (
        {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}
        if REDIS_URL
        else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    )
}

# ---- People -------------------------------------------------------------------------------------------------------
AUTH_USER_MODEL = "integrations.Account"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "overview"
LOGOUT_REDIRECT_URL = "login"
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
]
AXES_FAILURE_LIMIT = 5  # for each name from each address; dashboard/sign_in_limits.py limits the address
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_LOCKOUT_CALLABLE = "dashboard.views.people.locked_out"
AXES_VERBOSE = False
SESSION_ENGINE = "dashboard.hashed_sessions"
SESSION_COOKIE_AGE = 14 * 24 * 3600  # seconds; dashboard/views/people.py: less for admins
SESSION_COOKIE_NAME = "switchboard_session"
CSRF_FAILURE_VIEW = "dashboard.views.errors.csrf_refused"
CSRF_COOKIE_NAME = "switchboard_csrf"

# ---- Security -----------------------------------------------------------------------------------------------------
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "connect-src": ["'self'"],
        "font-src": ["'self'"],
        "form-action": ["'self'"],
        "frame-ancestors": ["'none'"],
        "base-uri": ["'none'"],
        "manifest-src": ["'self'"],
    }
}
X_FRAME_OPTIONS = "DENY"
DEFAULT_EXCEPTION_REPORTER_FILTER = "dashboard.error_reports.ReporterFilter"
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$", r"^metrics$"]  # monitoring uses plain HTTP
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
# No SECURE_PROXY_SSL_HEADER, by which Django believes X-Forwarded-Proto from every client: the server (management/
# commands/serve.py) reads it, from TRUSTED_PROXIES only, and gives Django the scheme.
CSRF_TRUSTED_ORIGINS = [f"https://{host.lstrip('.')}" for host in ALLOWED_HOSTS if host != "*"] if HTTPS else []
# A form sends a body of 1 MiB percent-encoded, which is three times as long; the API has its own limits.
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024
DATA_UPLOAD_MAX_NUMBER_FILES = 0  # no form takes a file, and Django would write a large one to disk

# ---- Static files, time and logs ----------------------------------------------------------------------------------
STATIC_URL = "/static/"
STATIC_ROOT = None
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True  # nothing to collect; files are few and small
WHITENOISE_AUTOREFRESH = DEBUG
WHITENOISE_ADD_HEADERS_FUNCTION = cache_headers

USE_TZ = True
TIME_ZONE = "UTC"
USE_I18N = False
LANGUAGE_CODE = "en"

HOST_NAME = socket.gethostname()

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"()": "integrations.logs.LineFormatter"},
        "json": {"()": "integrations.logs.JsonFormatter"},
    },
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": environment.choice("LOG_FORMAT", "line", "json")}
    },
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "django-q": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        "axes": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
    },
}
