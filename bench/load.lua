-- Load on a web server by wrk: one POST request again and again. Prints what was answered as one line of JSON.
-- Environment: LOAD_BODY, a file; LOAD_SECONDS; LOAD_CONNECTIONS; LOAD_PREFIX of the numbers; LOAD_RATE in requests a second
-- of all connections together, or 0 to send as soon as the one before is answered. With a rate each thread must have
-- one connection, because wrk does not say on which connection it was answered.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long seconds; long nanoseconds; } timespec;
  int clock_gettime(int clock, timespec *time);
  int getpid(void);
  int kill(int pid, int signal);
  void *calloc(size_t count, size_t size);
]]
local MONOTONIC, INTERRUPT, FOREVER = 1, 2, 1e9
local PLACE_OF_NUMBER = string.rep("#", 16)  -- in the body or in a header: another number in each request
local time = ffi.new("timespec")

local function now()
  ffi.C.clock_gettime(MONOTONIC, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

wrk.method = "POST"
wrk.body = io.open(os.getenv("LOAD_BODY")):read("*a")
local seconds = tonumber(os.getenv("LOAD_SECONDS"))
local connections = tonumber(os.getenv("LOAD_CONNECTIONS"))
local rate = tonumber(os.getenv("LOAD_RATE"))
local prefix = os.getenv("LOAD_PREFIX")
local threads, template = {}, nil
local asked, due, asked_at = 0, nil, nil
started_at, ended_at, others, tenths = nil, nil, 0, {}  -- globals: `done` reads them from each thread
local resting_of_threads = nil  -- memory of all threads: how many connections of each rest

function setup(thread)
  resting_of_threads = resting_of_threads or ffi.C.calloc(connections, 4)
  thread:set("number_of_thread", #threads)
  thread:set("address", tonumber(ffi.cast("uintptr_t", resting_of_threads)))
  table.insert(threads, thread)
end

function init()
  resting_of_threads = ffi.cast("int *", address)
  local request_of_all = wrk.format()
  if request_of_all:find(PLACE_OF_NUMBER, 1, true) then
    template = request_of_all
    request = function()
      asked = asked + 1
      local number = string.format("%s%02d%08d", prefix, number_of_thread, asked)
      return (template:gsub(PLACE_OF_NUMBER, number))
    end
  end
  if rate > 0 then
    response = record_response
  end
end

-- Note that a connection rests, and end wrk when all do.
local function rest()
  resting_of_threads[number_of_thread] = resting_of_threads[number_of_thread] + 1
  local resting = 0
  for thread = 0, connections - 1 do
    resting = resting + resting_of_threads[thread]
  end
  if resting == connections then
    ffi.C.kill(ffi.C.getpid(), INTERRUPT)
  end
end

-- Milliseconds until a connection sends its next request. At the end every connection rests once it is answered, so
-- that no request is under way that the server counts and wrk does not.
function delay()
  local at = now()
  started_at = started_at or at
  if at >= started_at + seconds then
    ended_at = at
    rest()
    return FOREVER
  end
  if rate == 0 then
    return 0
  end
  local interval = connections / rate
  due = due and due + interval or at + interval * number_of_thread / connections
  asked_at = math.max(due, at)
  if at > due then
    asked_at = due  -- the answer before was late: the time waited for it counts
  end
  return math.max(0, math.floor((due - at) * 1000))
end

-- Count the status, and the milliseconds since the request was due, in tenths.
function record_response(status)
  if status < 200 or status > 299 then
    others = others + 1
  end
  local tenth = math.max(0, math.floor((now() - asked_at) * 10000))
  tenths[tenth] = (tenths[tenth] or 0) + 1
end

local function percentile_of(counts, total, share)
  local passed, highest = 0, 0
  for tenth in pairs(counts) do
    highest = math.max(highest, tenth)
  end
  for tenth = 0, highest do
    passed = passed + (counts[tenth] or 0)
    if passed >= total * share then
      return tenth / 10
    end
  end
  return 0
end

function done(summary, latency)
  local began, ended, refused, counts = math.huge, 0, summary.errors.status, {}
  for _, thread in ipairs(threads) do
    began = math.min(began, thread:get("started_at") or math.huge)
    ended = math.max(ended, thread:get("ended_at") or 0)
    refused = math.max(refused, thread:get("others"))
    for tenth, count in pairs(thread:get("tenths")) do
      counts[tenth] = (counts[tenth] or 0) + count
    end
  end
  local p50, p99 = latency:percentile(50) / 1000, latency:percentile(99) / 1000
  if rate > 0 then
    p50, p99 = percentile_of(counts, summary.requests, 0.5), percentile_of(counts, summary.requests, 0.99)
  end
  local errors = refused + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format(
    '{"requests": %d, "errors": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, errors, ended - began, p50, p99
  ))
end
