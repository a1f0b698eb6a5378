/**
 * The substrate on PostgreSQL: a batch becomes one call of a function per kind of operation, the calls run side by side,
 * each on a connection of its own, and each row of the answers becomes a verdict.
 *
 * - *Verdicts are facts of one statement.* A refusal carries the row as a statement's snapshot has it. Where what the
 *   snapshot shows does not explain why nothing was done, somebody was at the row at that moment: `contended`.
 * - *Calls fail one by one.* What goes wrong with one kind leaves the verdicts of the others as they are.
 * - *Serialization failures, deadlocks and locks that were not to be had* (40001, 40P01, 55P03) were certainly not executed, and every
 *   call may be repeated: a few times here, then it is `contended`.
 * - *Time is the server's* (`clock_timestamp()`). Every request says until when it may be executed, and every answer what the
 *   clock shows: whole microseconds, which a number holds exactly for the next two centuries.
 */
import { createHash } from 'node:crypto'
import {
  contended,
  granted,
  HintStream,
  late,
  refused,
  sleep,
  systemClock,
  unknown,
  warnOfNoHints,
  type AnyVerdict,
  type Call,
  type ClaimAnyOp,
  type ClaimOp,
  type Clock,
  type Holding,
  type LeaseChange,
  type OpenHintConnection,
  type Op,
  type Pins,
  type Substrate,
  type SubstrateWarning,
  type Trapdoor,
  type Verdict,
} from 'lease-core'
import { arrayOf } from './array.ts'
import { codeOf, explained, LeftOpen, onConnection, tellsStatus } from './connection.ts'
import type { PostgresPool, PostgresPoolClient, PostgresTransaction } from './driver.ts'
import { functionsOf, type Functions } from './functions.ts'
import { answerOf, isQueryable, postgresTrapdoor } from './guard.ts'
import { listenTo } from './listener.ts'
import { checkOptions, type PostgresSubstrateOptions } from './options.ts'
import { likeThePool } from './pool-hooks.ts'
import { hintSuffix, LAYOUT, tablesOf, type Tables } from './schema.ts'
import { seesAll, statements, type Statements } from './sql.ts'
import { inspectionWarnings } from './warnings.ts'

/** A batch costs one fsync, whatever its size, and two at once may share it; beyond this the last wait for the first. */
const limits: Substrate['limits'] = { maxOps: 500, maxInFlight: 2, enoughOps: 32 }

/** How often a statement that lost to a concurrent one is sent in all. */
const MAX_ATTEMPTS = 4

/** One lease in an answer; all null where there is no row. What the operation tells is absent where it was done. */
interface Row {
  readonly holder?: string | null
  readonly token?: string | null
  readonly remaining: number | null
  readonly value?: string | null
  readonly pinned: boolean | null
  readonly nonce?: string | null
  /** When the term was opened, in microseconds; null: the token tells. */
  readonly opened?: number | null
}

interface NamedRow extends Row {
  readonly name: string
}

/** Answers as the functions give them: an array for each field, or null if there are none. */
type Columns = Readonly<Record<string, readonly unknown[] | null>>

/** The answer of a function, or of a statement that only reads. Of two rows about one operation the later one counts. */
interface Answer<R> {
  readonly rows: readonly R[]
  /** What the server's clock showed after its decisions, in microseconds. */
  readonly at: number
}

/** The answer to one operation. */
interface OpRow extends Row {
  /** Position of the operation in the statement's arrays, from 1. */
  readonly n: number
  /** Absent: it was done. */
  readonly done?: boolean
  /** Nothing was done although the snapshot shows the very term that the operation is about. */
  readonly mine?: boolean | null
  /** Another transaction was at the row, and what the snapshot shows is not all that counts. */
  readonly busy?: boolean | null
  /** It is too late for the operation. */
  readonly late?: boolean | null
  /** Of a claim in line that was refused. */
  readonly place?: number | null
  readonly served?: number | null
}

/** One of the leases of which any would have done. */
interface AnyRow extends OpRow {
  /** This is the one that the holder has already, by this very claim or not; null for all others. */
  readonly replay: boolean | null
}

interface TimeRow {
  readonly standby: string
  readonly at: string
  /** null: the tables are of a release that wrote none. */
  readonly layout: string | null
  /** Whether row level security may hide the layout from this role. */
  readonly hidden: string
}

/** A lease that is pinned. */
interface PinRow {
  readonly name: string
  readonly pins: readonly string[]
  /** Of each entity: the generation of its pin, and when it was set. */
  readonly generations: Readonly<Record<string, readonly [string, number]>> | null
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

