"""Benchmarks: Switchboard beside its peers, in alternating runs on the same machine. See __main__."""
