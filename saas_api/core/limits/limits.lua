-- Decides all limits of one request at once: every window and counter is incremented, or none is.
-- KEYS: generation | n window prefixes | m counters         (one tag {organization}: one slot of a cluster)
-- ARGV: expected generation, fresh 0|1|2, n, n x (limit, window_ms),
--       m, m x (units, limit or -1, expires_at_s, seed or -1, low, high, highest value with which the request passes)
-- Returns: code, generation, full, n x (remaining, reset_ms), m x used
--   code (LimitCode): 1 admitted, 0 window `full` is used up, -1 counter `full - n` is used up, -2 the caller's generation is stale,
--        -3 Redis has lost generation or counters, -4 a counter is outside low..high, so the caller's limits are wrong
-- Counters and their arguments stay text: Lua counts exactly to 2^53 and writes large numbers as 1e+18.
local MAX_COUNTER = '1000000000000000000'

-- Whether the whole number a is above b.
local function above(a, b)
  local negative = string.sub(a, 1, 1) == '-'
  if negative ~= (string.sub(b, 1, 1) == '-') then return not negative end
  if negative then a, b = string.sub(b, 2), string.sub(a, 2) end
  if #a ~= #b then return #a > #b end
  return a > b
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local expected, fresh, n = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local m, base = tonumber(ARGV[4 + 2 * n]), 5 + 2 * n
local names, windows, counters, full, moved = {KEYS[1]}, {}, {}, 0, false

for i = 1, n do
  local length = tonumber(ARGV[3 + 2 * i])
  local at = math.floor(now / length)
  windows[i] = {limit = tonumber(ARGV[2 + 2 * i]), length = length, into = now - at * length,
                key = KEYS[1 + i] .. ':' .. at}
  names[2 * i] = windows[i].key
  names[2 * i + 1] = KEYS[1 + i] .. ':' .. (at - 1)
end
for j = 1, m do names[1 + 2 * n + j] = KEYS[1 + n + j] end
local values = redis.call('MGET', unpack(names))

local generation = tonumber(values[1] or '-1')
local cold = generation < 0
for j = 1, m do cold = cold or (not values[1 + 2 * n + j] and ARGV[base + 7 * j - 4] == '-1') end
if generation > expected and fresh < 2 then return {-2, generation, 0} end
if cold and fresh == 0 then return {-3, generation, 0} end
if generation ~= expected then redis.call('SET', KEYS[1], expected, 'EX', 86400) end

for i, w in ipairs(windows) do
  local current, previous = tonumber(values[2 * i]) or 0, tonumber(values[2 * i + 1]) or 0
  w.used = current + math.floor(previous * (w.length - w.into) / w.length)
  w.reset = w.length - w.into
  if full == 0 and w.used >= w.limit then
    full = i
    -- reset: when this very request would pass
    if current < w.limit and previous > 0 then
      w.reset = math.floor(w.length * (1 - (w.limit - current) / previous) - w.into) + 1
    elseif current > 0 then
      w.reset = math.floor(w.reset + math.max(0, w.length * (1 - w.limit / current))) + 1
    end
  end
end
for j = 1, m do
  local a, key = base + 7 * (j - 1), KEYS[1 + n + j]
  local c = {units = ARGV[a], used = values[1 + 2 * n + j]}
  if not c.used then
    c.used = above(ARGV[a + 3], '0') and ARGV[a + 3] or '0'
    redis.call('SET', key, c.used, 'EX', math.max(60, ARGV[a + 2] - time[1]))
  end
  if full == 0 and (above(ARGV[a + 4], c.used) or above(c.used, ARGV[a + 5])) then moved = true end
  if full == 0 and not moved and ARGV[a + 1] ~= '-1' and above(c.used, ARGV[a + 6]) then full = n + j end
  counters[j] = c
end

if moved then
  local answer = {-4, expected, 0}
  for _, w in ipairs(windows) do
    answer[#answer + 1] = math.max(0, w.limit - w.used)
    answer[#answer + 1] = math.max(1, w.reset)
  end
  for _, c in ipairs(counters) do answer[#answer + 1] = c.used end
  return answer
end
local answer = {full == 0 and 1 or (full <= n and 0 or -1), expected, full}
for _, w in ipairs(windows) do
  if full == 0 then
    w.used = w.used + 1
    if redis.call('INCR', w.key) == 1 then redis.call('PEXPIRE', w.key, 2 * w.length) end
  end
  answer[#answer + 1] = math.max(0, w.limit - w.used)
  answer[#answer + 1] = math.max(1, w.reset)
end
for j, c in ipairs(counters) do
  if full == 0 and c.units ~= '0' then
    local key = KEYS[1 + n + j]
    if tonumber(c.used) + tonumber(c.units) < tonumber(MAX_COUNTER) then
      redis.call('INCRBY', key, c.units)
    else
      redis.call('SET', key, MAX_COUNTER, 'KEEPTTL')
    end
    c.used = redis.call('GET', key)
  end
  answer[#answer + 1] = c.used
end
return answer
