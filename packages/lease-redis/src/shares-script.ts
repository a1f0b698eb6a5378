/**
 * Counted leases: how much of their capacity is taken. `share.ts` of lease-core has the words.
 *
 * Under `k:<name#>` is the definition: the capacity and, after a blank, its generation. Under `s:<name#>` are the holders of the
 * shares, each by a lower bound of the expiry of its share: an extension does not touch it. Under `h:<name#>` are those of them whose
 * share weighs more than 1, by the weight. So the sum of the weights is the number of the first, and a look at each *different* weight of
 * the second: no claim reads all shares.
 *
 *     grant      s, then h, then the key of the share       so every share that stands is counted with its weight,
 *     end        the key of the share, then h, then s       and whatever is counted has an entry in s
 *
 * A script that fails in between leaves too much, and never too little. What is too much ends with its bound: a claim looks at the key of
 * each share whose bound has passed, and moves the bound, or takes the entry out.
 */
import { DEFINITION_MS, LONGEST_DEADLINE_MS, TOLD } from 'lease-core/adapter'
import { COUNTED, TOLD_UP_TO } from './interest-script.ts'
import {
  CONTENDED,
  fromTheMaster,
  GRANTED,
  HELD,
  LATE,
  PINNED,
  prelude,
  reading,
  script,
  type Script,
} from './script.ts'

/** So many keys of shares one run of a script looks at. A claim that needs more is done anew: what was found by then stays found. */
export const MOST_LOOKS = 2_000

/** So long after a look a share counts that stands without an expiry: one that is pinned, or that cannot be read. */
const PINNED_MS = 10_000

/**
 * Of scripts that change leases: `countedOf`, and `counting()`, which makes what is below at its first call. Needs `us`, `now`, `root`,
 * `base`, `pins`, `anyPinned`, `remember`.
 */
