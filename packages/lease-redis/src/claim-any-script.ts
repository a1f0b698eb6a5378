/** A claim of any of several leases in one run, by the same rules as a claim of one (`apply-script.ts`). */
import { beginning, conclusion, oneByOne } from './apply-script.ts'
import { prelude, script, type Script } from './script.ts'

/**
 * A claim of the first of these leases that is vacant, or of the one that this holder has. KEYS: index, tokens, pins, then
 * the leases. ARGV: the time after which nothing is to be done, the channel, and the claim at length, as `applyScript` has
 * it. Answers { microseconds, FIELDS for each lease, which one it was about or -1 }.
 */
export const claimAnyScript: Script = script(`${prelude}${beginning}local left = 1${oneByOne}
op = string.upper(ARGV[3])
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
