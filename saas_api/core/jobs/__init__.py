"""Work outside requests: queue, schedule, and claims of due rows."""
