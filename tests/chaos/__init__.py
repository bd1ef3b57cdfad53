"""A seeded storm around the real daemon: no answer is lost or repeated.

Agents (agent.py) answer clients (load.py) while faults (faults.py, storm.py)
hit Redis (server.py) and the lines to it (proxy.py).  Observers (observer.py)
record what is published, the agents' logs (journal.py) say what should have
been, and the verdict (verdict.py) compares the two.  Finally, the aftermath
(aftermath.py) looks for what the agents leave behind.

    python -m tests.chaos --seed 7 --minutes 2
"""
