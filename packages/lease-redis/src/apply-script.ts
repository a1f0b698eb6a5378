/**
 * What changes leases: one script that applies operations in any mix.
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
 *
 * What most operations are (claims of vacant leases, extensions and releases of the very term that stands, all of them
 * without a value) is done *in bulk*: one MGET for all, one SADD, one DEL. Whatever is out of the ordinary, or fails on
 * the way, is done *one by one* afterwards in the same run; nothing of it has changed by then.
 */
import { FAILED, GRANTED, HELD, PINNED, prelude, script, type Script } from './script.ts'

/** How long a line is remembered in which nobody is given a place. */
const LINE_MS = 600_000

/** The second element of the answer to a batch that came after its time; nothing was done. */
export const LATE = 'late'

/**
 * What a script that changes leases begins with: leave, and what is known of the namespace. ARGV begins with the time
 * after which nothing is to be done, and the channel.
 */
export const beginning: string = `
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

local vacated, changed, taken, added = {}, {}, {}, 0
local out = { us }
`

/** One line of `applyScript` after the other, in four words. */
const linesToRead = `string.gmatch(ARGV[3], '(%u) ([^ ]+) ([^ ]+) ([^\\n]+)')`

/** Does what can be done in bulk, and leaves `words`: of each operation the word of its answer, '' where it is not done. */
const inBulk = `
local words, found = {}, {}
local function nameOf(n) return string.sub(KEYS[n + 3], #base + 1) end
if #KEYS > 3 and not full then
  found = redis.pcall('MGET', unpack(KEYS, 4))
  if anyPinned and #found > 0 then
    local names = {}
    for n = 1, #found do names[n] = nameOf(n) end
    for n, entities in ipairs(redis.call('HMGET', pins, unpack(names))) do if entities then found[n] = nil end end
  end
end

-- Most are of one holder and one duration: what is the same for all is made once.
local ofHolder, whose, expiry, till, lasting = nil, nil, nil, nil, nil
local claims, claimed, contents, expiries = {}, {}, {}, {}
local freed, released = {}, {}
local n = 0
for kind, x, y, holder in ${linesToRead} do
  n = n + 1
  words[n] = ''
  local stored = found[n]
  if holder ~= whose then whose, ofHolder = holder, '|' .. #holder .. '|' .. holder .. '|' end
  local ms = kind == 'C' and x or kind == 'E' and y or lasting
  if ms ~= lasting then
    lasting, till = ms, now + tonumber(ms)
    expiry = fmt(till)
  end
  if kind == 'C' then
    if stored == false then
      local place = #claims + 1
      claims[place], claimed[place], expiries[place] = n, nameOf(n), expiry
      contents[place] = ofHolder .. expiry .. '|' .. y .. '|'
    end
  elseif stored and kind ~= 'L' then
    local term = x .. ofHolder
    if string.find(stored, term, 1, true) ~= 1 then -- another holds it, or whichever is meant
    elseif kind == 'R' then
      if y == '*' then freed[#freed + 1], released[#released + 1] = KEYS[n + 3], n end
    else
      local before, nonce = string.match(stored, '^(%d+)(|[^|]*|)$', #term + 1)
      if before and now <= tonumber(before) then
        if till <= tonumber(before) then words[n] = before
        else
          local reply = redis.pcall('SET', KEYS[n + 3], term .. expiry .. nonce, 'PXAT', expiry)
          if not failed(reply) then words[n] = expiry end
        end
      end
    end
  end
end

local indexed = #claims > 0 and redis.pcall('SADD', index, unpack(claimed))
if indexed and not failed(indexed) then
  added = indexed
  for place, n in ipairs(claims) do
    local token = nextToken(#claims - place + 1)
    if not token then break end
    local reply = redis.pcall('SET', KEYS[n + 3], token .. contents[place], 'NX', 'PXAT', expiries[place])
    if reply and not failed(reply) then words[n] = token end
  end
end
if #freed > 0 and not failed(redis.pcall('DEL', unpack(freed))) then
  for place, n in ipairs(released) do words[n], vacated[place] = '1', nameOf(n) end
  redis.pcall('SREM', index, unpack(vacated))
end
`

