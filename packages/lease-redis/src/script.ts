/**
 * What runs inside the server: one script that applies operations in any mix, and three that read.
 *
 * A term is one string with PXAT = its expiry, without while it is pinned:
 *
 *     token|expiry in ms|nonce|length of the holder in bytes|holder        and, with a value, then =value
 *
 * That the key is gone *is* the verdict that the lease has lapsed: to the millisecond, and for WATCH as well. A key
 * stands for the whole millisecond of its expiry and is gone with the next.
 *
 * Redis rolls nothing back. So nothing may fail half-way:
 *
 * - Before anything else the script asks for leave to write, by a write that writes nothing (SETRANGE of nothing): a
 *   replica refuses it, and so does a server whose disk or whose replicas are missing; nothing is applied then, and
 *   nothing read from a replica is taken for the truth. Where only memory is lacking, claims and pins are refused one by
 *   one; whatever needs no more memory goes on (a server denies memory to a script that has written nothing yet only).
 * - The operations of a batch fail each for itself, by `pcall`.
 * - Within one, what may fail comes first, and what has come first is harmless alone: a token that nobody got, a name
 *   in the index without a lease.
 */
import { createHash } from 'node:crypto'

/** A script and the digest by which a server that knows it can be asked to run it. */
export interface Script {
  readonly text: string
  readonly sha: string
}

export function script(text: string): Script {
  return { text, sha: createHash('sha1').update(text).digest('hex') }
}

/**
 * `us`: the server's clock in microseconds. `now`: in milliseconds, as the server looks at it when it lets keys expire.
 * Numbers are doubles in Lua and are written out whole.
 */
export const prelude: string = `
local function fmt(n) return string.format('%.0f', n) end
local function failed(reply) return type(reply) == 'table' and reply.err end
local time = redis.call('TIME')
local us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(us / 1000)
local base = string.sub(KEYS[1], 1, -2) .. 'l:'
local lines = string.sub(KEYS[1], 1, -2) .. 'w:'
local function parse(stored)
  local token, expiry, nonce, length, rest = string.match(stored, '^(%d+)|(%d+)|([^|]*)|(%d+)|(.*)$')
  if not token then return nil end
  length = tonumber(length)
  return token, tonumber(expiry), nonce, string.sub(rest, 1, length), string.sub(rest, length + 1)
end
local function leave(key)
  local refusal = failed(redis.pcall('SETRANGE', key, 0, ''))
  return refusal and string.match(refusal, '^%S+'), refusal
end
`

/** How long a line is remembered in which nobody is given a place. */
const LINE_MS = 600_000

/** How many elements of an answer tell of one lease: code, token, expiry in ms, holder, value. */
export const FIELDS = 5

/**
 * What the first of them means: bits. Below zero the operation failed, and the second is the error. `HELD`: there is a
 * holding; its value, if any, begins with `=`.
 */
export const GRANTED = 1
export const PINNED = 2
export const HELD = 4
export const FAILED = -1

/** The second element of the answer to a batch that came after its time; nothing was done. */
export const LATE = 'late'

