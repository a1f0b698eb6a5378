/**
 * What changes leases: one script that applies operations in any mix.
 *
 * Redis rolls nothing back. So nothing may fail half-way:
 *
 * - The first command of the script asks for the version of the layout, and sets it where there is none (SET NX GET). It is a
 *   write: a replica refuses it, and so does a server whose disk or whose replicas are missing. Nothing is applied then, and
 *   nothing that a replica says counts. Where only memory is lacking, claims and pins are refused one by one; whatever
 *   needs hardly more memory goes on (a server denies memory only to a script that has written nothing yet).
 * - The operations of a batch fail each for itself, by `pcall`.
 * - Within one, what may fail comes first, and what has come first is harmless alone: a token that nobody got, a name
 *   in the index without a lease, a remembered claim whose term stands.
 *
 * Most operations (claims of vacant leases, extensions and releases of the very term that stands, all of them without a
 * value) are done *in bulk*: one MGET for all, one SADD, one DEL. What is out of the ordinary, or fails on the way, is done
 * *one by one* afterwards in the same run; nothing of it has changed by then.
 *
 * A request may arrive at any time after it was sent, and twice (`substrate.ts` of lease-core). Under `o:<name>` the script
 * remembers the claim that opened the latest term, once the term is over or where its key may be gone too soon: a claim that was
 * sent before that opening, or by that nonce, opens nothing. Under `u:<name>` it remembers the last unpin, in the same way.
 */
import { CLIENT_LENGTH, LONGEST_DEADLINE_MS, TOLD } from 'lease-core/adapter'
import { entering, naming, queueing, registering, telling } from './interest-script.ts'
import { admitting, counting } from './shares-script.ts'
import { FAILED, GRANTED, HELD, LATE, LAYOUT, PINNED, preludeAt, script, type Script } from './script.ts'

/** The second element of the answer to a batch that came after its time; nothing was done. */
export const TOO_LATE = 'late'

/**
 * What a script that changes leases begins with. KEYS begins with the index, the tokens and the pins; ARGV begins with the
 * time after which nothing is to be done and the time at which the request was sent, both in microseconds of the server's clock
 * (0: unknown), the channel, the client that asks, and '1' where a PUBLISH does not tell how many heard it (a Cluster).
 */
const beginning = `
local deadline, sent = tonumber(ARGV[1]) or 0, tonumber(ARGV[2]) or 0
if deadline ~= 0 and us > deadline then return { us, '${TOO_LATE}' } end
local index, tokens, pins = KEYS[1], KEYS[2], KEYS[3]
local channel, client = ARGV[3], ARGV[4]
local openings = root .. 'o:'
local anyPinned, full = false, nil
local function remember(key, at, nonce)
  return failed(redis.pcall('SET', key, at .. ' ' .. nonce, 'PX', '${LONGEST_DEADLINE_MS}'))
end
${counting}${naming}${queueing}
-- What is to be notified: names that were vacated, those with news, whose term another client has ended (client, name), whose queue
-- (name, nth operation), and the grants to those who waited.
local vacated, changed, ended, waking, taken, added = {}, {}, {}, {}, {}, 0
-- Of queues: which operation it is about, a ticket, and how many are ahead.
local news = {}
local out = { us }
`

