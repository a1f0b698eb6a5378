/** What keeps leases alive by the thousand: a script that extends them and does nothing else. */
import { FAILED, operations, prelude, script, type Script } from './script.ts'

/**
 * Nothing but extensions that bring no value: what keeps leases alive, by the thousand. The same as `applyScript` does,
 * with less to say: one argument for all, one element of the answer for all that go as expected, and one GET.
 *
 * KEYS as for `applyScript`. ARGV: the time after which nothing is to be done, then a line for each operation: token (* for
 * any), milliseconds, holder; none of them has white space in it. Answers { microseconds, the new expiries in ms parted by
 * blanks, then FIELDS for each operation whose expiry is missing there }: refused, failed, pinned, or with a value.
 */
export const extendScript: Script = script(`${prelude}${operations}
op, newValue, out, at = 'E', '', {}, 1
local found = not full and not anyPinned and redis.call('MGET', unpack(KEYS, 4)) or {}
local expiries, n = {}, 0
for wanted, ms, asked in string.gmatch(ARGV[2], '(%S+) (%S+) (%S+)') do
  n = n + 1
  local length, rest
  token, key, stored = nil, KEYS[n + 3], found[n]
  if stored then token, expiry, nonce, length, rest = string.match(stored, '^(%d+)|(%d+)|([^|]*)|(%d+)|(.*)$') end
  expiries[n] = ''
  if token == wanted and rest == asked and now <= tonumber(expiry) then
    local till, problem = now + tonumber(ms), nil
    if till > tonumber(expiry) then
      expiry = fmt(till)
      local content = table.concat({ token, expiry, nonce, length, rest }, '|')
      problem = failed(redis.pcall('SET', key, content, 'PXAT', expiry))
    end
    if problem then tell(${FAILED}, problem, false, false, false) else expiries[n] = expiry end
  else
    x, y, z = asked, wanted == '*' and '' or wanted, ms
    local problem = look(key) or extend()
    if problem then tell(${FAILED}, problem, false, false, false) end
  end
end
return { us, table.concat(expiries, ' '), unpack(out, 1, at - 1) }
`)