/** What may be done to a lease. ARGV begins with the time after which nothing is to be done, and the channel. */
export const operations: string = `
if ARGV[1] ~= '0' and us > tonumber(ARGV[1]) then return { us, '${LATE}' } end
local index, tokens, pins = KEYS[1], KEYS[2], KEYS[3]
local code, refusal = leave(tokens)
local full = code == 'OOM' and refusal
if code and not full and code ~= 'WRONGTYPE' then return redis.error_reply(refusal) end
local anyPinned = redis.pcall('HLEN', pins)
if failed(anyPinned) then return anyPinned end
anyPinned = anyPinned > 0

-- Above every token so far and above the clock: rising when the counter is lost, and when the clock has gone back.
local last, reserved = 0, 0
local function nextToken(left)
  if last == reserved then
    local stored = redis.pcall('GET', tokens)
    if failed(stored) then return nil, stored.err end
    local high = tonumber(stored or '0')
    if not high then return nil, 'ERR the counter of the fencing tokens is not a number' end
    if high > 9007199254740000 then -- no longer exact as a double
      local reply = redis.pcall('INCR', tokens)
      if failed(reply) then return nil, reply.err end
      return redis.call('GET', tokens)
    end
    high = math.max(high, us - 1)
    local reply = redis.pcall('SET', tokens, fmt(high + left))
    if failed(reply) then return nil, reply.err end
    last, reserved = high, high + left
  end
  last = last + 1
  return fmt(last)
end

-- The operation at hand, and the lease it is about: one set of locals for all, for closures are dear.
local op, key, left, x, y, z, newValue, announces, place
local name, stored, pinned, token, expiry, nonce, holder, value
local vacated, changed, taken, added = {}, {}, {}, 0
local out, at = { us }, 2
local inLine = {}

-- What is stored under this key becomes what is at hand.
local function look(at)
  key = at
  name = string.sub(key, #base + 1)
  stored = redis.pcall('GET', key)
  if failed(stored) then return stored.err end
  pinned = anyPinned and redis.call('HEXISTS', pins, name) == 1
  token = nil
  if not stored then return nil end
  token, expiry, nonce, holder, value = parse(stored)
  if not token then return 'ERR what is stored under the key of the lease is not a lease' end
  if now > expiry and not pinned then token = nil end -- its pins were lost
end

local function tell(outcome, token, expiry, holder, value)
  out[at], out[at + 1], out[at + 2], out[at + 3], out[at + 4] = outcome, token, expiry, holder, value
  at = at + 5
end
local function state(granted)
  local outcome = granted + (pinned and ${PINNED} or 0)
  if not token then return tell(outcome, false, false, false, false) end
  local asked = granted == ${GRANTED} and (op == 'C' or op == 'W' or op == 'E')
  tell(outcome + ${HELD}, token, expiry, not asked and holder, value ~= '' and value)
end
local function write()
  local content = token .. '|' .. fmt(expiry) .. '|' .. nonce .. '|' .. #holder .. '|' .. holder .. value
  if pinned then return failed(redis.pcall('SET', key, content)) end
  return failed(redis.pcall('SET', key, content, 'PXAT', fmt(expiry)))
end
local function prolong()
  local wanted = math.max(expiry, now + tonumber(z))
  if wanted > expiry or (newValue ~= '' and newValue ~= value) then
    expiry = wanted
    local news = announces and newValue ~= '' and newValue ~= value
    if newValue ~= '' then value = newValue end
    if full then redis.pcall('SREM', index, '') end -- a script that has begun to write is not denied memory
    local problem = write()
    if problem then return problem end
    if news then changed[#changed + 1] = name end
  end
  state(${GRANTED})
end
local function vacate()
  if stored then
    local reply = redis.pcall('DEL', key)
    if failed(reply) then return reply.err end
  end
  if redis.pcall('SREM', index, name) == 1 or stored then vacated[#vacated + 1] = name end
  token = nil
end

-- Those who wait for a lease stand in line: the last place given, and the last one served. It only helps: what fails
-- here changes no verdict.
local function refuse()
  if place then
    local line = redis.pcall('HMGET', lines .. name, 'last', 'served')
    if failed(line) then return state(0) end
    local mine, served = place, tonumber(line[2] or 0)
    if place == 0 then
      mine = tonumber(line[1] or 0) + 1
      if failed(redis.pcall('HSET', lines .. name, 'last', fmt(mine), 'served', fmt(served))) then return state(0) end
      redis.pcall('PEXPIRE', lines .. name, ${LINE_MS})
    elseif not line[1] then
      served = mine
    end
    inLine[#inLine + 1] = { (at - 2) / ${FIELDS}, mine, served }
  end
  state(0)
end
local function serve()
  local last = redis.pcall('HGET', lines .. name, 'last')
  if type(last) == 'string' then
    if tonumber(last) <= place then redis.pcall('DEL', lines .. name)
    else redis.pcall('HSET', lines .. name, 'served', fmt(place)) end
  end
  taken[#taken + 1] = { name, place, tonumber(z) }
end

local function claim()
  if token then
    if holder == x and nonce == y then return prolong() end
    return refuse()
  end
  if full then return full end
  if place == 0 and redis.pcall('EXISTS', lines .. name) == 1 then return refuse() end
  local fresh, problem = nextToken(left)
  if problem then return problem end
  local reply = redis.pcall('SADD', index, name)
  if failed(reply) then return reply.err end
  added = added + reply
  token, expiry, nonce, holder, value = fresh, now + tonumber(z), y, x, newValue
  problem = write()
  if problem then return problem end
  if announces then changed[#changed + 1] = name end
  if place and place > 0 then serve() end
  state(${GRANTED})
end
local function extend()
  if token and holder == x and (y == '' or y == token) then return prolong() end
  state(0)
end
local function release()
  if token and not (holder == x and (y == '' or y == token) and (z == '' or z == nonce)) then return state(0) end
  local problem = vacate()
  if problem then return problem end
  state(${GRANTED})
end
local function expire()
  if token then return state(0) end
  local problem = vacate()
  if problem then return problem end
  state(${GRANTED})
end

-- The others that pin this lease, and whether x does.
local function others()
  local known = pinned and cjson.decode(redis.call('HGET', pins, name)) or {}
  local rest, here = {}, false
  for _, entity in ipairs(known) do
    if entity == x then here = true else rest[#rest + 1] = entity end
  end
  return rest, here
end
local function pin()
  local entities, here = others()
  if full and not here then return full end
  if stored and not token then vacate() end -- a pin must not make a lapsed term stand again
  -- First: a key without expiry, and without pins, counts as lapsed once it is.
  if token and not pinned then
    local problem = failed(redis.pcall('PERSIST', key))
    if problem then return problem end
  end
  if not here then
    entities[#entities + 1] = x
    local problem = failed(redis.pcall('HSET', pins, name, cjson.encode(entities)))
    if problem then return problem end
  end
  pinned = true
  state(${GRANTED})
end
local function unpin()
  local entities, here = others()
  if here and #entities > 0 then
    if full then redis.pcall('SREM', index, '') end -- a script that has begun to write is not denied memory
    local problem = failed(redis.pcall('HSET', pins, name, cjson.encode(entities)))
    if problem then return problem end
  elseif here then
    local stands = token and now <= expiry
    local problem = stands and failed(redis.pcall('PEXPIREAT', key, fmt(expiry)))
    if problem then return problem end
    problem = failed(redis.pcall('HDEL', pins, name))
    if problem then
      if stands then redis.pcall('PERSIST', key) end
      return problem
    end
    pinned = false
    if token and not stands then
      problem = vacate()
      if problem then return problem end
    end
  end
  state(${GRANTED})
end

`

