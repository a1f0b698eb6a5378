/**
 * The substrate on PostgreSQL: a batch becomes one call of a function per kind of operation, the calls run side by side,
 * each on a connection of its own, and each row of the answers becomes a verdict.
 *
 * - *Verdicts are facts of one statement.* A refusal carries the row as a statement's snapshot has it. Where what the
 *   snapshot shows does not explain why nothing was done, somebody was at the row at that moment: `contended`.
 * - *Calls fail one by one.* What goes wrong with one kind leaves the verdicts of the others as they are.
 * - *Serialization failures and deadlocks* (40001, 40P01) were certainly not executed, and every call may be
 *   repeated: a few times here, then it is `contended`.
 * - *Time is the server's* (`clock_timestamp()`), and only what remains is told.
 */
import { createHash } from 'node:crypto'
import {
  contended,
  granted,
  HintStream,
  refused,
  sleep,
  systemClock,
  unknown,
  type AnyVerdict,
  type Call,
  type ClaimAnyOp,
  type Clock,
  type Holding,
  type LeaseChange,
  type Op,
  type Substrate,
  type SubstrateWarning,
  type Trapdoor,
  type Verdict,
} from 'lease-core'
import { arrayOf } from './array.ts'
import { codeOf, explained, onConnection } from './connection.ts'
import type { PostgresPool } from './driver.ts'
import { functionsOf, type Functions } from './functions.ts'
import { postgresTrapdoor } from './guard.ts'
import { listenTo, type OpenListenClient } from './listener.ts'
import { checkOptions, type PostgresSubstrateOptions } from './options.ts'
import { tablesOf, type Tables } from './schema.ts'
import { statements, type Statements } from './sql.ts'
import { inspectionWarnings } from './warnings.ts'

/** A batch costs one fsync, whatever its size, and two at once may share it; beyond this the last wait for the first. */
const limits: Substrate['limits'] = { maxOps: 500, maxInFlight: 2, enoughOps: 32 }

/** How often a statement that lost to a concurrent one is sent in all. */
const MAX_ATTEMPTS = 4

/** One lease in an answer; all null where there is no row. */
interface Row {
  readonly holder: string | null
  readonly token: string | null
  readonly remaining: number | null
  readonly value: string | null
  readonly pinned: boolean | null
}

/** Answers as the functions give them: an array for each field, or null if there are none. */
type Columns = Readonly<Record<string, readonly unknown[] | null>>

/** The answer to one operation. */
interface OpRow extends Row {
  /** Position of the operation in the statement's arrays, from 1. */
  readonly n: number
  readonly done: boolean
  /** Nothing was done although the snapshot shows the very term that the operation is about. */
  readonly mine?: boolean | null
  /** Of a claim in line that was refused. */
  readonly place?: number | null
  readonly served?: number | null
}

/** One of the leases of which any would have done. */
interface AnyRow extends OpRow {
  /** This is the one that the holder has already, by this very claim or not; null for all others. */
  readonly replay: boolean | null
}

export class PostgresSubstrate implements Substrate {
  readonly watch?: (listener: (change: LeaseChange) => void) => () => void
  readonly #pool: PostgresPool
  readonly #namespace: string
  readonly #tables: Tables
  readonly #functions: Functions
  readonly #statements: Statements
  readonly #clock: Clock
  /** null: nothing is announced. */
  readonly #channel: string | null
  readonly #hints: HintStream | undefined

  /** @throws ErrNotValid with every problem */
  constructor(options: PostgresSubstrateOptions) {
    checkOptions(options, { client: false })
    const { pool, namespace, notify = true, clock = systemClock } = options
    this.#pool = pool
    this.#namespace = namespace
    this.#tables = tablesOf(options)
    this.#functions = functionsOf(this.#tables)
    this.#statements = statements(this.#tables)
    this.#clock = clock
    const channel = channelOf(options)
    this.#channel = notify ? channel : null
    if (options.listen !== false) {
      const hints = new HintStream({ connect: listenTo(channel, options.listen ?? likeThePool(pool)), clock })
      this.#hints = hints
      this.watch = (listener) => hints.watch(listener)
    }
  }

  get limits(): Substrate['limits'] {
    return limits
  }