/** What a script begins with that has not done all of it `alone`. */
const checking = `
local layout = redis.pcall('SET', root .. 'v', '${LAYOUT}', 'NX', 'GET')
full = failed(layout)
if full then
  if string.find(full, 'OOM', 1, true) ~= 1 then return redis.error_reply(full) end
  layout = redis.call('GET', root .. 'v')
  redis.pcall('SREM', index, '') -- a script that has begun to write is not denied memory
end
local problem = unreadable(layout)
if problem then return redis.error_reply(problem) end
anyPinned = redis.pcall('HLEN', pins)
if failed(anyPinned) then return anyPinned end
anyPinned = anyPinned > 0

-- Above every token so far and above the clock: rising when the counter is lost, and when the clock has gone back. Then what
-- the stamp has to say of the time: nothing where the token is that, but for the length of a batch.
local last, reserved = 0, 0
local function nextToken(left)
  if last == reserved then
    last, reserved = us - 1, us - 1 + left
    -- In one command, as the counter is hardly ever ahead of the clock.
    local stored = redis.pcall('SET', tokens, fmt(reserved), 'GET')
    if failed(stored) then
      last = reserved
      return nil, stored.err
    end
    local high = tonumber(stored or '0')
    if not high or high > last then
      last, reserved = high, high and high + left
      local exact = high and high <= 9007199254740000 -- as a double
      local reply = redis.pcall('SET', tokens, exact and fmt(reserved) or stored)
      if not exact then
        last, reserved = 0, 0
        if not high then return nil, 'ERR the counter of the fencing tokens is not a number' end
        reply = redis.pcall('INCR', tokens)
        if failed(reply) then return nil, reply.err end
        return redis.call('GET', tokens), ' ' .. fmt(us)
      end
    end
  end
  last = last + 1
  return fmt(last), last - us < 128 and '' or ' ' .. fmt(us)
end

-- Whether that happened after this request was sent. What lies in the future was written before the clock was set back.
local function isSince(at)
  at = sent ~= 0 and tonumber(at or '')
  return at and sent < at and at <= us + 1000000
end
-- Whether a request with this nonce comes too late, by what is remembered: a microsecond and a nonce.
local function isStale(remembered, nonce)
  if not remembered then return false end
  local at, before = string.match(remembered, '^(%d+) (.*)$')
  return before == nonce or isSince(at)
end
`

/** One line of `applyScript` after the other, in four words. */
function linesIn(text: string): string {
  return `string.gmatch(${text}, '(%u) ([^ ]+) ([^ ]+) ([^\\n]+)')`
}

/** Does what can be done in bulk, and leaves `words`: of each operation the word of its answer, '' where it is not done. */
const inBulk = `
local words, found, names, count = {}, {}, {}, #KEYS - 3
local isBulk = string.find(ARGV[6], '^[CER]') or string.find(ARGV[6], '\\n[CER]')
if isBulk and not full then
  local keys = { unpack(KEYS, 4) }
  for n = 1, count do names[n] = string.sub(KEYS[n + 3], #base + 1) end
  if string.find(ARGV[6], 'C ', 1, true) then for n = 1, count do keys[count + n] = openings .. names[n] end end
  found = redis.pcall('MGET', unpack(keys))
  if anyPinned and #found > 0 then
    for n, entities in ipairs(redis.call('HMGET', pins, unpack(names))) do if entities then found[n] = nil end end
  end
end

-- Most are of one holder and one duration: what is the same for all is made once.
local ofHolder, whose, expiry, till, lasting = nil, nil, nil, nil, nil
local claims, claimed, contents, expiries, brief = {}, {}, {}, {}, {}
local freed, released, young = {}, {}, us - ${LONGEST_DEADLINE_MS}000
local n = 0
if not isBulk then for nth = 1, count do words[nth] = '' end end
for kind, x, y, holder in ${linesIn(`isBulk and ARGV[6] or ''`)} do
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
    if stored == false and not isStale(found[count + n], y) then
      local place = #claims + 1
      claims[place], claimed[place], expiries[place] = n, names[n], expiry
      contents[place] = ofHolder .. expiry .. '|' .. y
      brief[place] = till < now + ${LONGEST_DEADLINE_MS} and y
    end
  elseif stored and kind ~= 'L' then -- an N names no term
    local term = x .. ofHolder
    if string.find(stored, term, 1, true) ~= 1 then -- another term stands, or only the nonce is named
    elseif kind == 'R' then
      local nonce = string.match(stored, '^%d+|([^| ]*)|', #term + 1)
      if nonce and (y == '*' or y == nonce) then
        if tonumber(x) < young or not remember(openings .. names[n], x, nonce) then
          local place = #freed + 1
          freed[place], released[place], vacated[place] = KEYS[n + 3], n, names[n]
          waking[place] = { names[n], n - 1 }
          if string.sub(nonce, 1, ${CLIENT_LENGTH}) ~= client then ended[#ended + 1] = { string.sub(nonce, 1, ${CLIENT_LENGTH}), names[n] } end
        end
      end
    else
      local before, nonce = string.match(stored, '^(%d+)(|[^| ]*|)$', #term + 1)
      if before and now <= tonumber(before) then
        if till <= tonumber(before) then words[n] = before .. nonce
        else
          local reply = redis.pcall('SET', KEYS[n + 3], term .. expiry .. nonce, 'PXAT', expiry)
          if not failed(reply) then words[n] = expiry .. nonce end
        end
      end
    end
  end
end

local indexed = #claims > 0 and redis.pcall('SADD', index, unpack(claimed))
if indexed and not failed(indexed) then
  added = indexed
  for place, n in ipairs(claims) do
    local token, stamp = nextToken(#claims - place + 1)
    if not token then break end
    local content = token .. contents[place] .. stamp .. '|'
    local reply = redis.pcall('SET', KEYS[n + 3], content, 'NX', 'PXAT', expiries[place])
    if reply and not failed(reply) then
      words[n] = token
      if brief[place] then remember(openings .. names[n], fmt(us), brief[place]) end
    end
  end
end
if #freed > 0 then
  if failed(redis.pcall('DEL', unpack(freed))) then vacated, waking, ended = {}, {}, {}
  else
    for _, n in ipairs(released) do words[n] = '1' end
    redis.pcall('SREM', index, unpack(vacated))
  end
end
`

