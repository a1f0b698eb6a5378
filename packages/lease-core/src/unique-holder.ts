/** Unique names for holders. */
import { randomBytes } from 'node:crypto'
import os from 'node:os'
import { notValid } from './errors.ts'
import { brokenNameRule, MAX_NAME_BYTES } from './lease.ts'

/**
 * Returns a holder name that no other call returns, in this or another process, thread, container or machine:
 * `<prefix>-<host>-<process id>-<64 random bits>`, for instance `billing-web3-4711-9f86d081884c7d65`.
 *
 * A host name may contain dots, a process id repeats in other containers, and worker threads share it. Host and process id are for people;
 * the random bits make the name unique. Make one name when the process or worker starts, and use it for all its claims: two names are two
 * holders.
 *
 * @param prefix for people; a valid name, at most 128 bytes
 * @throws ErrNotValid the prefix breaks a rule
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
