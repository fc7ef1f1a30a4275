"""The code of the peers' workers, run in their own environments (bench/.venv, bench/node_modules).

Each delivers as its manual has it, over connections that are kept, and returns the message's number, which the
peer records as the result. The body travels in the queue, as Switchboard's does in the database.
"""