/**
 * A batch of one, as a single caller sends it, in the ordinary case: a claim of a vacant lease, or a release of the very term that stands,
 * while no lease is pinned. It does what `inBulk` does, and makes nothing that it does not need: half of the server's time. After a
 * release, where somebody in the namespace waits, what follows is reported, and nothing else is done: `released`. Whatever is otherwise is
 * left to the rest, and what has failed half-way as well: what came first is harmless alone. So is one claim in eight, for it is then that
 * the index is looked after.
 */
const alone = `
local time, released = redis.call('TIME'), nil
if #KEYS == 4 then
  local kind, x, y, holder = string.match(ARGV[6], '^([CR]) ([^ ]+) ([^ ]+) ([^\\n]+)\\n$')
  if kind then
    local us = tonumber(time[1]) * 1000000 + tonumber(time[2])
    local deadline, root, key = tonumber(ARGV[1]), string.sub(KEYS[1], 1, -2), KEYS[4]
    local name = string.sub(key, #root + 3)
    local opening = root .. 'o:' .. name
    local mayBe = kind == 'C' and us % 8 ~= 0 or kind == 'R' and string.sub(y, 1, ${CLIENT_LENGTH}) == ARGV[4]
    local found = mayBe and (deadline == 0 or us <= deadline) and redis.pcall('MGET', root .. 'v', key, opening)
    if not found or found[1] ~= '${LAYOUT}' then -- not alone
    elseif kind == 'C' then
      local at, before = string.match(found[3] or '', '^(%d+) (.*)$')
      local sent = tonumber(ARGV[2])
      at = tonumber(at)
      local late = found[3] and (not at or before == y or sent ~= 0 and sent < at and at <= us + 1000000)
      if found[2] == false and not late and redis.pcall('EXISTS', KEYS[3]) == 0 then
        local token = string.format('%.0f', us)
        local high = redis.pcall('SET', KEYS[2], token, 'GET')
        if high and (type(high) ~= 'string' or not tonumber(high) or tonumber(high) >= us) then
          if type(high) == 'string' then redis.pcall('SET', KEYS[2], high) end
        elseif type(redis.pcall('SADD', KEYS[1], name)) == 'number' then
          local expiry = string.format('%.0f', math.floor(us / 1000) + tonumber(x))
          local content = token .. '|' .. #holder .. '|' .. holder .. '|' .. expiry .. '|' .. y .. '|'
          local stored = redis.pcall('SET', key, content, 'NX', 'PXAT', expiry)
          if stored and not stored.err then
            if tonumber(x) < ${LONGEST_DEADLINE_MS} then
              redis.pcall('SET', opening, token .. ' ' .. y, 'PX', '${LONGEST_DEADLINE_MS}')
            end
            return { us, token }
          end
        end
      end
    else
      local term = x .. '|' .. #holder .. '|' .. holder .. '|'
      local stored = found[2]
      local besides = stored and string.find(stored, term, 1, true) == 1
        and string.match(stored, '^%d+|([^| ]*)|', #term + 1) == y and redis.pcall('EXISTS', KEYS[3], root .. 'x')
      if besides == 0 or besides == 1 and redis.pcall('EXISTS', KEYS[3]) == 0 then
        local young = tonumber(x) >= us - ${LONGEST_DEADLINE_MS}000
        local kept = not young or redis.pcall('SET', opening, x .. ' ' .. y, 'PX', '${LONGEST_DEADLINE_MS}')
        if (kept == true or not kept.err) and redis.pcall('DEL', key) == 1 then
          redis.pcall('SREM', KEYS[1], name)
          if besides == 0 then return { us, '1' } end
          released = name
        end
      end
    end
  end
end
`

