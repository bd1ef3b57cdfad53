"""A seeded storm around the real daemon: no answer is lost or repeated.

Agents (agent.py) answer clients (load.py) while faults (faults.py, storm.py)
hit Redis (server.py) and the lines to it (proxy.py).  Observers (observer.py)
hear what is published, the agents' logs (journal.py) say what should have
been, and the verdict (verdict.py) compares the two.  What an agent leaves
behind is examined last (aftermath.py).

    python -m tests.chaos --seed 7 --minutes 2
"""
