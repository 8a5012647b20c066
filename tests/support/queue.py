"""Wake-ups: RQ carries no facts, only the news that there may be work; PostgreSQL says what it is.

A job is registered under a name by the `jobs.py` of its package; whoever wakes it knows the name alone.
"""

import rq
from rq.job import Job

from saas_api.core.jobs import queue as job_queue


def run_all_jobs() -> None:
    """Perform every queued job in this process until none is left; for tests."""
    connection = job_queue.worker_redis()
    queues = [rq.Queue(name, connection=connection) for name in job_queue.queue_names()]
    while any(queue.get_job_ids() for queue in queues):
        for queue in queues:
            for job_id in queue.get_job_ids():
                job = Job.fetch(job_id, connection=connection)
                queue.remove(job_id)
                job_queue.run_job(*job.args)
    connection.close()