/** Does operations one by one: `perform` by kind. */
const oneByOne = `
-- The operation at hand, and the lease it is about: one set of locals for all, as closures cost more.
local op, key, nth, x, y, z, newValue, from, into, announces, place, most
local name, stored, pinned, token, expiry, stamp, nonce, opened, opener, heavy, holder, value
-- What the counted lease of a share decides; made when the first claim of one comes. Then whether the one at hand is one.
local shares, isShare
-- Of claims that wait.
local takeOutServed, enter
local at = #out + 1

-- What is stored under this key becomes what is at hand.
local function look(at)
  key = at
  name = string.sub(key, #base + 1)
  stored = redis.pcall('GET', key)
  if failed(stored) then return stored.err end
  pinned = anyPinned and redis.call('HEXISTS', pins, name) == 1
  token = nil
  if not stored then return nil end
  token, expiry, stamp, holder, value = parse(stored)
  if not token then return 'ERR what is stored under the key of the lease is not a lease' end
  nonce, opened, opener = string.match(stamp, '^([^ ]*) ?(%d*) ?%d* ?(.*)$')
  heavy = ''
  if opener ~= '' and string.find(opener, ' ', 1, true) then opener, heavy = string.match(opener, '^([^ ]*) (.*)$') end
  if opened == '' then opened = token end
  if opener == '' then opener = nonce end
  if now > expiry and not pinned then token = nil end -- its pins were lost
end

local function answer(outcome, token, expiry, stamp, holder, value)
  out[at], out[at + 1], out[at + 2], out[at + 3], out[at + 4], out[at + 5] = outcome, token, expiry, stamp, holder, value
  at = at + 6
end
local function fail(outcome, problem) answer(outcome, problem or false, false, false, false, false) end
local function state(granted)
  local outcome = granted + (pinned and ${PINNED} or 0)
  if not token then return fail(outcome) end
  local asked = granted == ${GRANTED} and (op == 'C' or op == 'W' or op == 'S' or op == 'E' or op == 'A')
  answer(outcome + ${HELD}, token, expiry, stamp, not asked and holder, value ~= '' and value)
end
local function write()
  local content = token .. '|' .. #holder .. '|' .. holder .. '|' .. fmt(expiry) .. '|' .. stamp .. '|' .. value
  if pinned then return failed(redis.pcall('SET', key, content)) end
  return failed(redis.pcall('SET', key, content, 'PXAT', fmt(expiry)))
end
local function vacate()
  if stored then
    local young = tonumber(opened) > us - ${LONGEST_DEADLINE_MS}000
    local problem = young and remember(openings .. name, opened, opener) or failed(redis.pcall('DEL', key))
    if problem then return problem end
  end
  -- The key of a share is gone. An entry that stays does so until its bound.
  local counted, share, left = nil, nil, 0
  if string.find(name, '#', 1, true) then
    counted, share = countedOf(name)
    local _, dropped = counting().drop(counted, { share }, stored and heavy == '')
    left = tonumber(dropped) or 0
  end
  if redis.pcall('SREM', index, name) == 1 or stored or left > 0 then
    vacated[#vacated + 1], waking[#waking + 1] = name, { counted or name, nth }
    local opener = stored and nonce and string.sub(nonce, 1, ${CLIENT_LENGTH})
    if opener and opener ~= client then ended[#ended + 1] = { opener, name } end
  end
  token = nil
end
`

