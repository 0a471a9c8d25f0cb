"""A privileged instance of the tests: says that it is ready, lists all, starts one and stops it."""

from orchestrator import Priority, RequestError, Runtime

with Runtime.connect() as runtime:
    runtime.ready()
    for info in runtime.list(timeout=60):
        state = type(info.observed).__name__
        last = info.schedule and info.schedule.schedule.expression
        set_name = info.replica and info.replica.set
        print(info.id, info.name, info.desired.value, state, last, set_name, flush=True)
    started = runtime.start("idle", Priority.LOW)
    print("started", started, flush=True)
    idle = next(info for info in runtime.list() if info.id == started)
    print(idle.priority.value, idle.desired.value, flush=True)
    print("stopped", runtime.stop(str(started)), flush=True)
    try:
        runtime.start("nobody")
    except RequestError as error:
        print(error.code, error, flush=True)