/** Comes after the operations. */
const conclusion = `
-- Each new name has two others looked at: the index stays within about twice the leases that stand. From a place in it
-- that the clock chooses, and at its end from the beginning on; what is stored small comes whole.
if added > 0 then
  local many, keys, place = 2 * added + 1, {}, fmt(us % 4294967296)
  for _ = 1, 2 do
    local page = redis.pcall('SSCAN', index, place, 'COUNT', many - #keys)
    if failed(page) then break end
    local names = page[2]
    local from = us % math.max(1, #names - many + 1)
    for n = 1, math.min(many - #keys, #names) do keys[#keys + 1] = base .. names[from + n] end
    if #keys == many then break end
    place = '0'
  end
  if #keys > 0 and redis.pcall('EXISTS', unpack(keys)) ~= #keys then
    for _, key in ipairs(keys) do
      if redis.pcall('EXISTS', key) == 0 then redis.pcall('SREM', index, string.sub(key, #base + 1)) end
    end
  end
end
if #vacated > 0 then redis.pcall('PUBLISH', ARGV[2], cjson.encode(vacated)) end
if #changed > 0 then redis.pcall('PUBLISH', ARGV[2], cjson.encode({ changed = changed })) end
if #taken > 0 then redis.pcall('PUBLISH', ARGV[2], cjson.encode({ taken = taken })) end
return out
`

/**
 * KEYS: index, tokens, pins, then one lease for each operation. ARGV: the server time in microseconds after which
 * nothing is to be done (0: whenever), the channel, then for each operation its kind and
 *
 *     C claim    holder, nonce, milliseconds, value        E extend   holder, token, milliseconds, value
 *     R release  holder, token, nonce                      X expire
 *     P pin      entity                                    U unpin    entity
 *     W claim of one who waits: as C, then his place in line, 0 for none
 *
 * where a value is '' or begins with '=', an empty token or nonce matches any, and of c, w and e news is announced.
 * Answers { server time in microseconds, then FIELDS for each operation }; to a claim or extension that is granted,
 * without the holder. After these come three for each W that was refused: which operation it was, its place, and the
 * last one served.
 */
export const applyScript: Script = script(`${prelude}${operations}
local perform = { C = claim, W = claim, E = extend, R = release, X = expire, P = pin, U = unpin }
local arity = { C = 4, W = 5, E = 4, R = 3, X = 0, P = 1, U = 1 }
local a = 3
for n = 4, #KEYS do
  op = string.upper(ARGV[a])
  announces = op ~= ARGV[a]
  x, y, z, newValue = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
  place = op == 'W' and tonumber(ARGV[a + 5])
  a = a + 1 + arity[op]
  left = #KEYS - n + 1
  local problem = look(KEYS[n]) or perform[op]()
  if problem then tell(${FAILED}, problem, false, false, false) end
end
for _, told in ipairs(inLine) do
  for n = 1, 3 do out[at], at = told[n], at + 1 end
end
${conclusion}`)

