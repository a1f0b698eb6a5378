/**
 * What runs inside the server: what all scripts share, and those that read. What changes leases is in `apply-script.ts`.
 *
 * A term is one string with PXAT = its expiry, without while it is pinned:
 *
 *     token|length of the holder in bytes|holder|expiry in ms|nonce|        and, with a value, then =value
 *
 * That the key is gone *is* the verdict that the lease has lapsed: to the millisecond, and for WATCH as well. A key
 * stands for the whole millisecond of its expiry and is gone with the next.
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
local whole = string.format('%d', 2^53) == '9007199254740992' and '%d' or '%.0f' -- three times as fast, but for 32 bits
local function fmt(n) return string.format(whole, n) end
local function failed(reply) return type(reply) == 'table' and reply.err end
local time = redis.call('TIME')
local us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(us / 1000)
local base = string.sub(KEYS[1], 1, -2) .. 'l:'
local function parse(stored)
  local token, length, from = string.match(stored, '^(%d+)|(%d+)|()')
  if not token then return nil end
  local to = from + tonumber(length)
  local expiry, nonce, value = string.match(stored, '^|(%d+)|([^|]*)|(.*)$', to)
  if not expiry then return nil end
  return token, tonumber(expiry), nonce, string.sub(stored, from, to - 1), value
end
local function leave(key)
  local refusal = failed(redis.pcall('SETRANGE', key, 0, ''))
  return refusal and string.match(refusal, '^%S+'), refusal
end
`

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
