"""Benchmarks: Switchboard against other queues, in alternating runs on the same machine. See __main__."""
