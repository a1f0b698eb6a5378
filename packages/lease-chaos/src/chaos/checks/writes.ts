/** C3: guarded writes are in the order of their fencing tokens, each that was acknowledged is there, and none that was refused. */
import { misreportedWritesIn, staleWritesIn, type StoreEvent } from '../../checker.ts'
import { unguardedAccount, type ChaosEvent } from '../event.ts'
import type { Facts, Violation } from './facts.ts'

const UNGUARDED = unguardedAccount('')

export function checkWrites({ history: { events } }: Facts): Violation[] {
  return wrongWrites(events, (account) => !account.startsWith(UNGUARDED))
}

/** The control: what went wrong in the accounts that are written without a guard. */
export function unguardedViolations({ history: { events } }: Facts): Violation[] {
  return wrongWrites(events, (account) => account.startsWith(UNGUARDED))
}

/** Without the store's log, which is read at the end of a run, nothing can be said. */
function wrongWrites(events: readonly ChaosEvent[], counts: (account: string) => boolean): Violation[] {
  const stored = events.filter(({ what, lease = '' }) => what === 'stored' && counts(lease))
  const isRead = events.some(({ what, detail }) => what === 'phase' && detail === 'stored')
  if (!isRead) return []
  const log = stored.map(({ detail, lease = '', token = '0', over }): StoreEvent => ({
    what: detail === 'grant' ? 'grant' : 'write',
    lease,
    token: BigInt(token),
    ...(over !== undefined && { over: BigInt(over) }),
  }))
  const reports = events.filter(({ lease = '' }) => counts(lease))
  const readMs = stored[0]?.atMs ?? 0
  const reportedMs = new Map<string, number>()
  for (const { what, lease, token, atMs } of reports) {
    const key = `${lease} ${token}`
    if ((what === 'written' || what === 'refused') && !reportedMs.has(key)) reportedMs.set(key, atMs)
  }
  return [...staleWritesIn(log), ...misreportedWritesIn(log, reports)].map(({ lease, token, over, what }) => {
    const atMs = reportedMs.get(`${lease} ${token}`) ?? readMs
    return { check: 'C3', lease, atMs, what, tokens: [token, ...(over === undefined ? [] : [over])].map(String) }
  })
}
