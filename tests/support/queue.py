"""Runs queued jobs in the process of a test."""

import rq
from rq.job import Job

from saas_api.core.jobs import queue as job_queue


def run_all_jobs() -> None:
    """Run every queued job in this process until the queues are empty."""
    connection = job_queue.worker_redis()
    queues = [rq.Queue(name, connection=connection) for name in job_queue.queue_names()]
    while any(queue.get_job_ids() for queue in queues):
        for queue in queues:
            for job_id in queue.get_job_ids():
                job = Job.fetch(job_id, connection=connection)
                queue.remove(job_id)
                job_queue.run_job(*job.args)
    connection.close()