  async apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    const only = ops[0]?.kind
    if (only !== undefined && ops.every(({ kind }) => kind === only)) return await this.#applyKind(only, ops, call)
    const verdicts = Array.from<Verdict>({ length: ops.length })
    const kinds = new Map<Op['kind'], number[]>()
    for (const [index, { kind }] of ops.entries()) {
      const indexes = kinds.get(kind)
      if (indexes === undefined) kinds.set(kind, [index])
      else indexes.push(index)
    }
    await Promise.all(
      [...kinds].map(async ([kind, indexes]) => {
        const batch = indexes.map((index) => ops[index] as Op)
        const answers = await this.#applyKind(kind, batch, call)
        indexes.forEach((index, position) => (verdicts[index] = answers[position] as Verdict))
      }),
    )
    return verdicts
  }

  async claimAny(op: ClaimAnyOp, call: Call): Promise<AnyVerdict> {
    const { leases, holder, nonce, durationMs, value, announce } = op
    const channel = announce === true ? this.#channel : null
    const values = [this.#namespace, arrayOf(leases), holder, nonce, durationMs, value ?? null, channel]
    try {
      return anyVerdictOf(leases, (await this.#call('claimAny', values, call)) as AnyRow[])
    } catch (error) {
      if (!isConflict(error)) throw error
      return { outcome: 'contended', lease: undefined, holdings: new Map() }
    }
  }

  async read(leases: readonly string[] | undefined, call: Call): Promise<ReadonlyMap<string, Holding>> {
    const namespace = this.#namespace
    const rows = (await (leases === undefined
      ? this.#query(this.#statements.readAll, [namespace], call)
      : this.#query(this.#statements.read, [namespace, arrayOf(leases)], call))) as (Row & {
      name: string
      standby: boolean
    })[]
    // A standby may be behind: it would call a lease held that another holds by now.
    if (rows[0]?.standby !== false) throw new Error('the server is a standby: leases are only read from the primary')
    const holdings = new Map<string, Holding>()
    for (const row of rows) {
      const holding = holdingOf(row)
      if (holding !== undefined) holdings.set(row.name, holding)
    }
    return holdings
  }

  async pinned(call: Call): Promise<ReadonlyMap<string, readonly string[]>> {
    const rows = (await this.#query(this.#statements.pinned, [this.#namespace], call)) as {
      name: string
      pins: string[]
    }[]
    return new Map(rows.map(({ name, pins }) => [name, pins.toSorted()]))
  }

  async inspect(call: Call): Promise<readonly SubstrateWarning[]> {
    const rows = await this.#query(this.#statements.inspect, [], call)
    return inspectionWarnings(rows[0] as Parameters<typeof inspectionWarnings>[0])
  }

  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor {
    return postgresTrapdoor({ guard: this.#functions.guard, namespace: this.#namespace, lease, holder, fencingToken })
  }

  async close(): Promise<void> {
    await this.#hints?.close()
  }

  /** One call for operations of one kind. Never rejects. */
  async #applyKind(kind: Op['kind'], ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    const verdicts = Array.from<Verdict>({ length: ops.length })
    try {
      const inLine = kind === 'claim' && ops.some((op) => 'place' in op && op.place !== undefined)
      const name = inLine ? 'claimInLine' : kind
      const rows = await this.#call(name, this.#values(name, ops), call)
      for (const row of rows as OpRow[]) verdicts[row.n - 1] = verdictOf(kind, row)
    } catch (error) {
      verdicts.fill(isConflict(error) ? contended : unknown(error))
    }
    return verdicts
  }

  /** The parameters in the order that `functions.ts` documents: one array per field of the operations. */
  #values(name: OpFunction, ops: readonly Op[]): unknown[] {
    const { fields, announces } = parameters[name]
    const columns = fields.map((field) =>
      arrayOf(
        ops.map((op) => (op as unknown as Record<string, string | number | bigint | boolean | undefined>)[field]),
      ),
    )
    return announces ? [this.#namespace, ...columns, this.#channel] : [this.#namespace, ...columns]
  }

  /** The rows that the function answers. What lost to a concurrent transaction is sent again. */
  async #call(name: keyof Functions, values: unknown[], call: Call): Promise<unknown[]> {
    for (let attempt = 1; ; attempt++) {
      try {
        const [row] = (await this.#query(this.#functions[name].call, values, call)) as { answer: string }[]
        return (JSON.parse(row?.answer ?? '[]') as Columns[]).flatMap(rowsOf)
      } catch (error) {
        if (!isConflict(error) || attempt === MAX_ATTEMPTS) throw error
        await sleep(this.#clock, Math.random() * 5 * 2 ** attempt, call.signal)
      }
    }
  }

  async #query(text: string, values: unknown[], call: Call): Promise<unknown[]> {
    try {
      const { rows } = await onConnection(this.#pool, call, (client) => client.query(text, values))
      return rows
    } catch (error) {
      throw explained(error)
    }
  }
}

type OpFunction = Op['kind'] | 'claimInLine'

const claimFields = ['lease', 'holder', 'nonce', 'durationMs', 'value', 'announce']

/** Which fields of an operation its function takes, and whether the channel follows. */
const parameters: Readonly<Record<OpFunction, { readonly fields: readonly string[]; readonly announces: boolean }>> = {
  claim: { fields: claimFields, announces: true },
  claimInLine: { fields: [...claimFields, 'place'], announces: true },
  extend: { fields: ['lease', 'holder', 'fencingToken', 'durationMs', 'value', 'announce'], announces: true },
  release: { fields: ['lease', 'holder', 'fencingToken', 'nonce'], announces: true },
  expire: { fields: ['lease'], announces: true },
  pin: { fields: ['lease', 'entity'], announces: false },
  unpin: { fields: ['lease', 'entity'], announces: true },
}

function rowsOf(columns: Columns): unknown[] {
  const fields = Object.entries(columns)
  return (columns['n'] ?? []).map((_, index) => {
    const row: Record<string, unknown> = {}
    for (const [name, values] of fields) row[name] = values?.[index]
    return row
  })
}

function verdictOf(kind: Op['kind'], row: OpRow): Verdict {
  const holding = isLive(row) ? holdingOf(row) : undefined
  switch (kind) {
    case 'claim':
      // What is vacant, lapsed or unheard of could have been taken: somebody has it locked, or put it there meanwhile.
      if (row.done) return granted(holdingOf(row))
      if (holding === undefined && lineOf(row) === undefined) return contended
      return row.mine === true ? granted(holding) : { ...refused(holding), line: lineOf(row) }
    case 'extend':
      if (row.done) return granted(holdingOf(row))
      return holding !== undefined && row.mine === true ? contended : refused(holding)
    case 'release':
      if (row.done || holding === undefined) return granted(undefined)
      return row.mine === true ? contended : refused(holding)
    case 'expire':
      if (row.done || row.holder === null) return granted(undefined)
      return holding === undefined ? contended : refused(holding)
    case 'pin':
    case 'unpin':
      break
  }
  return granted(holding)
}

function lineOf({ place, served }: OpRow): Verdict['line'] {
  return typeof place === 'number' && typeof served === 'number' ? { place, served } : undefined
}

function anyVerdictOf(leases: readonly string[], rows: readonly AnyRow[]): AnyVerdict {
  const holdings = new Map<string, Holding>()
  let outcome: AnyVerdict['outcome'] = rows.every(isLive) ? 'refused' : 'contended'
  let lease: string | undefined
  for (const row of rows) {
    const name = leases[row.n - 1] as string
    const holding = isLive(row) ? holdingOf(row) : undefined
    if (holding !== undefined) holdings.set(name, holding)
    if (!row.done && row.mine !== true) continue
    lease = name
    outcome = row.done || row.replay === true ? 'granted' : 'refused'
  }
  return { outcome, lease, holdings }
}

function isLive({ holder, remaining, pinned }: Row): boolean {
  return holder !== null && (pinned === true || Number(remaining) > 0)
}

function holdingOf({ holder, token, remaining, value, pinned }: Row): Holding | undefined {
  if (holder === null || token === null) return undefined
  return {
    holder,
    fencingToken: BigInt(token),
    remainingMs: Number(remaining),
    value: value ?? undefined,
    pinned: pinned === true,
    version: undefined,
  }
}

function isConflict(error: unknown): boolean {
  const code = codeOf(error)
  return code === '40001' || code === '40P01'
}

/** Channel names are cut at 63 bytes, so it is a digest. Without the schema, which may come from the search_path. */
function channelOf({ table = 'lease', namespace }: PostgresSubstrateOptions): string {
  return `lease_${digest(JSON.stringify([table, namespace])).slice(0, 40)}`
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}

/** A connection made as `pg.Pool` makes its own. The options were checked to allow it. */
function likeThePool(pool: PostgresPool): OpenListenClient {
  return () => {
    const { Client, options } = pool
    if (Client === undefined) throw new Error('the pool does not show how it makes connections')
    return new Client(options as never)
  }
}