/** What performs each kind of operation, made when the first of its kind comes: closures over so much cost more than what they do. */
const claiming = `
${registering}${entering}
-- A refusal puts one who waits into the queue. It only helps: what fails here changes no verdict.
local function refuse()
  if place then
    local mine, ahead = enter(name, place, token and most)
    if mine then news[#news + 1] = { nth, mine, ahead } end
  end
  state(0)
end

local function claim()
  if token then
    if holder ~= x or nonce ~= y then
      if isShare then return state(0) end
      return refuse()
    end
    -- Written once more: anyone who waits until this write is safe (WAIT) waits for the first one as well.
    expiry = math.max(expiry, now + tonumber(z))
    local problem = write()
    if problem then return problem end
    return state(${GRANTED})
  end
  local latest = stored and opened .. ' ' .. opener or redis.pcall('GET', openings .. name)
  if failed(latest) then return latest.err end
  if isStale(latest, y) then return fail(${LATE}) end
  if full then return full end
  if isShare then
    local may, problem = shares.admit()
    if not may then return problem end
  elseif place == 0 and redis.pcall('EXISTS', queues .. name) == 1 then return refuse()
  end
  local fresh, more = nextToken(left)
  if not fresh then return more end
  local reply = redis.pcall('SADD', index, name)
  if failed(reply) then return reply.err end
  added = added + reply
  token, expiry, stamp, holder, value = fresh, now + tonumber(z), y .. more, x, newValue
  local problem = isShare and shares.count()
  if problem then return problem end
  problem = write()
  if problem then
    if isShare then shares.drop() end
    return problem
  end
  -- This one lapses before the last copy of its claim can come.
  if expiry < now + ${LONGEST_DEADLINE_MS} then remember(openings .. name, fmt(us), y) end
  if announces then changed[#changed + 1] = name end
  if place and place > 0 then
    local queue = isShare and countedOf(name) or name
    takeOutServed(queue, place)
    taken[#taken + 1] = { queue, fmt(place), tonumber(z) }
    if isShare then waking[#waking + 1] = { queue, nth } end
  end
  state(${GRANTED})
end
perform.C, perform.W, perform.S = claim, claim, claim
`
const extending = `
local function extend()
  if not token or holder ~= x or token ~= y then return state(0) end
  if into and nonce ~= from and nonce ~= into then return state(0) end
  local news, wanted = newValue ~= '' and newValue ~= value, now + tonumber(z)
  local set = tonumber(string.match(stamp, '^[^ ]* %d+ (%d+)') or 0)
  if news and isSince(set) then return fail(${LATE}) end
  if newValue ~= '' or into or wanted > expiry then
    expiry = math.max(expiry, wanted)
    if newValue ~= '' then
      -- When the request was sent: its copy must not make the next one late.
      set = math.max(set, sent ~= 0 and math.min(sent, us) or us)
      value = newValue
    end
    if newValue ~= '' or into then
      nonce = into or nonce
      stamp = nonce .. ' ' .. opened .. ' ' .. fmt(set) .. ((nonce ~= opener or heavy ~= '') and ' ' .. opener or '')
        .. (heavy ~= '' and ' ' .. heavy or '')
    end
    local problem = write()
    if problem then return problem end
    if news and announces then changed[#changed + 1] = name end
  end
  state(${GRANTED})
end
perform.E, perform.A = extend, extend
`
const ending = `
local function release()
  local named = y ~= '' and y == token and (z == '' or z == nonce) or y == '' and z ~= '' and z == nonce
  if token and not (named and holder == x) then return state(0) end
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
perform.R, perform.X = release, expire
`
const leaving = `
local function leave()
  if x == '' then redis.pcall('ZREM', watches .. name, client)
  else
    local member = x .. ' ' .. client
    if string.sub(name, -1) == '#' then
      for _, waiting in ipairs(listed(redis.pcall('ZRANGEBYSCORE', queues .. name, x, x))) do
        if string.sub(waiting .. ' ', 1, #member + 1) == member .. ' ' then member = waiting end
      end
    end
    local rank = redis.pcall('ZRANK', queues .. name, member)
    if type(rank) == 'number' then
      takeOut(name, x, x)
      if rank < ${TOLD} and not token then waking[#waking + 1] = { name, nth } end
    end
  end
  forget(name)
  fail(${GRANTED})
end
local function passOver()
  if not token and (string.sub(name, -1) ~= '#' or counting().fits(name)) then
    takeOut(name, tonumber(x))
    waking[#waking + 1] = { name, nth }
  end
  fail(${GRANTED})
end
perform.Q, perform.O = leave, passOver
`
const pinning = `
local unpins, generations = root .. 'u:', root .. 'g'
-- The others that pin this lease; their generations and when each was set; and the same of x, if it does. Pins of layout 1
-- have no generation.
local function decoded(text)
  local fine, value = pcall(cjson.decode, text)
  return fine and type(value) == 'table' and value
end
local function pinsHere()
  local known = not pinned and {} or decoded(redis.call('HGET', pins, name))
  local stamps = pinned and redis.pcall('HGET', generations, name)
  if failed(stamps) then return nil, stamps.err end
  stamps = not stamps and {} or decoded(stamps)
  if not known or not stamps then return nil, 'ERR what is stored of the pins of the lease is not a lease' end
  local rest, left, own = {}, {}, nil
  for _, entity in ipairs(known) do
    if entity == x then own = stamps[x] or '- 0'
    else rest[#rest + 1], left[entity] = entity, stamps[entity] end
  end
  return rest, left, own
end
local function pin()
  local rest, left, own = pinsHere()
  if not rest then return left end
  if own and string.match(own, '^[^ ]*') == y then return state(${GRANTED}) end
  local withdrawn = redis.pcall('GET', unpins .. name)
  if failed(withdrawn) then return withdrawn.err end
  if isStale(withdrawn, y) or isSince(own and string.match(own, '%d+$')) then return fail(${LATE}) end
  if full then return full end
  if stored and not token then -- a pin must not make a lapsed term stand again
    local problem = vacate()
    if problem then return problem end
  end
  -- First: a key without expiry, and without pins, counts as lapsed once it is.
  local problem = token and not pinned and failed(redis.pcall('PERSIST', key))
  if problem then return problem end
  rest[#rest + 1], left[x] = x, y .. ' ' .. fmt(us)
  problem = failed(redis.pcall('HSET', generations, name, cjson.encode(left)))
    or not own and failed(redis.pcall('HSET', pins, name, cjson.encode(rest)))
  if problem then return problem end
  pinned = true
  state(${GRANTED})
end
local function unpin()
  local rest, left, own = pinsHere()
  if not rest then return left end
  local problem = remember(unpins .. name, fmt(us), y)
  if problem then return problem end
  if not own or string.match(own, '^[^ ]*') ~= y then return state(${GRANTED}) end
  if #rest > 0 then
    problem = failed(redis.pcall('HSET', pins, name, cjson.encode(rest)))
      or failed(next(left) and redis.pcall('HSET', generations, name, cjson.encode(left))
        or redis.pcall('HDEL', generations, name))
    if problem then return problem end
    return state(${GRANTED})
  end
  local stands = token and now <= expiry
  problem = stands and failed(redis.pcall('PEXPIREAT', key, fmt(expiry)))
  if problem then return problem end
  local counted, share = countedOf(name)
  problem = stands and counted and counting().move(counted, { fmt(expiry), share })
  if problem then
    redis.pcall('PERSIST', key)
    return problem
  end
  problem = failed(redis.pcall('HDEL', pins, name))
  if problem then
    if stands then redis.pcall('PERSIST', key) end
    return problem
  end
  redis.pcall('HDEL', generations, name)
  pinned = false
  problem = token and not stands and vacate()
  if problem then return problem end
  state(${GRANTED})
end
perform.P, perform.U = pin, unpin
`

