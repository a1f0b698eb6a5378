/**
 * What runs inside the server: what all scripts share, and those that read. What changes leases is in `apply-script.ts`.
 *
 * A term is one string with PXAT = its expiry, without while it is pinned:
 *
 *     token|length of the holder in bytes|holder|expiry in ms|stamp|        and, with a value, then =value
 *
 * That the key is gone *is* the verdict that the lease has lapsed: to the millisecond, and for WATCH as well. A key
 * stands for the whole millisecond of its expiry and is gone with the next.
 *
 * The stamp is the nonce of the claim or of the last adoption, where need be followed by a blank and the microsecond at
 * which the term was opened, by another blank and the microsecond at which its value was last sent or 0, and, where an adoption
 * has replaced the nonce of the claim that opened the term, by that nonce. Without the first the fencing token is the time of the
 * opening: it is, unless the counter of the tokens is ahead of the clock. A share that weighs more than 1 has all four, and then, after
 * another blank, its weight.
 */
import { createHash } from 'node:crypto'

/** A script and the digest by which a server that knows it can be asked to run it. */
export interface Script {
  readonly body: string
  readonly text: string
  readonly sha: string
}

/**
 * A script that runs this body. The last of ARGV is the mark of its request, which the body does not see. Answers { what the body
 * returns, mark }, so that what the server says to another request, or instead of running it, cannot be mistaken for its answer
 * (`evaluate`). What is in front of the body is on its first line: what the server says of lines is true of the body.
 */
export function script(body: string): Script {
  const answered = `if type(answer) == 'table' and answer.err then return answer end if answer == nil then answer = false end`
  const text = `local mark = table.remove(ARGV) local function body(...) ${body}\nend local answer = body() ${answered} return { answer, mark }`
  return { body, text, sha: createHash('sha1').update(text).digest('hex') }
}

const variants = new WeakMap<Script, Map<number, Script>>()

/**
 * The same script for leases in this database. Wherever the connection is, the script goes there by itself: a SELECT that was
 * refused when it connected, or that somebody sent since, does not move leases. Who may not SELECT is in database 0.
 */
export function inDatabase(plain: Script, database: number | undefined): Script {
  if (database === undefined) return plain
  const known = variants.get(plain) ?? new Map<number, Script>()
  variants.set(plain, known)
  let variant = known.get(database)
  if (variant === undefined) {
    variant = script(`${selecting(database)} ${plain.body}`)
    known.set(database, variant)
  }
  return variant
}

/** In one line, and without a local variable for what follows. */
export function selecting(database: number): string {
  const select = `redis.pcall('SELECT', '${database}')`
  if (database === 0) return select
  return `do local selected = ${select} if selected.err then return redis.error_reply('DATABASE ${database}: ' .. selected.err) end end`
}

/**
 * The version of what is stored. It rises when an older release would misread what a newer one has written; then `prelude`
 * makes the older one fail. Version 1 had no key that says so; its terms and pins are read, and it reads those of version 2.
 */
export const LAYOUT = 2

/**
 * `us`: the server's clock in microseconds. `now`: in milliseconds, as the server looks at it when it lets keys expire.
 * Numbers are doubles in Lua and are written out whole. All keys begin with `root`, as the first of KEYS does.
 */
export const prelude: string = preludeAt(`redis.call('TIME')`)

/** @param time what Redis says of the time */
export function preludeAt(time: string): string {
  return `
local whole = string.format('%d', 2^53) == '9007199254740992' and '%d' or '%.0f' -- three times as fast, but for 32 bits
local function fmt(n) return string.format(whole, n) end
local function failed(reply) return type(reply) == 'table' and reply.err end
local time = ${time}
local us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(us / 1000)
local root = string.sub(KEYS[1], 1, -2)
local base = root .. 'l:'
local function parse(stored)
  local token, length, from = string.match(stored, '^(%d+)|(%d+)|()')
  if not token then return nil end
  local to = from + tonumber(length)
  local expiry, stamp, value = string.match(stored, '^|(%d+)|([^|]*)|(.*)$', to)
  if not expiry then return nil end
  return token, tonumber(expiry), stamp, string.sub(stored, from, to - 1), value
end
-- Why this release must not touch what is stored in this layout, if so.
local function unreadable(layout)
  if not layout or layout == '${LAYOUT}' then return nil end
  local version = tonumber(layout)
  if not version then return 'ERR the version of the layout is not a number' end
  if version > ${LAYOUT} then return 'LAYOUT ' .. layout .. ' is above ${LAYOUT}' end
end
`
}

/** How many elements of an answer describe one lease: code, token, expiry in ms, stamp, holder, value. */
export const FIELDS = 6

/**
 * What the first of them means: bits. Below zero the operation was not executed: it failed, and the second is the error, it came too
 * late, or it takes more than one run. `HELD`: there is a holding; its value, if any, begins with `=`.
 */
export const GRANTED = 1
export const PINNED = 2
export const HELD = 4
export const FAILED = -1
export const LATE = -2
export const CONTENDED = -3

