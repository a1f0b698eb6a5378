/**
 * The queue of each lease, the clients that watch it, and what the server tells them: `substrate.ts` of lease-core has the rules.
 *
 * Under `q:<name>` are those in the queue, by ticket, and under `d:<name>` until when each of them is remembered; under `b:<name>`
 * until when each client is that watches the lease. `x` has the names of all leases for which there is one or the other, and an
 * empty name where somebody watches the whole namespace: as long as there is none, a release costs one look, however many it is
 * about, and is reported to nobody. A ticket is the microsecond at which it was given, or more: tickets rise for ever.
 *
 * The queue of a counted lease has a name that ends with a `#`. In it a member ends with the weight of the share, if that is above 1, and
 * it is notified of a vacancy only when there is room for the first. How many are ahead is said as it is there: nobody may pass those without
 * having waited for them.
 *
 * All of it only helps. Each command may fail, for want of rights or of memory, and nothing else does because of it.
 */
import { INTEREST_MS, TOLD } from 'lease-core/adapter'
import { FIELDS, fromTheMaster, prelude, reading, script, type Script } from './script.ts'

/** How many tickets of clients that do not listen are passed by; then the rest of the queue is left to its timers. */
const MOST_IN_VAIN = 16

/** In place of the number of those who are ahead, in a piece of news. */
export const FULL = -1
export const TOLD_UP_TO = -2
/** The same, where it is no ticket that comes before, but a list of what a counted lease is: capacity, generation, a share, its FIELDS. */
export const COUNTED = -3

/** Where all of that is. Needs `root`. */
export const naming: string = `
local queues, deadlines, watches, interest = root .. 'q:', root .. 'd:', root .. 'b:', root .. 'x'
`

/** Of scripts that register an interest. Needs `now`, and what `naming` makes. */
export const registering: string = `
local untilMs = fmt(now + ${INTEREST_MS})
local function keep(key, member, score)
  if failed(redis.pcall('ZADD', key, score or untilMs, member)) then return false end
  redis.pcall('PEXPIRE', key, ${INTEREST_MS})
  return true
end
-- Anyone who registers takes out what has lapsed.
local function register(name)
  redis.pcall('ZREMRANGEBYSCORE', interest, '-inf', '(' .. fmt(now))
  return keep(interest, name)
end
`

/** Of scripts that change leases. Needs `now`, and what `naming` makes. */
export const queueing: string = `
local function listed(reply) return type(reply) == 'table' and not reply.err and reply or {} end
local function remove(name, members)
  if #members == 0 then return end
  redis.pcall('ZREM', queues .. name, unpack(members))
  redis.pcall('ZREM', deadlines .. name, unpack(members))
end
-- Nobody waits for it or watches it any more.
local function forget(name)
  if redis.pcall('EXISTS', queues .. name, watches .. name) == 0 then redis.pcall('ZREM', interest, name) end
end
-- Those whose tickets are between these, or up to this one.
local function takeOut(name, to, from)
  remove(name, listed(redis.pcall('ZRANGEBYSCORE', queues .. name, from or '-inf', type(to) == 'number' and fmt(to) or to)))
end
local function takeOutLapsed(name)
  remove(name, listed(redis.pcall('ZRANGEBYSCORE', deadlines .. name, '-inf', '(' .. fmt(now), 'LIMIT', 0, 100)))
end
`

/** Of claims: fills `takeOutServed` and `enter`. Needs `us`, `client`, and what `registering` and `queueing` make. */
export const entering: string = `
-- One who waited was granted the lease: it goes, and those ahead of it who were notified of the vacancy.
function takeOutServed(name, place)
  local served, isOut = {}, false
  for _, member in ipairs(listed(redis.pcall('ZRANGE', queues .. name, 0, ${TOLD - 1}))) do
    local ticket = tonumber(string.match(member, '^%d+'))
    if ticket <= place then served[#served + 1] = member end
    isOut = isOut or ticket == place
  end
  remove(name, served)
  if not isOut then takeOut(name, place, fmt(place)) end
end
-- Returns the ticket and how many are ahead; nothing where that failed.
function enter(name, place, most, weight)
  takeOutLapsed(name)
  local mine = place
  if place == 0 then
    if most and (tonumber(redis.pcall('ZCARD', queues .. name)) or 0) >= most then return '0', ${FULL} end
    local last = listed(redis.pcall('ZRANGE', queues .. name, -1, -1))[1]
    mine = math.max(us, last and tonumber(string.match(last, '^%d+')) + 1 or 0)
  end
  local member = fmt(mine) .. ' ' .. client .. (weight and weight > 1 and ' ' .. fmt(weight) or '')
  if weight and place > 0 then -- the waiter before, of the same client, had this ticket and perhaps another weight
    for _, before in ipairs(listed(redis.pcall('ZRANGEBYSCORE', queues .. name, fmt(mine), fmt(mine)))) do
      if before ~= member and string.match(before, '^%d+ ([^ ]*)') == client then remove(name, { before }) end
    end
  end
  if not (register(name) and keep(deadlines .. name, member) and keep(queues .. name, member, fmt(mine))) then
    return nil
  end
  return fmt(mine), redis.pcall('ZRANK', queues .. name, member)
end
`

/**
 * Tells those who asked, at the end of a script that has collected what there is to tell; `isAwaited` where it is known that somebody asked. A client without a listener on this
 * server gets the message as well, and does not count: where PUBLISH says how many heard it.
 */