export const counting: string = `
local looks, countingOnce = ${MOST_LOOKS}, nil
local function countedOf(name)
  local at = string.find(name, '#', 1, true)
  return at and string.sub(name, 1, at), at and string.sub(name, at + 1)
end
local function counting()
  if countingOnce then return countingOnce end
  local sets, weights = root .. 's:', root .. 'h:'

  -- The capacity and the generation, nothing where it is not defined; or what is wrong.
  local function definition(counted)
    local stored = redis.pcall('GET', root .. 'k:' .. counted)
    if failed(stored) then return nil, nil, stored.err end
    if not stored then return nil end
    local capacity, generation = string.match(stored, '^(%d+) (.+)$')
    if not capacity then return nil, nil, 'ERR what is stored of the counted lease is not a lease' end
    return tonumber(capacity), generation
  end

  -- Whether the share stands, and until when at least; nothing of it is known where it cannot be read, and then it counts.
  local function standing(share)
    local stored = redis.pcall('GET', base .. share)
    if stored == false then return false end
    local token, expiry, stamp, holder, value
    if not failed(stored) then token, expiry, stamp, holder, value = parse(stored) end
    if not token then return true end
    local isPinned = anyPinned and redis.call('HEXISTS', pins, share) == 1
    if isPinned then return true, false, token, expiry, stamp, holder, value end
    if now <= expiry then return true, expiry, token, expiry, stamp, holder, value end
    -- Its pins were lost.
    local nonce, opened, opener = string.match(stamp, '^([^ ]*) ?(%d*) ?%d* ?([^ ]*)')
    local problem = remember(root .. 'o:' .. share, opened ~= '' and opened or token, opener ~= '' and opener or nonce)
      or failed(redis.pcall('DEL', base .. share))
    return problem ~= false
  end

  -- Their keys are gone. Returns what has failed, or how many were there.
  local function drop(counted, holders, areLight)
    if #holders == 0 then return false, 0 end
    if not areLight then
      local problem = failed(redis.pcall('ZREM', weights .. counted, unpack(holders)))
      if problem then return problem end
    end
    local reply = redis.pcall('ZREM', sets .. counted, unpack(holders))
    return failed(reply), reply
  end

  -- Scores and holders, in turn.
  local function move(counted, scored)
    return #scored > 0 and failed(redis.pcall('ZADD', sets .. counted, unpack(scored)))
  end

  -- Those whose bound has passed. Returns what has failed; '' where there are too many for one run.
  local function sweep(counted)
    while true do
      local passed = redis.pcall('ZRANGEBYSCORE', sets .. counted, '-inf', '(' .. fmt(now), 'LIMIT', 0, 100)
      if failed(passed) then return passed.err end
      if #passed == 0 then return nil end
      if looks <= 0 then return '' end
      looks = looks - #passed
      local gone, moved = {}, {}
      for _, holder in ipairs(passed) do
        local stands, expiry = standing(counted .. holder)
        if not stands then gone[#gone + 1] = holder
        else moved[#moved + 1], moved[#moved + 2] = fmt(expiry or now + ${PINNED_MS}), holder end
      end
      local problem = drop(counted, gone) or move(counted, moved)
      if problem then return problem end
    end
  end

  -- The weights of all entries; or nothing, and what has failed. The ranks say how many have each weight.
  local function taken(counted)
    local sum = redis.pcall('ZCARD', sets .. counted)
    if failed(sum) then return nil, sum.err end
    local key, rank = weights .. counted, 0
    local entry = redis.pcall('ZRANGE', key, 0, 0, 'WITHSCORES')
    while true do
      if failed(entry) then return nil, entry.err end
      if not entry[1] then return sum end
      local weight = tonumber(entry[2])
      entry = redis.pcall('ZRANGEBYSCORE', key, '(' .. entry[2], '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
      local to = not failed(entry) and (entry[1] and redis.pcall('ZRANK', key, entry[1]) or redis.pcall('ZCARD', key)) or rank
      if failed(to) then return nil, to.err end
      sum, rank = sum + (weight - 1) * (to - rank), to
    end
  end

  -- The share that lapses first, as FIELDS with its name before them; a pinned one where there is no other. Then whether one was found to be
  -- over, and what has failed; '' as above. By the bounds in turn: each is moved to where it belongs, until none can be before.
  -- Pins keep bounds from being moved: where a run has moved none, another one would see no more.
  local function first(counted)
    local best, until_, pinnedOne, from, isOver, isNews = nil, nil, nil, 0, false, false
    while true do
      local page = redis.pcall('ZRANGE', sets .. counted, fmt(from), fmt(from + 3), 'WITHSCORES')
      if failed(page) then return nil, isOver, page.err end
      local gone, moved, isDone = {}, {}, #page == 0
      for n = 1, #page, 2 do
        local holder, score = page[n], tonumber(page[n + 1])
        if until_ and score >= until_ then
          isDone = true
          break
        end
        looks = looks - 1
        local stands, expiry, token, till, stamp, who, value = standing(counted .. holder)
        if not stands then gone[#gone + 1], isOver = holder, true
        elseif not expiry or expiry <= score then from = from + 1
        else moved[#moved + 1], moved[#moved + 2] = fmt(expiry), holder end
        if token and (expiry and not (until_ and until_ <= expiry) or not expiry and not pinnedOne) then
          local found = {
            counted .. holder, expiry and ${HELD} or ${PINNED + HELD}, token, till, stamp, who, value ~= '' and value
          }
          if expiry then best, until_ = found, expiry else pinnedOne = found end
        end
      end
      local problem = drop(counted, gone) or move(counted, moved)
      if problem then return nil, isOver, problem end
      isNews = isNews or #gone + #moved > 0
      if isDone or looks <= 0 and not isNews then return best or pinnedOne, isOver end
      if looks <= 0 then return nil, isOver, '' end
    end
  end

  local function weightOf(waiting) return tonumber(string.match(waiting, '^%d+ [^ ]* (%d+)$')) or 1 end
  -- Whether there is room for the first in the queue. Where that is not certain it may find out itself.
  local function fits(counted)
    local capacity = definition(counted)
    local waiting = redis.pcall('ZRANGE', root .. 'q:' .. counted, 0, 0)
    if not capacity or failed(waiting) or not waiting[1] then return false end
    local problem = sweep(counted)
    local sum = not problem and taken(counted)
    return problem == '' or sum and sum + weightOf(waiting[1]) <= capacity
  end

  countingOnce = {
    definition = definition, drop = drop, move = move, sweep = sweep, taken = taken, first = first, weightOf = weightOf, fits = fits
  }
  return countingOnce
end
`