/** Comes after the operations. */
const conclusion = `
-- Each new name has two others looked at, if the first few are not all in use: the index stays within about twice the
-- leases that stand. Eight at a time, for one costs as much. From a place in it that the clock chooses, and at its end from
-- the beginning on; what is stored small comes whole. (Its last three bits chose the moment: they cannot choose the place.)
if added > 0 and added < 8 then added = us % 8 < added and 8 or 0 end
local many, few, place = 2 * added + 1, 4, added > 0 and fmt(math.floor(us / 8) % 4294967296)
while added > 0 and many > 0 do
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
      local name = string.sub(key, #base + 1)
      if redis.pcall('EXISTS', key) == 0 then
        local counted, share = countedOf(name)
        if counted then counting().drop(counted, { share }) end
        if redis.pcall('SREM', index, name) == 1 then
          vacated[#vacated + 1], waking[#waking + 1] = name, { counted or name }
        end
      end
    end
  end
  place, few = page[1], many
end
${telling}
`

/**
 * KEYS: index, tokens, pins, then one lease for each operation. ARGV: as `beginning` has it, then a line of four words for each
 * operation, without white space in each:
 *
 *     C milliseconds nonce holder        E token milliseconds holder        R token nonce holder        L * * *        N * * *
 *
 * where * in an R is a token or a nonce that is not named. Then, for each L, its kind and words of its own; N is an L of kind S or D:
 *
 *     C claim    holder, nonce, milliseconds, value        W claim of a waiter: as C, then its ticket, 0 for none, and how many
 *                                                            may be in the queue if it has none, or ''
 *     S claim of a share: as W, with '' for the ticket of one that does not wait, then weight, capacity or '', how many it may pass
 *     E extend   holder, token, milliseconds, value        A adopt: as E, then the nonce that is replaced, and the new one
 *     R release  holder, token, nonce                      X expire
 *     P pin      entity, generation                        U unpin    entity, generation
 *     Q leave    ticket, or '' for the watch               O pass over: ticket
 *     D define   capacity or '', the generation of before or '', generation
 *
 * where a value is '' or begins with '=', an empty token or nonce of R is not named, and the news of c, w, s, e and a is announced. What is
 * not in bulk may be of a share: claims and releases of shares always come at length.
 *
 * Answers { server time in microseconds, words parted by blanks, then FIELDS for each operation without a word }. The word
 * of C: its new token, of E: the expiry in milliseconds, and the nonce between bars, of R: 1. FIELDS of a claim or extension
 * that is granted come without the holder. After these come three for each piece of news of a queue: which operation it is about,
 * a ticket, and how many are ahead of it; or FULL, or TOLD_UP_TO, instead of that number; or what a counted lease is, and COUNTED.
 */
