"""A distributed cron: each tick of each job runs once, on whichever host takes it.

The lock says who runs *now*; a row for each tick says that it was run, because a lock has no
memory. From the bottom up:

`_schedule`, `_job`, `_files` and its readers   what is to run, and when: pure
`_sql`, `_schema`                               the tables, and all that is said to them
`_facts`, `_decide`, `_agenda`                  what a pass sees, and what follows from it: pure
`_life`                                         one run, from its lock to its row: pure plans
`_engine`, `_scheduler` and `_aengine`, `_ascheduler`   the two shells, for threads and for tasks
"""
