/** Names for holders that nobody else has. */
import { randomBytes } from 'node:crypto'
import os from 'node:os'
import { notValid } from './errors.ts'
import { brokenNameRule, MAX_NAME_BYTES } from './lease.ts'

/**
 * Returns a holder name that no other call returns, in this or another process, thread, container or machine:
 * `<prefix>-<host>-<process id>-<64 random bits>`, for instance `billing-web3-4711-9f86d081884c7d65`.
 *
 * A host name alone may have dots, a process id repeats from container to container, and worker threads share it. Host and
 * process are there for people; the random bits make the name unique. Make one when the process or worker starts, and use it
 * for all that this worker claims: two names are two holders.
 *
 * @param prefix what the worker is; a valid name, at most 128 bytes
 * @throws ErrNotValid
 */
export function uniqueHolder(prefix?: string): string {
  const longest = MAX_NAME_BYTES - 127
  if (prefix !== undefined) {
    const rule =
      brokenNameRule(prefix) ?? (Buffer.byteLength(prefix) > longest ? `must be at most ${longest} bytes` : undefined)
    if (rule !== undefined) throw notValid([{ argument: 'prefix', rule, value: prefix }])
  }
  // The first label says which machine it is, and is at most 63 bytes.
  const [label = ''] = os.hostname().split('.')
  const host = label.replace(/[^\w-]/g, '-').slice(0, 63)
  const parts = [prefix, host, process.pid, randomBytes(8).toString('hex')]
  return parts.filter((part) => part !== undefined && part !== '').join('-')
}