/** Does operations one by one: `perform` by kind. */
export const oneByOne: string = `
-- The operation at hand, and the lease it is about: one set of locals for all, for closures are dear.
local op, key, nth, x, y, z, newValue, announces, place
local name, stored, pinned, token, expiry, nonce, holder, value
local at, inLine = #out + 1, {}
local lines = string.sub(index, 1, -2) .. 'w:'

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
  local content = token .. '|' .. #holder .. '|' .. holder .. '|' .. fmt(expiry) .. '|' .. nonce .. '|' .. value
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
    inLine[#inLine + 1] = { nth, mine, served }
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
export const conclusion: string = `
-- Each new name has two others looked at, if the first few are not all in use: the index stays within about twice the
-- leases that stand. Eight at a time, for one costs as much. From a place in it that the clock chooses, and at its end from
-- the beginning on; what is stored small comes whole. (Its last three bits chose the moment: they cannot choose the place.)
if added > 0 and added < 8 then added = us % 8 < added and 8 or 0 end
local many, place = added > 0 and 2 * added + 1 or 0, fmt(math.floor(us / 8) % 4294967296)
local few = math.min(many, 4)
while many > 0 do
  local page = redis.pcall('SSCAN', index, place, 'COUNT', few)
  if failed(page) then break end
  local names, keys = page[2], {}
  local from = us % math.max(1, #names - few + 1)
  for n = 1, math.min(few, #names) do keys[n] = base .. names[from + n] end
  many = many - math.max(1, #keys)
  if #keys == 0 or redis.pcall('EXISTS', unpack(keys)) == #keys then
    if few == 4 then break end
  else
    for _, key in ipairs(keys) do
      if redis.pcall('EXISTS', key) == 0 then redis.pcall('SREM', index, string.sub(key, #base + 1)) end
    end
  end
  place, few = page[1], many
end
if #vacated > 0 then redis.pcall('PUBLISH', ARGV[2], cjson.encode(vacated)) end
if #changed > 0 then redis.pcall('PUBLISH', ARGV[2], cjson.encode({ changed = changed })) end
if #taken > 0 then redis.pcall('PUBLISH', ARGV[2], cjson.encode({ taken = taken })) end
return out
`

/**
 * KEYS: index, tokens, pins, then one lease for each operation. ARGV: the server time in microseconds after which
 * nothing is to be done (0: whenever), the channel, and a line of four words for each operation, none of which has white
 * space in it, and of which * is any:
 *
 *     C milliseconds nonce holder        E token milliseconds holder        R token nonce holder        L * * *
 *
 * Then, for each L, its kind and
 *
 *     C claim    holder, nonce, milliseconds, value        E extend   holder, token, milliseconds, value
 *     R release  holder, token, nonce                      X expire
 *     P pin      entity                                    U unpin    entity
 *     W claim of one who waits: as C, then his place in line, 0 for none
 *
 * where a value is '' or begins with '=', an empty token or nonce matches any, and of c, w and e news is announced.
 *
 * Answers { server time in microseconds, words parted by blanks, then FIELDS for each operation without a word }. The word
 * of C: its new token, of E: the expiry in milliseconds, of R: 1. FIELDS of a claim or extension that is granted come
 * without the holder. After these come three for each W that was refused: which operation it was, its place, and the last
 * one served.
 */
export const applyScript: Script = script(`${prelude}${beginning}${inBulk}
local left = 0
for _, word in ipairs(words) do if word == '' then left = left + 1 end end
out[2] = table.concat(words, ' ')
if left > 0 then
${oneByOne}
  local perform = { C = claim, W = claim, E = extend, R = release, X = expire, P = pin, U = unpin }
  local arity = { C = 4, W = 5, E = 4, R = 3, X = 0, P = 1, U = 1 }
  local a = 4
  nth = -1
  for kind, p, q, who in ${linesToRead} do
    nth = nth + 1
    if words[nth + 1] == '' then
      announces, place = false, nil
      if kind == 'L' then
        op = string.upper(ARGV[a])
        announces = op ~= ARGV[a]
        x, y, z, newValue = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
        place = op == 'W' and tonumber(ARGV[a + 5])
        a = a + 1 + arity[op]
      elseif kind == 'C' then op, x, y, z, newValue = kind, who, q, p, ''
      else op, x, y, z, newValue = kind, who, p ~= '*' and p or '', q ~= '*' and q or '', '' end
      local problem = look(KEYS[nth + 4]) or perform[op]()
      if problem then tell(${FAILED}, problem, false, false, false) end
      left = left - 1
    end
  end
  for _, told in ipairs(inLine) do
    for n = 1, 3 do out[at], at = told[n], at + 1 end
  end
end
${conclusion}`)
