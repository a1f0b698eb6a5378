/** An adapter for SQLite: the processes of one host share leases in one database file. docs/adapters.md explains each step. */
import { ErrNotHeld, ErrTrapdoor, hasMethods } from 'lease-core'
import { contended, granted, late, LONGEST_DEADLINE_MS, refused } from 'lease-core/adapter'
import { systemClock } from 'lease-core'
import type { Call, Holding, Op, Pins, Substrate, Verdict } from 'lease-core/adapter'
import type { Trapdoor } from 'lease-core'
import type { SubstrateLimits } from 'lease-core/adapter'

/** The methods that the adapter calls: better-sqlite3, libsql and node:sqlite have them. */
export interface SqliteConnection {
  exec(sql: string): unknown
  prepare(sql: string): { all(...values: unknown[]): unknown[]; run(...values: unknown[]): unknown }
}

/** One lease, as JSON. Without a `holder` it is vacant; the rest is remembered because late requests may come. */
interface State {
  readonly holder?: string | undefined
  readonly token: number
  readonly nonce?: string | undefined
  readonly opener?: string // the nonce of the claim that opened the term: an adoption replaces `nonce` only
  readonly openedMs: number
  readonly expiryMs: number
  readonly value?: string | undefined
  readonly valuedMs: number
  readonly pins: readonly { readonly entity: string; readonly generation: string; readonly atMs: number }[]
  readonly unpinnedMs: number
}

const UNKNOWN: State = { token: 0, openedMs: 0, expiryMs: 0, valuedMs: 0, pins: [], unpinnedMs: 0 }
const SET_BACK_MS = 1_000 // what was noted further in the future was noted before the clock was set back

/** Creates the tables. Call it in each process at each start. */
export function migrateSqlite(connection: SqliteConnection): void {
  connection.exec(`PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS lease (namespace TEXT, lease TEXT, state TEXT, forget_ms REAL, UNIQUE (namespace, lease));
    CREATE INDEX IF NOT EXISTS lease_forget ON lease (forget_ms);
    CREATE TABLE IF NOT EXISTS lease_token (id INTEGER PRIMARY KEY, token INTEGER);
    INSERT OR IGNORE INTO lease_token VALUES (1, 0); COMMIT`)
}

/** The leases of one namespace. */
export class SqliteSubstrate implements Substrate {
  readonly limits: SubstrateLimits = { maxOps: 100, maxInFlight: 1 }
  readonly store: NonNullable<Substrate['store']>
  readonly #connection: SqliteConnection
  readonly #namespace: string
  readonly #clock: { now(): number }

  /** @param connection for the adapter alone: a rollback of yours would undo its grants. `close` does not close it. */
  constructor(connection: SqliteConnection, namespace: string, clock: { now(): number } = systemClock) {
    this.#connection = connection
    this.#namespace = namespace
    this.store = { system: 'sqlite', namespace }
    this.#clock = clock
    connection.exec('PRAGMA busy_timeout = 0') // a driver that waits stops all JavaScript, also that of the lock's holder
  }

  async time(call: Call): Promise<number> {
    const nowMs = this.#clock.now()
    call.answered?.(nowMs)
    return nowMs
  }

