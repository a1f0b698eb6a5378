/** C3: guarded writes are in the order of their fencing tokens, each that was acknowledged is there, and none that was refused. */
import { misreportedWrites, staleWrites, type StoreEvent } from '../../checker.ts'
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
  const atMs = stored[0]?.atMs ?? 0
  return [...staleWrites(log), ...misreportedWrites(log, reports)].map((what) => {
    const lease = what.slice(0, what.indexOf(':'))
    return { check: 'C3', lease, atMs: writtenAt(reports, lease, what) ?? atMs, what: what.slice(lease.length + 2) }
  })
}

/** When a worker reported the write whose token these words name. */
function writtenAt(reports: readonly ChaosEvent[], lease: string, words: string): number | undefined {
  const token = /token (\d+)/.exec(words)?.[1]
  const isIt = (report: ChaosEvent): boolean => report.lease === lease && report.token === token
  return reports.find((report) => isIt(report) && (report.what === 'written' || report.what === 'refused'))?.atMs
}