export const applyScript: Script = script(`${alone}${preludeAt('time')}${beginning}
local isAwaited = released ~= nil
if released then out[2], vacated[1], waking[1] = '1', released, { released, 0 }
else
${checking}${inBulk}
local left = 0
for _, word in ipairs(words) do if word == '' then left = left + 1 end end
out[2] = table.concat(words, ' ')
if left > 0 then
${oneByOne}
  local perform = {}
  local arity = { C = 4, W = 6, S = 9, E = 4, A = 6, R = 3, X = 0, P = 2, U = 2, Q = 1, O = 1, D = 3 }
  local a = 7
  nth = -1
  for kind, p, q, who in ${linesIn('ARGV[6]')} do
    nth = nth + 1
    if words[nth + 1] == '' then
      announces, place, most, from, into, isShare = false, nil, nil, nil, nil, false
      if kind == 'L' or kind == 'N' then
        op = string.upper(ARGV[a])
        announces = op ~= ARGV[a]
        x, y, z, newValue = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
        if op == 'W' or op == 'S' then place, most = tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6]) end
        if kind == 'N' then
          if not shares then
${admitting}
            perform.D = shares.define
          end
          isShare = op == 'S'
          if isShare then shares.ask(tonumber(ARGV[a + 7]), tonumber(ARGV[a + 8]), tonumber(ARGV[a + 9])) end
        end
        if op == 'A' then from, into = ARGV[a + 5], ARGV[a + 6] end
        a = a + 1 + arity[op]
      elseif kind == 'C' then op, x, y, z, newValue = kind, who, q, p, ''
      else op, x, y, z, newValue = kind, who, p ~= '*' and p or '', q ~= '*' and q or '', '' end
      if perform[op] then -- made
      elseif op == 'C' or op == 'W' or op == 'S' then
${claiming}
      elseif op == 'E' or op == 'A' then
${extending}
      elseif op == 'R' or op == 'X' then
${ending}
      elseif op == 'Q' or op == 'O' then
${leaving}
      else
${pinning}
      end
      local problem = look(KEYS[nth + 4]) or perform[op]()
      if problem then fail(${FAILED}, problem) end
      left = left - 1
    end
  end
end
end
${conclusion}
for _, piece in ipairs(news) do
  for n = 1, 3 do out[#out + 1] = piece[n] end
end
return out`)
