"""The path of a message, one step to a file; and the calls that are made without a message.

accept     accept.py    validate a request into a draft and queue it; PENDING from here on
claim      claim.py     take due messages for a worker: PENDING → DELIVERING, committed before anything is sent
admit      admission.py decide, inside the claim, how many calls each service may have now
send       send.py      build (request.py), authenticate (oauth.py) and send; no transaction is open
settle     settle.py    write a batch of results: attempts (attempt.py), failure groups (failure_groups.py), messages,
                        and breaker, throttle and pause of the service (feedback.py)

target.py is a service's parsed configuration, which every step uses; waiting.py explains why a message waits.
direct_call.py (`POST /process`), lab_call.py and workers/health_checks.py call a service without a message, through
unqueued_call.py.

Lock order: messages that are being delivered, failure groups by key, runtime rows by service id, pending messages,
counters by service. On PostgreSQL a claim and a settlement run at the same time, so both follow it. On SQLite the
transaction itself is the lock.
"""