/**
 * Of scripts that do operations one by one: makes `shares`, with what the claim of a share and a definition need. Stands where the first
 * of them is met, for plain leases need none of it, and closures cost. Needs what `oneByOne` has at hand.
 */
export const admitting: string = `
local weight, capacity, passing, counted, share

-- What the counted lease is, for the answer.
local function show(counted, capacity, generation, first)
  news[#news + 1] = { nth, { capacity and fmt(capacity) or '', generation or '', unpack(first or {}) }, ${COUNTED} }
end
-- '': it takes more than one run.
local function broken(problem)
  if problem ~= '' then return problem end
  fail(${CONTENDED})
end

local function ask(...)
  weight, capacity, passing = ...
end
-- Whether the claim may open a term; otherwise the answer is given, or what has failed is returned.
local function admit()
  counted, share = countedOf(name)
  local of = counting()
  local defined, generation, problem = of.definition(counted)
  if problem then return false, problem end
  if not defined and capacity then
    local ended, done = redis.pcall('GET', root .. 'e:' .. counted), redis.pcall('EXISTS', root .. 'f:' .. y)
    problem = failed(ended) or failed(done)
    if problem then return false, problem end
    if done == 1 or ended and isSince(string.match(ended, '^%d+')) then return false, fail(${LATE}) end
    local lastingMs = fmt(tonumber(z) + ${DEFINITION_MS})
    problem = failed(redis.pcall('SET', root .. 'k:' .. counted, fmt(capacity) .. ' ' .. y, 'PX', lastingMs))
    if problem then return false, problem end
    redis.pcall('SET', root .. 'f:' .. y, '1', 'PX', '${LONGEST_DEADLINE_MS}')
    defined, generation = capacity, y
  end
  local mayFit = defined and weight <= defined and (not capacity or capacity == defined)
  local mine = place and place > 0 and place
  local room, shown, isOver = -1, nil, nil
  if stored and mayFit then -- its pins were lost
    problem = vacate()
    if problem then return false, problem end
    stored = false
  end
  repeat
    if mayFit then
      problem = of.sweep(counted)
      if problem then return false, broken(problem) end
      local sum
      sum, problem = of.taken(counted)
      if problem then return false, problem end
      room = defined - sum
    end
    if weight <= room then
      local to = mine and '(' .. fmt(mine) or '+inf'
      local function before()
        return listed(redis.pcall('ZRANGEBYSCORE', queues .. counted, '-inf', to, 'LIMIT', 0, fmt(passing + 1)))
      end
      local ahead = before()
      if #ahead > 0 then
        takeOutLapsed(counted)
        ahead = before()
      end
      local isNext = #ahead <= passing
      for _, waiting in ipairs(ahead) do isNext = isNext and of.weightOf(waiting) <= room end
      if isNext then
        if #ahead > 0 and not mine then waking[#waking + 1] = { counted, nth } end
        -- By use, it is remembered from the last grant on.
        problem = failed(redis.pcall('PEXPIRE', root .. 'k:' .. counted, fmt(tonumber(z) + ${DEFINITION_MS}), 'GT'))
        return not problem, problem
      end
    end
    shown, isOver, problem = of.first(counted)
    if problem then return false, broken(problem) end
    -- What an earlier share of this holder has left behind is in nobody's way.
    if weight > room and mayFit and not isOver then
      local left
      problem, left = of.drop(counted, { share })
      if problem then return false, problem end
      isOver = left > 0
    end
  until not isOver or not mayFit
  if mayFit and place then
    local own, ahead = enter(counted, place, weight > room and most, weight)
    if own then news[#news + 1] = { nth, own, ahead } end
    -- It has met nothing but tickets, and sees to it that those who have them come. Anyone who has just come knows that they were notified.
    if mine and weight <= room then waking[#waking + 1] = { counted, nth }
    elseif own and weight <= room then
      local last
      for at, waiting in ipairs(listed(redis.pcall('ZRANGE', queues .. counted, 0, ${TOLD - 1}))) do
        if at == 1 and of.weightOf(waiting) > room then break end
        local ticket = string.match(waiting, '^%d+')
        if tonumber(ticket) < tonumber(own) then last = ticket end
      end
      if last then news[#news + 1] = { nth, last, ${TOLD_UP_TO} } end
    end
  elseif weight <= room then waking[#waking + 1] = { counted, nth }
  end
  show(counted, defined, generation, shown)
  return false, state(0)
end

-- Before the key of the share is written.
local function count()
  if weight > 1 then stamp = y .. ' ' .. (string.match(stamp, ' (%d+)$') or token) .. ' 0 ' .. y .. ' ' .. fmt(weight) end
  local isNew = redis.pcall('ZADD', root .. 's:' .. counted, fmt(expiry), share)
  if failed(isNew) then return isNew.err end
  if weight > 1 then return failed(redis.pcall('ZADD', root .. 'h:' .. counted, fmt(weight), share)) end
  return isNew == 0 and failed(redis.pcall('ZREM', root .. 'h:' .. counted, share))
end
local function drop() counting().drop(counted, { share }) end

local function define()
  local of = counting()
  local defined, generation, problem = of.definition(name)
  if problem then return problem end
  local memory, done = root .. 'e:' .. name, root .. 'f:' .. z
  local ended = redis.pcall('GET', memory)
  local at, by = string.match(not failed(ended) and ended or '', '^(%d+) (.*)$')
  if generation ~= z and not (x == '' and not generation and by == z) then
    local before = redis.pcall('EXISTS', done)
    problem = failed(ended) or failed(before)
    if problem then return problem end
    if before == 1 or y == '' and isSince(at) then return fail(${LATE}) end
    if (generation or '') ~= y then
      local shown, _, unfinished = of.first(name)
      if unfinished then return broken(unfinished) end
      show(name, defined, generation, shown)
      return state(0)
    end
    if x ~= '' then
      if full then return full end
      problem = failed(redis.pcall('SET', root .. 'k:' .. name, x .. ' ' .. z))
      defined, generation = tonumber(x), z
    else
      problem = remember(memory, fmt(us), z) or failed(redis.pcall('DEL', root .. 'k:' .. name))
      defined, generation = nil, nil
    end
    if problem then return problem end
    redis.pcall('SET', done, '1', 'PX', '${LONGEST_DEADLINE_MS}')
  end
  -- Those who wait for more have nothing to wait for any more, and are in nobody's way.
  local inVain = {}
  for _, waiting in ipairs(listed(redis.pcall('ZRANGE', queues .. name, 0, -1))) do
    if of.weightOf(waiting) > (defined or 0) then
      inVain[#inVain + 1] = waiting
      remove(name, { waiting })
    end
  end
  waking[#waking + 1] = { name, nth, inVain }
  show(name, defined, generation, (of.first(name)))
  state(${GRANTED})
end
shares = { ask = ask, admit = admit, count = count, drop = drop, define = define }
`

/**
 * KEYS: tokens, pins. ARGV: a counted lease, how many shares at most. Answers { microseconds, its definition or '', how many shares
 * follow, of each that stands its name and FIELDS, then the holders of all others }.
 */
export const countedScript: Script = script(`${prelude}${fromTheMaster}${reading}
local counted = ARGV[1]
local problem = unreadable(redis.call('GET', root .. 'v'))
if problem then return redis.error_reply(problem) end
local out, at = { us, redis.call('GET', root .. 'k:' .. counted) or '', 0 }, 4
for n, share in ipairs(redis.call('ZRANGE', root .. 's:' .. counted, 0, -1)) do
  if n > tonumber(ARGV[2]) then
    out[at], at = share, at + 1
  else
    local name = counted .. share
    local stored = redis.pcall('GET', base .. name)
    local code, token, expiry, stamp, holder, value = standing(name, failed(stored) and '' or stored)
    if code then
      out[at], out[at + 1], out[at + 2], out[at + 3] = name, code, token or false, expiry or false
      out[at + 4], out[at + 5], out[at + 6] = stamp or false, holder or false, value or false
      at, out[3] = at + 7, out[3] + 1
    end
  end
end
return out
`)
