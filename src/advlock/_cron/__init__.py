"""A distributed cron: each tick of each job runs once, on whichever host takes it.

The lock says who runs *now*; a row for each tick says that it was run, because a lock has no
memory. From the bottom up, where everything but the shells is pure:

`_schedule` (`_fields`, `_ticks`, `_zone`)      when a job's ticks are
`_job`, `_files` (`_toml`, `_crontab`, …)       what is to run, and what is wrong with a file
`_sql`                                          all that is said to the tables (`advlock._schema`)
`_facts`, `_decide`, `_act`, `_agenda`          what a pass sees, what follows, what it says
`_life`                                         one run, from its lock to its row
`_shell`, `_engine`, `_scheduler`               the shell for threads, and its functions
`_aengine`, `_ascheduler`                       their twins, for tasks
`_views`, `_why`                                what people ask about it
"""