  /**
   * @param warn takes what comes up later than `inspect`
   * @throws ErrNotValid with every problem
   */
  constructor(options: PostgresSubstrateOptions, warn: (warning: SubstrateWarning) => void = () => {}) {
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
      const { schema, listen } = options
      const open = listen ?? (() => likeThePool(pool))
      const connect: OpenHintConnection = async (tell, signal) => {
        const home = schema ?? (await this.#home())
        return listenTo(channel + hintSuffix(home), open, listen ?? pool)(tell, signal)
      }
      const hints = new HintStream({ connect, clock, failed: warnOfNoHints(warn, explained) })
      this.#hints = hints
      this.watch = (listener) => hints.watch(listener)
    }
  }

  get limits(): Substrate['limits'] {
    return limits
  }

  async time(call: Call): Promise<number> {
    const [row] = (await this.#query(this.#statements.time, [], call, asOfTime)) as TimeRow[]
    if (row?.standby === 'true') throw isStandby()
    if (row?.standby !== 'false') throw isNoText()
    if (row.hidden === 'true') throw isHidden()
    const layout = Number(row.layout ?? 1)
    if (layout > LAYOUT) {
      throw new Error(
        `the tables have layout ${layout}, and this release of lease-postgres knows layouts up to ${LAYOUT}: update it in this process`,
      )
    }
    if (layout < LAYOUT) {
      throw new Error(
        'the tables have the layout of an earlier release: run migrate(), or the SQL of migrationSql(), with the same schema and table',
      )
    }
    return Number(row.at) / 1000
  }

  async apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    const only = ops[0] && functionFor(ops[0])
    if (only !== undefined && ops.every((op) => functionFor(op) === only)) return await this.#applyBy(only, ops, call)
    const verdicts = Array.from<Verdict>({ length: ops.length })
    const groups = new Map<OpFunction, number[]>()
    for (const [index, op] of ops.entries()) {
      const name = functionFor(op)
      const indexes = groups.get(name)
      if (indexes === undefined) groups.set(name, [index])
      else indexes.push(index)
    }
    await Promise.all(
      [...groups].map(async ([name, indexes]) => {
        const batch = indexes.map((index) => ops[index] as Op)
        const answers = await this.#applyBy(name, batch, call)
        indexes.forEach((index, position) => (verdicts[index] = answers[position] as Verdict))
      }),
    )
    return verdicts
  }

