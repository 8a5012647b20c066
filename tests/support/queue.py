"""Runs queued jobs in the process of a test."""

from saas_api.core.jobs import queue as job_queue
from saas_api.core.jobs.redis_jobs import RedisJob, RedisQueue


def run_all_jobs() -> None:
    """Run every queued job in this process until the queues are empty."""
    connection = job_queue.worker_redis()
    queues = [RedisQueue(name, connection) for name in job_queue.queue_names()]
    while any(queue.get_job_ids() for queue in queues):
        for queue in queues:
            for job_id in queue.get_job_ids():
                job = RedisJob.fetch(job_id, connection=connection)
                queue.remove(job_id)
                job_queue.run_job(*job.args)
    connection.close()