export const telling: string = `
if #vacated + #changed + #waking + #taken > 0 or #ended > 0 then
  local function tell(to, message) return redis.pcall('PUBLISH', channel .. ':' .. to, cjson.encode(message)) end
  for _, end_ in ipairs(ended) do tell(end_[1], { vacated = { { end_[2] } } }) end
  if isAwaited or (tonumber(redis.pcall('ZCARD', interest)) or 0) > 0 then
    local known = {}
    local function isOf(name)
      if known[name] == nil then
        local till = redis.pcall('ZSCORE', interest, name)
        known[name] = type(till) == 'string' and tonumber(till) >= now
      end
      return known[name]
    end
    local function tellWatchers(name, message)
      for _, to in ipairs(listed(redis.pcall('ZRANGEBYSCORE', watches .. name, fmt(now), '+inf'))) do tell(to, message) end
    end
    if isOf('') then
      if #vacated > 0 then redis.pcall('PUBLISH', channel, cjson.encode(vacated)) end
      if #changed > 0 then redis.pcall('PUBLISH', channel, cjson.encode({ changed = changed })) end
      if #taken > 0 then redis.pcall('PUBLISH', channel, cjson.encode({ taken = taken })) end
    end
    for _, name in ipairs(vacated) do if isOf(name) then tellWatchers(name, { vacated = { { name } } }) end end
    for _, name in ipairs(changed) do if isOf(name) then tellWatchers(name, { changed = { name } }) end end
    -- Of counted leases: whether there is room for the first in the queue, and who was notified of it.
    local room, upTo = {}, {}
    for _, woken in ipairs(waking) do
      local name, nth, inVain = woken[1], woken[2], woken[3]
      local isCounted = string.sub(name, -1) == '#'
      for _, member in ipairs(inVain or {}) do
        local ticket, to = string.match(member, '^(%d+) ([^ ]*)')
        tell(to, { vacated = { { name, ticket, 0 } } })
      end
      local isAwaited = upTo[name] == nil and isOf(name)
      if isAwaited then takeOutLapsed(name) end
      if isCounted and isAwaited and room[name] == nil then room[name] = counting().fits(name) end
      local last = upTo[name]
      if last == nil and isAwaited and room[name] ~= false then
        local heard, ahead, to = 0, 0, ${TOLD - 1}
        repeat -- those who are notified, as a rule; then those who come after them
          local page = listed(redis.pcall('ZRANGE', queues .. name, ahead, to))
          for _, member in ipairs(page) do
            local ticket, client = string.match(member, '^(%d+) ([^ ]*)')
            local hearers = tell(client, { vacated = { { name, ticket, isCounted and ahead or heard } } })
            last, ahead = ticket, ahead + 1
            if ARGV[5] == '1' or hearers ~= 0 then heard = heard + 1 end
            if heard == ${TOLD} then break end
          end
          local isOver = heard == ${TOLD} or ahead <= to or to >= ${TOLD + MOST_IN_VAIN - 1}
          to = ${TOLD + MOST_IN_VAIN - 1}
        until isOver
      end
      if isCounted then upTo[name] = last or false end
      if last and nth then news[#news + 1] = { nth, last, ${TOLD_UP_TO} } end
    end
    for _, grant in ipairs(taken) do
      local name = grant[1]
      if isOf(name) then
        local first = listed(redis.pcall('ZRANGE', queues .. name, 0, 0))[1]
        if first and room[name] then -- it is notified of the room instead
        elseif first then
          local ticket, to = string.match(first, '^(%d+) ([^ ]*)')
          tell(to, { taken = { { name, grant[2], grant[3], ticket, 0 } } })
        else forget(name) end
      end
    end
  end
end
`

/** KEYS: tokens. ARGV: a lease. Answers { microseconds, how many are in its queue }. */
export const waitingScript: Script = script(`${prelude}${fromTheMaster}${naming}
return { us, #redis.call('ZRANGEBYSCORE', deadlines .. ARGV[1], fmt(now), '+inf') }`)

/** KEYS: index. Somebody watches the whole namespace. Answers { microseconds, why that failed or '' }. */
export const watchAllScript: Script = script(`${prelude}${naming}${registering}
return { us, register('') and '' or failed(redis.pcall('ZADD', interest, 'XX', untilMs, '')) or '' }`)

/**
 * KEYS: tokens, pins, then leases. ARGV: the client that asks, and those of the leases that it watches from now on. Answers
 * { microseconds, FIELDS for each lease }.
 */
export const readScript: Script = script(`${prelude}${fromTheMaster}${reading}
if #ARGV > 1 then
${naming}${registering}
  for n = 2, #ARGV do
    redis.pcall('ZREMRANGEBYSCORE', watches .. ARGV[n], '-inf', '(' .. fmt(now))
    if register(ARGV[n]) then keep(watches .. ARGV[n], ARGV[1]) end
  end
end
local out = { us }
local found = redis.call('MGET', root .. 'v', unpack(KEYS, 3))
local problem = unreadable(found[1])
if problem then return redis.error_reply(problem) end
for n = 2, #found do
  local at = 2 + (n - 2) * ${FIELDS}
  local stored = found[n]
  -- MGET says the same of a key of another type as of none.
  if not stored and redis.pcall('EXISTS', KEYS[n + 1]) == 1 then stored = '' end
  local code, token, expiry, stamp, holder, value = standing(string.sub(KEYS[n + 1], #base + 1), stored)
  out[at], out[at + 1], out[at + 2], out[at + 3] = code or 0, token or false, expiry or false, stamp or false
  out[at + 4], out[at + 5] = holder or false, value or false
end
return out
`)