  async claimAny(op: ClaimAnyOp, call: Call): Promise<AnyVerdict> {
    const { leases, holder, nonce, durationMs, value, announce } = op
    const channel = announce === true ? this.#channel : null
    try {
      const values = [arrayOf(leases), holder, nonce, durationMs, value ?? null, channel]
      return anyVerdictOf(op, await this.#call<AnyRow>('claimAny', values, call))
    } catch (error) {
      if (!isConflict(error)) throw error
      return { outcome: 'contended', lease: undefined, holdings: new Map() }
    }
  }

  async read(leases: readonly string[] | undefined, call: Call): Promise<ReadonlyMap<string, Holding>> {
    const text = leases === undefined ? this.#functions.readAll.call : this.#functions.read.call
    return holdingsIn(await this.#read<NamedRow>(text, leases, call))
  }

  readOver(key: unknown, lease: string): Promise<ReadonlyMap<string, Holding> | undefined> | undefined {
    return isQueryable(key) ? this.#readOver(key, lease) : undefined
  }

  async #readOver(connection: PostgresTransaction, lease: string): Promise<ReadonlyMap<string, Holding> | undefined> {
    const read = this.#functions.read.with(['$1', 'ARRAY[$2::pg_catalog.text]'])
    const text = `SELECT CASE WHEN ${seesAll} THEN ${read} ELSE '' END AS answer`
    const answer = answerOf(await connection.query(text, [this.#namespace, lease]), { lease })
    if (answer === '') return undefined
    if (answer === null) throw isStandby()
    return holdingsIn(answerIn<NamedRow>(answer))
  }

  async pinned(call: Call, leases?: readonly string[]): Promise<ReadonlyMap<string, Pins>> {
    const text = leases === undefined ? this.#functions.pinnedAll.call : this.#functions.pinned.call
    const { rows } = await this.#read<PinRow>(text, leases, call)
    // A pin that was set by an earlier release has no generation.
    const pinsOf = ({ pins, generations }: PinRow): Pins =>
      new Map(pins.toSorted().map((entity) => [entity, generations?.[entity]?.[0] ?? '']))
    return new Map(rows.map((row) => [row.name, pinsOf(row)]))
  }

  async inspect(call: Call): Promise<readonly SubstrateWarning[]> {
    const rows = await this.#query(this.#statements.inspect, [], call)
    return inspectionWarnings(rows[0] as Parameters<typeof inspectionWarnings>[0])
  }

  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor {
    const { guard } = this.#functions
    const namespace = this.#namespace
    return postgresTrapdoor({ guard, place: this.#pool, namespace, lease, holder, fencingToken })
  }

  async close(): Promise<void> {
    await this.#hints?.close()
  }

  /** The schema that the pool's search_path finds the tables in. */
  async #home(): Promise<string> {
    const { rows } = await onConnection(this.#pool, undefined, (client) => client.query(this.#statements.home, []))
    const { home } = rows[0] as { readonly home: string | null }
    if (home === null) throw new Error('tables are missing: run migrate()')
    return home
  }

  /** One call for operations of one function. Never rejects. */
  async #applyBy(name: OpFunction, ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    const verdicts = Array.from<Verdict>({ length: ops.length })
    try {
      const { rows, at } = await this.#call<OpRow>(name, this.#values(name, ops), call)
      for (const row of rows) verdicts[row.n - 1] = verdictOf(ops[row.n - 1] as Op, row, at)
    } catch (error) {
      verdicts.fill(isConflict(error) ? contended : unknown(error))
    }
    return verdicts
  }

  /** The parameters in the order that `functions.ts` documents: one array per field of the operations. */
  #values(name: OpFunction, ops: readonly Op[]): unknown[] {
    const { fields, announces } = parameters[name]
    const columns = fields.map((field) => columnOf(ops, typeof field === 'string' ? fieldOf(field) : field))
    return announces ? [...columns, this.#channel] : columns
  }

  /** The rows that the function answers. What lost to a concurrent transaction is sent again. */
  async #call<R>(name: keyof Functions, values: readonly unknown[], call: Call): Promise<Answer<R>> {
    const all = [this.#namespace, microsOf(call.sentMs), microsOf(call.notAfterMs), ...values]
    for (let attempt = 1; ; attempt++) {
      try {
        const [row] = (await this.#query(this.#functions[name].call, all, call, asOfAnswer)) as { answer: string }[]
        return answerIn<R>(row?.answer, call)
      } catch (error) {
        // The server's queue of notifications is full, so nothing was done: the operation matters more than to tell of it.
        if (codeOf(error) === QUEUE_FULL && this.#channel !== null && all.at(-1) === this.#channel)
          all[all.length - 1] = null
        else if (!isConflict(error) || attempt >= MAX_ATTEMPTS) throw error
        await sleep(this.#clock, Math.random() * 5 * 2 ** attempt, call.signal)
      }
    }
  }

  /** The rows of a statement that only reads: of these leases, or of all. */
  async #read<R>(text: string, leases: readonly string[] | undefined, call: Call): Promise<Answer<R>> {
    const namespace = this.#namespace
    const values = leases === undefined ? [namespace] : [namespace, arrayOf(leases)]
    const [row] = (await this.#query(text, values, call, asOfAnswer)) as { answer: string | null }[]
    // A standby may be behind: it would call a lease held that another holds by now.
    if (row?.answer === null) throw isStandby()
    if (typeof row?.answer !== 'string') throw isNoText()
    return answerIn<R>(row.answer, call)
  }

  /** @param asOf the microseconds of the server's clock in these rows, if there are any */
  async #query(
    text: string,
    values: unknown[],
    call: Call,
    asOf: (rows: readonly unknown[]) => number = () => Number.NaN,
  ): Promise<unknown[]> {
    try {
      return await onConnection(this.#pool, call, async (client) => {
        const { rows } = await client.query(text, values)
        if (!tellsStatus(client)) await this.#assertAlone(client, asOf(rows))
        return rows
      })
    } catch (error) {
      throw explained(error)
    }
  }

  /** Where the driver does not tell: a transaction that began before this instant is one in which the statement before has run. */
  async #assertAlone(client: PostgresPoolClient, asOfMicros: number): Promise<void> {
    const { rows } = await client.query(this.#statements.began, [])
    if (Number((rows[0] as { began: string }).began) <= asOfMicros) throw new LeftOpen('in the transaction of another')
  }
}

const asOfTime = ([row]: readonly unknown[]): number => Number((row as TimeRow | undefined)?.at)
const asOfAnswer = ([row]: readonly unknown[]): number =>
  Number.parseInt((row as { answer?: string } | undefined)?.answer?.slice(1) ?? '', 10)

const isStandby = (): Error =>
  new Error('the server is a standby: connect to the primary (target_session_attrs=read-write)')

const isHidden = (): unknown =>
  explained(Object.assign(new Error('row-level security is active for the table of the layout'), { code: '42501' }))

const isNoText = (): Error =>
  new Error(
    'the connections of the pool do not answer with rows as the server sends them: each row must be an object, and a text must stay a text',
  )

/** null: no rule. */
const microsOf = (milliseconds: number | undefined): number | null =>
  milliseconds === undefined ? null : Math.floor(milliseconds * 1000)

type OpFunction = Exclude<
  keyof Functions,
  'claimAny' | 'read' | 'readAll' | 'pinned' | 'pinnedAll' | 'guard' | 'findOld' | 'removeOld' | 'forgetLines'
>

/** Rare kinds have functions of their own, so that the others stay fast. */
function functionFor(op: Op): OpFunction {
  if (op.kind === 'claim') return op.place === undefined ? 'claim' : 'claimInLine'
  if (op.kind === 'extend') return op.adoption === undefined && op.value === undefined ? 'extend' : 'amend'
  if (op.kind === 'release') return op.fencingToken === undefined ? 'withdraw' : 'release'
  return op.kind
}

/** A field of an operation as a parameter. */
type Field = (op: Op) => string | number | bigint | boolean | undefined

const fieldOf =
  (name: string): Field =>
  (op) =>
    (op as unknown as Record<string, ReturnType<Field>>)[name]
const adoptionOf =
  (name: 'from' | 'nonce'): Field =>
  (op) =>
    op.kind === 'extend' ? op.adoption?.[name] : undefined

/** With a sign ahead: the empty text says that there is none. */
const optional =
  (field: Field): Field =>
  (op) => {
    const value = field(op)
    return value === undefined ? undefined : `=${value}`
  }

const claimFields = ['lease', 'holder', 'nonce', 'durationMs', optional(fieldOf('value')), 'announce']
const extendFields = ['lease', 'holder', 'fencingToken', 'durationMs']
const pinFields = ['lease', 'entity', 'generation']

/** Which fields of an operation its function takes, and whether the channel follows. */
const parameters: Readonly<
  Record<OpFunction, { readonly fields: readonly (string | Field)[]; readonly announces: boolean }>
> = {
  claim: { fields: claimFields, announces: true },
  claimInLine: { fields: [...claimFields, 'place'], announces: true },
  extend: { fields: extendFields, announces: false },
  amend: {
    fields: [
      ...extendFields,
      optional(fieldOf('value')),
      'announce',
      optional(adoptionOf('from')),
      optional(adoptionOf('nonce')),
    ],
    announces: true,
  },
  release: { fields: ['lease', 'holder', 'fencingToken', optional(fieldOf('nonce'))], announces: true },
  withdraw: { fields: ['lease', 'holder', 'nonce'], announces: true },
  expire: { fields: ['lease'], announces: true },
  pin: { fields: pinFields, announces: false },
  unpin: { fields: pinFields, announces: true },
}

/** One parameter for all operations: an array, or null where none has the field. */
function columnOf(ops: readonly Op[], field: Field): string | null {
  const values = ops.map(field)
  const some = values.find((value) => value !== undefined)
  if (some === undefined) return null
  return arrayOf(values.map((value) => value ?? (typeof some === 'boolean' ? false : '')))
}

/** Reports the server's time that is in the answer. */
function answerIn<R>(answer: string | undefined, call?: Call): Answer<R> {
  const [at, ...columns] = JSON.parse(answer ?? '[]') as [number, ...Columns[]]
  call?.answered?.(at / 1000)
  return { rows: columns.flatMap(rowsOf) as R[], at }
}

function rowsOf(columns: Columns): unknown[] {
  const fields = Object.entries(columns)
  return (fields[0]?.[1] ?? []).map((_, index) => {
    const row: Record<string, unknown> = {}
    for (const [name, values] of fields) row[name] = values?.[index]
    return row
  })
}

function verdictOf(op: Op, row: OpRow, at: number): Verdict {
  return row.done === false ? verdictUndone(op, row, at) : granted(holdingAfter(op, row, at))
}

/** What an operation that was done has left. */
function holdingAfter(op: Op, row: OpRow, at: number): Holding | undefined {
  switch (op.kind) {
    case 'claim':
      return claimed(op, row, at)
    case 'extend':
      return holding(op.holder, op.fencingToken, row.nonce, row, at)
    case 'pin':
    case 'unpin':
      return heldIn(row, at)
    case 'release':
    case 'expire':
      break
  }
  return undefined
}

function verdictUndone(op: Op, row: OpRow, at: number): Verdict {
  if (row.late === true) return late
  const held = heldIn(row, at)
  switch (op.kind) {
    case 'claim':
      // What is vacant, lapsed or unheard of could have been taken: somebody has it locked, or put it there meanwhile.
      if (held === undefined ? lineOf(row) === undefined : row.mine === true) return contended
      return { ...refused(held), line: lineOf(row) }
    case 'extend':
      return held !== undefined && row.mine === true ? contended : refused(held)
    case 'release':
      if (row.busy === true || (held !== undefined && row.mine === true)) return contended
      return held === undefined ? granted(undefined) : refused(held)
    case 'expire':
      if (held !== undefined) return refused(held)
      return row.holder === null ? granted(undefined) : contended
    case 'pin':
    case 'unpin':
      break
  }
  return contended
}

function lineOf({ place, served }: OpRow): Verdict['line'] {
  return typeof place === 'number' && typeof served === 'number' ? { place, served } : undefined
}

function anyVerdictOf(op: ClaimAnyOp, { rows, at }: Answer<AnyRow>): AnyVerdict {
  const holdings = new Map<string, Holding>()
  let outcome: AnyVerdict['outcome'] = rows.every((row) => heldIn(row, at) !== undefined) ? 'refused' : 'contended'
  if (rows.some((row) => row.late === true)) outcome = 'late'
  let lease: string | undefined
  for (const row of rows) {
    const done = row.done !== false
    const name = op.leases[row.n - 1] as string
    const held = done ? claimed(op, row, at) : heldIn(row, at)
    if (held !== undefined) holdings.set(name, held)
    if (done) outcome = 'granted'
    else if (row.mine !== true || row.late === true) continue
    else outcome = row.replay === true ? 'contended' : 'refused'
    if (outcome !== 'contended') lease = name
  }
  return { outcome, lease, holdings }
}

/** The term that this claim has opened, now or earlier. */
function claimed({ holder, nonce, value }: ClaimOp | ClaimAnyOp, row: OpRow, at: number): Holding | undefined {
  if (typeof row.token !== 'string') return undefined
  return holding(holder, BigInt(row.token), nonce, row, at, value)
}

function holdingsIn({ rows, at }: Answer<NamedRow>): ReadonlyMap<string, Holding> {
  const holdings = new Map<string, Holding>()
  for (const row of rows) {
    const held = heldIn(row, at)
    if (held !== undefined) holdings.set(row.name, held)
  }
  return holdings
}

/** The term that stands in the row, if one does. */
function heldIn(row: Row, at: number): Holding | undefined {
  const { holder, token, remaining, pinned, nonce } = row
  if (typeof holder !== 'string' || typeof token !== 'string') return undefined
  return pinned === true || Number(remaining) > 0 ? holding(holder, BigInt(token), nonce, row, at) : undefined
}

/** @param at what the server's clock showed, in microseconds */
function holding(
  holder: string,
  fencingToken: bigint,
  nonce: string | null | undefined,
  { remaining, value, pinned, opened }: Row,
  at: number,
  valueAsked?: string,
): Holding {
  return {
    holder,
    fencingToken,
    nonce: nonce ?? undefined,
    remainingMs: Number(remaining),
    ageMs: Math.max(0, (at - (opened ?? Number(fencingToken))) / 1000),
    value: value ?? valueAsked,
    pinned: pinned === true,
    version: undefined,
  }
}

/** So says `pg_notify` at the COMMIT. */
const QUEUE_FULL = '54000'

/** It lost to another transaction, or waited for one in vain: certainly not executed. */
function isConflict(error: unknown): boolean {
  const code = codeOf(error)
  return code === '40001' || code === '40P01' || code === '55P03'
}

/** Channel names are cut at 63 bytes, so it is a digest. The schema is added by the server, which may have found it by the search_path. */
function channelOf({ table = 'lease', namespace }: PostgresSubstrateOptions): string {
  return `lease_${digest(JSON.stringify([table, namespace])).slice(0, 40)}`
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}