/** A replica may be behind: it would call a lease held that another holds by now. */
export const fromTheMaster: string = `
local refusal = failed(redis.pcall('SETRANGE', KEYS[1], 0, ''))
if refusal and string.find(refusal, 'READONLY', 1, true) == 1 then return redis.error_reply(refusal) end
`

const layoutChecked = `
local problem = unreadable(redis.call('GET', root .. 'v'))
if problem then return redis.error_reply(problem) end
`

/**
 * What is stored under the key of a lease, if it stands: FIELDS, but only the first of them where it cannot be read. Needs the
 * pins as KEYS[2].
 */
export const reading: string = `
local anyPinned = redis.call('HLEN', KEYS[2]) > 0
local function standing(name, stored)
  if not stored then return nil end
  local token, expiry, stamp, holder, value = parse(stored)
  if not token then return ${FAILED} end
  local pinned = anyPinned and redis.call('HEXISTS', KEYS[2], name) == 1
  if now > expiry and not pinned then return nil end
  return pinned and ${PINNED + HELD} or ${HELD}, token, expiry, stamp, holder, value ~= '' and value
end
`

/**
 * KEYS: tokens, pins, index. ARGV: cursor, how many at about. Answers { microseconds, next cursor, then for each lease
 * that stands its name and FIELDS }, and takes names of lapsed leases out of the index, where nobody waits for the news.
 */
export const scanScript: Script = script(`${prelude}${fromTheMaster}${layoutChecked}${reading}
local page = redis.call('SSCAN', KEYS[3], ARGV[1], 'COUNT', ARGV[2])
local out, at = { us, page[1] }, 3
local function untold(name)
  return redis.pcall('ZSCORE', root .. 'x', name) ~= false or redis.pcall('ZSCORE', root .. 'x', '') ~= false
end
local function forget(name)
  local at = string.find(name, '#', 1, true)
  if untold(name) or at and untold(string.sub(name, 1, at)) then return end
  -- The share does not count any more (shares-script.ts).
  for _, set in ipairs(at and { 'h:', 's:' } or {}) do
    redis.pcall('ZREM', root .. set .. string.sub(name, 1, at), string.sub(name, at + 1))
  end
  redis.pcall('SREM', KEYS[3], name)
end
for _, name in ipairs(page[2]) do
  local stored = redis.pcall('GET', base .. name)
  if stored == false then
    forget(name)
  else
    local code, token, expiry, stamp, holder, value = standing(name, failed(stored) and '' or stored)
    if code then
      out[at], out[at + 1], out[at + 2], out[at + 3] = name, code, token or false, expiry or false
      out[at + 4], out[at + 5], out[at + 6] = stamp or false, holder or false, value or false
      at = at + 7
    end
  end
end
return out
`)

/**
 * KEYS: tokens, pins. ARGV: leases, none for all. Answers { microseconds, then of each pinned lease its name, the JSON array of
 * the entities, and the JSON object of their generations, if there is one }.
 */
export const pinnedScript: Script = script(`${prelude}${fromTheMaster}${layoutChecked}
local out, at = { us }, 2
local function append(name, entities)
  if not entities then return end
  out[at], out[at + 1], out[at + 2] = name, entities, redis.call('HGET', root .. 'g', name)
  at = at + 3
end
if #ARGV > 0 then
  for n, entities in ipairs(redis.call('HMGET', KEYS[2], unpack(ARGV))) do append(ARGV[n], entities) end
else
  local all = redis.call('HGETALL', KEYS[2])
  for n = 1, #all, 2 do append(all[n], all[n + 1]) end
end
return out
`)

/**
 * KEYS: tokens. ARGV: channel, that of the client. Answers { why writing is refused, why telling is, why queues are, INFO memory,
 * INFO persistence, INFO server, INFO replication }, each '' where there is nothing to report.
 */
export const inspectScript: Script = script(`${prelude}
local refusal = failed(redis.pcall('SETRANGE', KEYS[1], 0, ''))
local silence = failed(redis.pcall('PUBLISH', ARGV[1], '[]')) or failed(redis.pcall('PUBLISH', ARGV[2], '[]'))
local queues
for _, command in ipairs({
  { 'ZADD', 'XX', 0, ' ' }, { 'ZREM', ' ' }, { 'ZCARD' }, { 'ZRANK', ' ' }, { 'ZSCORE', ' ' }, { 'ZRANGE', 0, 0 },
  { 'ZRANGEBYSCORE', 0, 0 }, { 'ZREMRANGEBYSCORE', 0, 0 }
}) do
  queues = queues or failed(redis.pcall(command[1], root .. 'x', unpack(command, 2)))
end
local out = { refusal or '', silence or '', refusal and '' or queues or '' }
for n, section in ipairs({ 'memory', 'persistence', 'server', 'replication' }) do
  local info = redis.pcall('INFO', section)
  out[n + 3] = failed(info) and '' or info
end
return out
`)
