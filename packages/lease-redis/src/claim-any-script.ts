/** A claim of any of several leases in one run, by the same rules as a claim of one (`apply-script.ts`). */
import { LONGEST_DEADLINE_MS } from 'lease-core'
import { beginning, conclusion, oneByOne, TOO_LATE } from './apply-script.ts'
import { FIELDS, LATE, prelude, script, type Script } from './script.ts'

/**
 * A claim of the first of these leases that is vacant, or of the one that this holder has. KEYS: index, tokens, pins, then
 * the leases. ARGV: as `beginning` has it, then the claim at length, as `applyScript` has it. Answers { microseconds, FIELDS for
 * each lease, which one it was about or -1 }.
 *
 * What `o:<name>` remembers of the lease that was granted says nothing about the others. So `a:<nonce>` remembers that this claim
 * was granted one.
 */
export const claimAnyScript: Script = script(`${prelude}${beginning}local left = 1${oneByOne}
op = string.upper(ARGV[6])
announces = op ~= ARGV[6]
x, y, z, newValue = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local free, own, broken
for n = 4, #KEYS do
  local problem = look(KEYS[n])
  if problem then
    broken = problem
    fail(0)
  else
    if not token then free = free or n elseif holder == x then own = own or n end
    state(0)
  end
end
local chosen = own or free
if not chosen and broken then return redis.error_reply(broken) end
if chosen and not own and redis.pcall('EXISTS', root .. 'a:' .. y) == 1 then return { us, '${TOO_LATE}' } end
local last = at
if chosen then
  at = 2 + (chosen - 4) * ${FIELDS}
  local first = at
  local problem = look(KEYS[chosen]) or claim()
  if problem then return redis.error_reply(problem) end
  if out[first] == ${LATE} then return { us, '${TOO_LATE}' } end
  if not own then redis.pcall('SET', root .. 'a:' .. y, '1', 'PX', '${LONGEST_DEADLINE_MS}') end
end
out[last] = chosen and chosen - 4 or -1
${conclusion}
return out`)