  async apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    let hasBegun = false
    try {
      this.#connection.exec('BEGIN IMMEDIATE')
      hasBegun = true
      const nowMs = this.#clock.now() // after the lock is granted
      call.answered?.(nowMs)
      this.#connection.prepare('DELETE FROM lease WHERE forget_ms < ?').run(nowMs)
      const verdicts = ops.map((op) => this.#applyOne(op, call, nowMs))
      this.#connection.exec('COMMIT')
      return verdicts
    } catch (error) {
      if (hasBegun && isInTransaction(this.#connection)) this.#connection.exec('ROLLBACK')
      if (String(error).includes('database is locked')) return ops.map(() => contended)
      throw error
    }
  }

  async read(leases: readonly string[] | undefined, call: Call): Promise<ReadonlyMap<string, Holding>> {
    const nowMs = this.#clock.now()
    call.answered?.(nowMs)
    const standing = this.#states(leases).filter(([, state]) => isStanding(state, nowMs))
    return new Map(standing.map(([lease, state]) => [lease, holdingOf(state, nowMs)]))
  }

  async pinned(_: Call, leases?: readonly string[]): Promise<ReadonlyMap<string, Pins>> {
    const pinned = this.#states(leases).filter(([, { pins }]) => pins.length > 0)
    return new Map(pinned.map(([lease, { pins }]) => [lease, new Map(pins.map((pin) => [pin.entity, pin.generation]))]))
  }

  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor {
    return async (key) => {
      if (key === undefined) return
      const connection = key as SqliteConnection
      if (!hasMethods(key, 'exec', 'prepare') || !isInTransaction(connection)) {
        throw new ErrTrapdoor('the key must be a SQLite connection after BEGIN IMMEDIATE', { lease, holder })
      }
      connection.prepare('UPDATE lease_token SET token = token').run() // takes the write lock, if BEGIN did not
      const [[, state] = ['', UNKNOWN]] = this.#states([lease], connection)
      if (isStanding(state, this.#clock.now()) && isOf(state, { holder, fencingToken })) return
      throw new ErrNotHeld(`"${holder}" does not hold lease "${lease}"`, { lease, holder })
    }
  }

  async close(): Promise<void> {}

  #states(leases: readonly string[] | undefined, connection = this.#connection): readonly (readonly [string, State])[] {
    const select = 'SELECT lease, state FROM lease WHERE namespace = ?'
    const statement = connection.prepare(leases === undefined ? select : `${select} AND lease = ?`)
    const rows = leases?.flatMap((lease) => statement.all(this.#namespace, lease)) ?? statement.all(this.#namespace)
    return (rows as { lease: string; state: string }[]).map(({ lease, state }) => [lease, JSON.parse(state) as State])
  }

  #applyOne(op: Op, call: Call, nowMs: number): Verdict {
    const { sentMs = nowMs, notAfterMs = nowMs } = call
    if (nowMs > notAfterMs || nowMs - sentMs > LONGEST_DEADLINE_MS) return late
    const [[, before] = ['', UNKNOWN]] = this.#states([op.lease])
    const after = this.#changed(before, op, sentMs, nowMs)
    if (after === 'late') return late
    if (after === 'refused') return refused(isStanding(before, nowMs) ? holdingOf(before, nowMs) : undefined)
    const forgetMs = after.pins.length > 0 ? null : Math.max(after.expiryMs, nowMs) + LONGEST_DEADLINE_MS
    const replace = this.#connection.prepare('REPLACE INTO lease VALUES (?, ?, ?, ?)')
    replace.run(this.#namespace, op.lease, JSON.stringify(after), forgetMs)
    return granted(isStanding(after, nowMs) ? holdingOf(after, nowMs) : undefined)
  }

  #changed(state: State, op: Op, sentMs: number, nowMs: number): State | 'refused' | 'late' {
    const stands = isStanding(state, nowMs)
    const vacant: State = { ...state, holder: undefined, expiryMs: 0 }
    const isSinceSent = (atMs: number): boolean => sentMs < atMs && atMs <= nowMs + SET_BACK_MS
    switch (op.kind) {
      case 'claim': {
        const { holder, nonce, value } = op
        const expiryMs = nowMs + op.durationMs
        if (stands && (state.holder !== holder || state.nonce !== nonce)) return 'refused'
        if (stands) return { ...state, expiryMs: Math.max(state.expiryMs, expiryMs) } // sent again: the same term
        if (nonce === state.nonce || nonce === state.opener || isSinceSent(state.openedMs)) return 'late'
        const next = this.#connection.prepare('UPDATE lease_token SET token = token + 1 RETURNING token')
        const [{ token }] = next.all() as [{ token: number }]
        const opened = { token, opener: nonce, openedMs: nowMs, valuedMs: nowMs }
        return { ...state, ...opened, holder, nonce, value, expiryMs }
      }
      case 'extend': {
        const { adoption, value = state.value } = op
        const isMine = !adoption || state.nonce === adoption.from || state.nonce === adoption.nonce
        if (!stands || !isOf(state, op) || !isMine) return 'refused'
        if (value !== state.value && isSinceSent(state.valuedMs)) return 'late'
        const valuedMs = value === state.value ? state.valuedMs : nowMs
        const expiryMs = Math.max(state.expiryMs, nowMs + op.durationMs)
        return { ...state, nonce: adoption?.nonce ?? state.nonce, value, valuedMs, expiryMs }
      }
      case 'release':
        return stands && !isOf(state, op) ? 'refused' : vacant
      case 'expire':
        return stands ? 'refused' : vacant
      case 'pin': {
        const { entity, generation } = op
        const known = state.pins.find((pin) => pin.entity === entity)
        const isTooLate = known !== undefined && known.generation !== generation && isSinceSent(known.atMs)
        if (isTooLate || isSinceSent(state.unpinnedMs)) return 'late'
        const others = state.pins.filter((pin) => pin !== known)
        return { ...(stands ? state : vacant), pins: [...others, { entity, generation, atMs: nowMs }] }
      }
      case 'unpin': {
        const pins = state.pins.filter((pin) => pin.entity !== op.entity || pin.generation !== op.generation)
        return { ...(isStanding({ ...state, pins }, nowMs) ? state : vacant), pins, unpinnedMs: nowMs }
      }
      case 'define': // of counted leases and queues, which this store does not keep
      case 'leave':
      case 'passOver':
        break
    }
    return state
  }
}

function isStanding({ holder, expiryMs, pins }: State, nowMs: number): boolean {
  return holder !== undefined && (nowMs <= expiryMs || pins.length > 0) // at its very expiry it stands
}

/** Whether everything that is given names this term. */
function isOf(state: State, named: { holder: string; fencingToken: bigint | undefined; nonce?: string | undefined }) {
  const { holder, fencingToken = BigInt(state.token), nonce = state.nonce } = named
  return state.holder === holder && BigInt(state.token) === fencingToken && state.nonce === nonce
}

function holdingOf({ holder = '', token, nonce, expiryMs, openedMs, value, pins }: State, nowMs: number): Holding {
  const remainingMs = expiryMs - nowMs || Number.MIN_VALUE // zero would mean lapsed
  const shown = { holder, fencingToken: BigInt(token), nonce, remainingMs, ageMs: nowMs - openedMs, value }
  return { ...shown, pinned: pins.length > 0, version: undefined }
}

/** The drivers name it differently. A BEGIN in a transaction fails, and changes nothing. */
function isInTransaction(connection: SqliteConnection): boolean {
  try {
    connection.exec('BEGIN; ROLLBACK') // the first error ends it
    return false
  } catch (error) {
    if (String(error).includes('within a transaction')) return true
    throw error
  }
}
