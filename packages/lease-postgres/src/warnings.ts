/** What the server's set-up takes away from the promises. */
import type { SubstrateWarning } from 'lease-core/adapter'
import { codeOf } from './connection.ts'

/** The answer to the `inspect` statement. */
export interface Inspection {
  readonly fsync: string
  readonly synchronous_commit: string
  readonly standbys: string
  readonly read_only: string
  /** `true` or `false`. */
  readonly standby: string
  readonly encoding: string
  /** How the server presents itself. */
  readonly version: string
  /** `p` permanent, `u` unlogged, null: there is no such table. */
  readonly persistence: string | null
  /** The process id of the server's backend. */
  readonly backend: string
  /** Whether this role may register who waits: `true`, `false`, or null: there is no such table. */
  readonly registers: string | null
  /** Whether it may call `pg_notify`. */
  readonly notifies: string
}

/** A pooler refuses transaction blocks. */
export const statementPooling: SubstrateWarning = {
  warning: 'statement-pooling',
  message:
    'a pooler in statement mode stands before the server and refuses BEGIN: leases work, but collect() and guards in a transaction fail. Use session or transaction pooling (in pgbouncer: pool_mode = transaction).',
}

/** Once for each time that it is full. */
export const queueFull: SubstrateWarning = {
  warning: 'notify-queue-full',
  message:
    "the server's queue of notifications is full, because a session that listens does not read. No waiter is notified: each looks again at the known expiry and after maxSleep. End that session: in pg_stat_activity it has been in its transaction for long.",
}

/** Whether a pooler has refused BEGIN for its statement mode. pgbouncer gives `08P01` for other failures as well. */
export function refusesTransactions(error: unknown): boolean {
  return codeOf(error) === '08P01' && error instanceof Error && /statement pooling/i.test(error.message)
}

/**
 * Whether a pooler may stand between this connection and the backend that answered: the pooler gives each of its clients a key of its
 * own, and the number in that key is not the process id of the backend. False where the driver does not show its key.
 */
export function isPooled(client: object, { backend }: Inspection): boolean {
  const { processID } = client as { readonly processID?: unknown }
  return typeof processID === 'number' && String(processID) !== backend
}

export function inspectionWarnings(found: Inspection): SubstrateWarning[] {
  const warnings: SubstrateWarning[] = []
  const warn = (applies: boolean, warning: string, message: string): void => {
    if (applies) warnings.push({ warning, message })
  }
  warn(
    found.fsync === 'off',
    'fsync-off',
    'fsync is off: a crash of the machine can lose grants that were acknowledged, or the whole database.',
  )
  warn(
    found.synchronous_commit === 'off',
    'synchronous-commit-off',
    'synchronous_commit is off: a crash of the server can lose the last grants, and another may then be granted the same lease. Turn it on for this role.',
  )
  warn(
    found.standbys !== '' && found.synchronous_commit === 'local',
    'synchronous-commit-local',
    'synchronous_commit is local although there are synchronous standbys: a failover can lose grants, and another may then be granted the same lease.',
  )
  warn(
    found.standby === 'true',
    'standby',
    'the server is a standby: no lease can be claimed or read here. Connect to the primary (target_session_attrs=read-write).',
  )
  warn(
    found.standby === 'false' && found.read_only === 'on',
    'read-only',
    'transactions are read-only by default here: no lease can be claimed.',
  )
  warn(
    found.persistence === 'u',
    'unlogged-table',
    'the table of the leases is unlogged: a crash empties it, and fencing tokens then rest on the clock alone.',
  )
  warn(
    found.registers === 'false',
    'waiter-table-denied',
    'this role lacks SELECT, INSERT, UPDATE or DELETE on the table of those who wait (lease_waiter): it has no place in queues, is notified of no change, and looks again at the known expiry and after maxSleep. What it vacates it tells everyone.',
  )
  warn(
    found.notifies === 'false',
    'notify-denied',
    'this role may not call pg_notify: those who wait for a lease are not notified when it vacates one.',
  )
  warn(
    found.encoding !== 'UTF8',
    'encoding-not-utf8',
    `the database is encoded in ${found.encoding}: names beyond ASCII may be refused.`,
  )
  const other = lookalikes.find(({ says }) => says.test(found.version))
  warn(
    other !== undefined,
    'untested-server',
    `the server is ${other?.name}, on which lease-postgres has not been tested: ${other?.lacks}. Try it under load and failover first, or use PostgreSQL.`,
  )
  return warnings
}

/** Servers that speak PostgreSQL's protocol and say in `version()` who they are. */
const lookalikes = [
  {
    name: 'CockroachDB',
    says: /CockroachDB/,
    lacks: 'it has no NOTIFY, and its functions and row locks are not those of PostgreSQL',
  },
  {
    name: 'YugabyteDB',
    says: /-YB-|Yugabyte/i,
    lacks: 'its row locks and its NOTIFY are not those of PostgreSQL',
  },
] as const