/**
 * A claim of the first of these leases that is vacant, or of the one that this holder has. KEYS and ARGV as for one claim
 * by `applyScript`, but with all leases. Answers { microseconds, FIELDS for each lease, which one it was about or -1 }.
 */
export const claimAnyScript: Script = script(`${prelude}${operations}
op, left = string.upper(ARGV[3]), 1
announces = op ~= ARGV[3]
x, y, z, newValue = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local free, own, broken
for n = 4, #KEYS do
  local problem = look(KEYS[n])
  if problem then
    broken = problem
    tell(0, false, false, false, false)
  else
    if not token then free = free or n elseif holder == x then own = own or n end
    state(0)
  end
end
local chosen = own or free
if not chosen and broken then return redis.error_reply(broken) end
local last = at
if chosen then
  at = 2 + (chosen - 4) * 5
  local problem = look(KEYS[chosen]) or claim()
  if problem then return redis.error_reply(problem) end
end
out[last] = chosen and chosen - 4 or -1
${conclusion}`)

/** A replica may be behind: it would call a lease held that another holds by now. */
const fromTheMaster = `
local code, refusal = leave(KEYS[1])
if code == 'READONLY' then return redis.error_reply(refusal) end
`

/** Appends what is stored under the key of a lease, if it stands. Needs `out`, and the pins as KEYS[2]. */
const reading = `
local anyPinned = redis.call('HLEN', KEYS[2]) > 0
local function standing(name, stored)
  if not stored then return nil end
  local token, expiry, nonce, holder, value = parse(stored)
  if not token then return nil end
  local pinned = anyPinned and redis.call('HEXISTS', KEYS[2], name) == 1
  if now > expiry and not pinned then return nil end
  return pinned and ${PINNED + HELD} or ${HELD}, token, expiry, holder, value ~= '' and value
end
`

/** KEYS: tokens, pins, then leases. Answers { microseconds, FIELDS for each lease }. */
export const readScript: Script = script(`${prelude}${fromTheMaster}${reading}
local out = { us }
if #KEYS == 2 then return out end
local found = redis.call('MGET', unpack(KEYS, 3))
for n = 1, #found do
  local code, token, expiry, holder, value = standing(string.sub(KEYS[n + 2], #base + 1), found[n])
  local at = 2 + (n - 1) * 5
  if code then out[at], out[at + 1], out[at + 2], out[at + 3], out[at + 4] = code, token, expiry, holder, value
  else out[at], out[at + 1], out[at + 2], out[at + 3], out[at + 4] = 0, false, false, false, false end
end
return out
`)

/**
 * KEYS: tokens, pins, index. ARGV: cursor, how many at about. Answers { microseconds, next cursor, then for each lease
 * that stands its name and FIELDS }, and takes names out of the index whose lease has lapsed.
 */
export const scanScript: Script = script(`${prelude}${fromTheMaster}${reading}
local page = redis.call('SSCAN', KEYS[3], ARGV[1], 'COUNT', ARGV[2])
local out, at = { us, page[1] }, 3
for _, name in ipairs(page[2]) do
  local stored = redis.pcall('GET', base .. name)
  if stored == false then redis.pcall('SREM', KEYS[3], name)
  elseif not failed(stored) then
    local code, token, expiry, holder, value = standing(name, stored)
    if code then
      out[at], out[at + 1], out[at + 2], out[at + 3], out[at + 4], out[at + 5] = name, code, token, expiry, holder, value
      at = at + 6
    end
  end
end
return out
`)

/** KEYS: tokens, pins. Answers { lease, JSON array of entities, lease, … }. */
export const pinnedScript: Script = script(`${prelude}${fromTheMaster}
return redis.call('HGETALL', KEYS[2])
`)

/**
 * KEYS: tokens. ARGV: channel. Answers { why writing is refused, why announcing is refused, INFO memory, INFO
 * persistence }, each '' where there is nothing to tell.
 */
export const inspectScript: Script = script(`${prelude}
local code, refusal = leave(KEYS[1])
local silence = failed(redis.pcall('PUBLISH', ARGV[1], '[]'))
local memory = redis.pcall('INFO', 'memory')
local persistence = redis.pcall('INFO', 'persistence')
return { refusal or '', silence or '', failed(memory) and '' or memory, failed(persistence) and '' or persistence }
`)
