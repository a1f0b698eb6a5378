/**
 * The substrate on PostgreSQL: a batch becomes one call of a function per kind of operation, the calls run side by side,
 * each on a connection of its own, and each row of the answers becomes a verdict.
 *
 * - *Verdicts are facts of one statement.* A refusal carries the row as a statement's snapshot has it. Where what the
 *   snapshot shows does not explain why nothing was done, somebody was at the row at that moment: `contended`.
 * - *Calls fail one by one.* What goes wrong with one kind leaves the verdicts of the others as they are.
 * - *Serialization failures, deadlocks and locks that were not to be had* (40001, 40P01, 55P03) were certainly not executed, and every
 *   call may be repeated: a few times here, then it is `contended`.
 * - *Who waits* is in a table of its own. A role that may not use it claims, renews and releases all the same: it gets no ticket and watches
 *   nothing, and what it vacates it tells everyone.
 * - *Time is the server's* (`clock_timestamp()`). Every request says until when it may be executed, and every answer what the
 *   clock shows: whole microseconds, which a number holds exactly for the next two centuries.
 */
import { createHash, randomBytes } from 'node:crypto'
import { sleep, systemClock, type Clock, type LeaseChange, type Trapdoor } from 'lease-core'
import {
  contended,
  granted,
  HintStream,
  late,
  refused,
  StoreFailure,
  unknown,
  warnOfNoHints,
  type Call,
  type ClaimOp,
  type Counted,
  type HintConnection,
  type Holding,
  type OpenHintConnection,
  type Op,
  type Pins,
  type Substrate,
  type SubstrateWarning,
  type Verdict,
} from 'lease-core/adapter'
import { arrayOf } from './array.ts'
import { codeOf, explained, LeftOpen, onConnection, tellsStatus } from './connection.ts'
import type { PostgresPool, PostgresPoolClient, PostgresTransaction } from './driver.ts'
import { functionsOf, type Functions } from './functions.ts'
import { answerOf, changedAnswer, postgresTrapdoor } from './guard.ts'
import { listenTo } from './listener.ts'
import { parseOptions, type PostgresSubstrateOptions } from './options.ts'
import { likeThePool } from './pool-hooks.ts'
import { asPool, isOpenPostgresJs } from './postgres-js.ts'
import { CLIENT_CHANNEL, EVERYONE, hintSuffix, LAYOUT, tablesOf, type Tables } from './schema.ts'
import { seesAll, statements, type Statements } from './sql.ts'
import { entryOf } from './way-in.ts'
import {
  inspectionWarnings,
  isPooled,
  queueFull,
  refusesTransactions,
  statementPooling,
  type Inspection,
} from './warnings.ts'

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
  /** Of a share. */
  readonly weight?: number | null
}

interface NamedRow extends Row {
  readonly name: string
}

/** Answers as the functions give them: an array for each field, or null if there are none. */
type Columns = Readonly<Record<string, readonly unknown[] | null>>

/** The answer of a function, or of a statement that only reads. Of two rows about one operation the later one counts. */
interface Answer<R> {
  readonly rows: readonly R[]
  readonly notes: readonly Note[]
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
  /** It was not contended, although nothing is held. */
  readonly refused?: boolean | null
}

/** The answer of `counted`: the microseconds of the server's clock, and what is known. */
type CountedAnswer = readonly [
  at: number,
  { readonly capacity: number | null; readonly generation: string | null; readonly shares: Columns },
]

/** What an answer says of an operation beside what became of it. */
interface Note {
  readonly n: number
  /** Of a claim that was refused: its ticket, how many are ahead, and whether it got none because the queue is full. */
  readonly place?: number | null
  readonly ahead?: number | null
  readonly full?: boolean | null
  /** Of a ticket: what was committed just before the transaction began, it may not have seen. */
  readonly blind?: boolean | null
  /** Of the claim of a share that was refused, and of a definition. */
  readonly counted?: CountedAnswer | null
  /** The last ticket notified of a vacancy. */
  readonly told?: number | null
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
  readonly watch?: (listener: (change: LeaseChange) => void, client?: string) => () => void
  readonly store: NonNullable<Substrate['store']>
  readonly #pool: PostgresPool
  readonly #endPool: () => Promise<void>
  /** As it was passed in: what two clients have in common. */
  readonly #place: object
  readonly #namespace: string
  readonly #tables: Tables
  readonly #functions: Functions
  readonly #statements: Statements
  readonly #clock: Clock
  /** null: nothing is announced. */
  readonly #channel: string | null
  /** By the client; the empty one hears of the whole namespace. */
  readonly #hints = new Map<string, HintStream>()
  /** Names this substrate among those that watch the namespace. */
  readonly #watcher = randomBytes(9).toString('base64url')
  /** Until then the table of those who wait is not tried again, for this role may not use it. */
  #deniedUntilMs = Number.NEGATIVE_INFINITY
  readonly #warn: (warning: SubstrateWarning) => void
  /** The server's queue of notifications was full when it was last asked. */
  #isQueueFull = false

  /**
   * @param warn takes what comes up later than `inspect`
   * @throws ErrNotValid with every problem
   */
  constructor(options: PostgresSubstrateOptions, warn: (warning: SubstrateWarning) => void = () => {}) {
    const read = parseOptions(options, { client: false })
    const { pool, namespace, schema, notify = true, listen, clock = systemClock } = read
    this.#warn = warn
    this.store = { system: 'postgresql', namespace }
    const own = asPool(pool)
    this.#pool = own.pool
    this.#endPool = own.end
    this.#place = pool
    this.#namespace = namespace
    this.#tables = tablesOf(read)
    this.#functions = functionsOf(this.#tables)
    this.#statements = statements(this.#tables)
    this.#clock = clock
    const channel = channelOf(read)
    this.#channel = notify ? channel : null
    if (listen !== false) {
      const open = listen ?? (isOpenPostgresJs(pool) ? pool : () => likeThePool(own.pool))
      const connect =
        (client: string | undefined): OpenHintConnection =>
        async (tell, signal) => {
          const suffix = hintSuffix(schema ?? (await this.#home()))
          const single = client === undefined ? channel + suffix : CLIENT_CHANNEL + client
          const everyone = EVERYONE + channel.slice(EVERYONE.length) + suffix
          const connection = await listenTo([single, everyone], open, listen ?? pool)(tell, signal)
          return client === undefined ? await this.#watchingAll(connection, signal) : connection
        }
      this.watch = (listener, client) => {
        let hints = this.#hints.get(client ?? '')
        if (hints === undefined) {
          hints = new HintStream({ connect: connect(client), clock, failed: warnOfNoHints(warn, explained) })
          this.#hints.set(client ?? '', hints)
        }
        return hints.watch(listener)
      }
    }
  }

  get page(): string {
    return 'docs/substrates/postgres.md'
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
      throw new StoreFailure(
        `the tables have layout ${layout}, and this release of lease-postgres knows layouts up to ${LAYOUT}: update it in this process`,
        { isSetUp: true },
      )
    }
    if (layout < LAYOUT) {
      throw new StoreFailure(
        'the tables have the layout of an earlier release: run migrate(), or the SQL of migrationSql(), with the same schema and table',
        { isSetUp: true },
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

  async read(
    leases: readonly string[] | undefined,
    call: Call,
    watched: readonly string[] = [],
  ): Promise<ReadonlyMap<string, Holding>> {
    if (leases !== undefined && watched.length > 0) {
      const lockMs = Math.ceil(Math.min(LONGEST_LOCK_MS, call.timeoutMs / 2))
      const answer = await this.#asRegistered(call, async (client) =>
        client === null
          ? undefined
          : await this.#read<NamedRow>(this.#functions.watch.call, leases, call, [
              arrayOf([...new Set(watched)]),
              client,
              lockMs,
            ]),
      )
      if (answer !== undefined) return holdingsIn(answer)
    }
    const text = leases === undefined ? this.#functions.readAll.call : this.#functions.read.call
    return holdingsIn(await this.#read<NamedRow>(text, leases, call))
  }

  async counted(lease: string, call: Call): Promise<Counted> {
    const values = [this.#namespace, lease, null]
    const [row] = (await this.#query(this.#functions.counted.call, values, call, asOfAnswer)) as { answer: string }[]
    if (row?.answer === null) throw isStandby()
    if (typeof row?.answer !== 'string') throw isNoText()
    const answer = JSON.parse(row.answer) as CountedAnswer
    call.answered?.(answer[0] / 1000)
    return countedIn(answer)
  }

  async waiting(lease: string, call: Call): Promise<number> {
    const rows = await this.#query(this.#statements.waiting, [this.#namespace, lease], call, asOfTime)
    return Number((rows[0] as { waiting: string }).waiting)
  }

  readOver(key: unknown, lease: string): Promise<ReadonlyMap<string, Holding> | undefined> | undefined {
    const { transaction } = entryOf(key)
    return transaction && this.#readOver(transaction, lease)
  }

  async #readOver(connection: PostgresTransaction, lease: string): Promise<ReadonlyMap<string, Holding> | undefined> {
    const read = this.#functions.read.with(['$1', 'ARRAY[$2::pg_catalog.text]'])
    const text = `SELECT CASE WHEN ${seesAll} THEN ${read} ELSE '' END AS answer`
    const answer = answerOf(await connection.query(text, [this.#namespace, lease]), { lease })
    if (answer === '') return undefined
    if (answer === null) throw isStandby()
    try {
      return holdingsIn(answerIn<NamedRow>(answer))
    } catch {
      throw changedAnswer({ lease }) // a parser of the caller has changed the text
    }
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
    let found: Inspection | undefined
    try {
      await onConnection(this.#pool, call, async (client) => {
        const { rows } = await client.query(this.#statements.inspect, [])
        found = rows[0] as Inspection
        if (!isPooled(client, found)) return
        // One after the other, for a pooler decides by the state after a statement.
        await client.query('BEGIN')
        await client.query('ROLLBACK')
      })
    } catch (error) {
      if (found === undefined || !refusesTransactions(error)) throw explained(error)
      return [...inspectionWarnings(found), statementPooling]
    }
    return found === undefined ? [] : inspectionWarnings(found)
  }

  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor {
    const { guard } = this.#functions
    const namespace = this.#namespace
    return postgresTrapdoor({ guard, place: this.#place, namespace, lease, holder, fencingToken })
  }

  async close(): Promise<void> {
    await Promise.all([...this.#hints.values()].map((hints) => hints.close()))
    await this.#endPool()
  }

  /** The connection, once all that happens in the namespace is reported over it, and for as long as it is asked for a sign of life. */
  async #watchingAll(connection: HintConnection, signal: AbortSignal): Promise<HintConnection> {
    const { watchAll, leave } = this.#functions
    const values = [this.#namespace, this.#watcher]
    const register = (): Promise<unknown> =>
      this.#asRegistered(undefined, async (client) => {
        if (client !== null) await this.#query(watchAll.call, values)
      })
    const close = async (): Promise<void> => {
      const gone = this.#query(leave.call, [
        this.#namespace,
        null,
        null,
        arrayOf(['']),
        arrayOf([0]),
        null,
        this.#watcher,
      ])
      await Promise.allSettled([connection.close(), gone])
    }
    try {
      await register()
      await this.#othersDone(signal)
    } catch (error) {
      void close()
      throw error
    }
    const ping = (): Promise<unknown> => {
      register().catch(() => {}) // it is in force for longer than until the next one
      return connection.ping()
    }
    return { ended: connection.ended, ping, close }
  }

  /** Resolves once those have ended who may have looked before this substrate had registered, or have taken very long. */
  async #othersDone(signal: AbortSignal): Promise<void> {
    const writing = async (): Promise<readonly string[]> => {
      const [row] = (await this.#query(this.#statements.writing, [])) as { readonly writing: string }[]
      return (row?.writing ?? '').split(' ').filter((one) => one !== '')
    }
    const endMs = this.#clock.monotonic() + LONGEST_OTHERS_MS
    let others = await writing()
    for (let waitMs = 1; others.length > 0 && this.#clock.monotonic() < endMs; waitMs = Math.min(100, 2 * waitMs)) {
      await sleep(this.#clock, waitMs, signal)
      const still = new Set(await writing())
      others = others.filter((one) => still.has(one))
    }
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
    try {
      if (name === 'extend') return await this.#verdicts(name, ops, call, null)
      return await this.#asRegistered(call, async (client) => {
        const known = client === null ? withoutQueues(name) : name
        return known === undefined ? ops.map(() => granted(undefined)) : await this.#verdicts(known, ops, call, client)
      })
    } catch (error) {
      return ops.map(() => (isConflict(error) ? contended : unknown(error)))
    }
  }

  async #verdicts(
    name: OpFunction,
    ops: readonly Op[],
    call: Call,
    client: string | null,
  ): Promise<readonly Verdict[]> {
    const { fields, announces } = parameters[name]
    // In the order that `functions.ts` documents: one array per field of the operations.
    const values = fields.map((field) => columnOf(ops, typeof field === 'string' ? fieldOf(field) : field))
    const { rows, notes, at } = await this.#call<OpRow>(
      name,
      announces ? [...values, this.#channel, client] : values,
      call,
    ).catch((error: unknown) => {
      throw notDone(error)
    })
    const verdicts = Array.from<Verdict>({ length: ops.length })
    for (const row of rows) verdicts[row.n - 1] = verdictOf(ops[row.n - 1] as Op, row, at)
    for (const note of notes) verdicts[note.n - 1] = withNote(verdicts[note.n - 1] as Verdict, note)
    const blind = notes.filter((note) => note.blind === true).map(({ n }) => n - 1)
    if (blind.length > 0) {
      // The end of a share may have come just before, and have notified nobody: the next end of a share sees the ticket.
      const again = blind.map((index) => ({ ...(ops[index] as ClaimOp), place: verdicts[index]?.ticket?.place }))
      const later = await this.#verdicts(name, again, call, client)
      for (const [position, index] of blind.entries()) {
        const verdict = later[position] as Verdict
        if (isAnswer(verdict)) verdicts[index] = verdict
      }
    }
    return verdicts
  }

  /**
   * Calls the body with the client, or with null where this role may not use the table of those who wait: it has then done nothing, and is
   * called once more.
   */
  async #asRegistered<T>(call: Call | undefined, body: (client: string | null) => Promise<T>): Promise<T> {
    if (this.#clock.monotonic() < this.#deniedUntilMs) return await body(null)
    try {
      return await body(call?.client ?? '')
    } catch (error) {
      if (!isDenied(error)) throw error
    }
    const result = await body(null)
    this.#deniedUntilMs = this.#clock.monotonic() + DENIED_MS
    return result
  }

  /** The rows that the function answers. What lost to a concurrent transaction is sent again. */
  async #call<R>(name: keyof Functions, values: readonly unknown[], call: Call): Promise<Answer<R>> {
    const all = [this.#namespace, microsOf(call.sentMs), microsOf(call.notAfterMs), ...values]
    let wasFull = false
    for (let attempt = 1; ; attempt++) {
      try {
        const [row] = (await this.#query(this.#functions[name].call, all, call, asOfAnswer)) as { answer: string }[]
        return answerIn<R>(row?.answer, call)
      } catch (error) {
        // The server's queue of notifications is full, so nothing was done: the operation matters more than to tell of it.
        if (codeOf(error) === QUEUE_FULL && this.#channel !== null && all.at(-2) === this.#channel) {
          if (wasFull || !(await this.#hasRoom(call))) all[all.length - 2] = null
          wasFull = true
        } else if (!isConflict(error) || attempt >= MAX_ATTEMPTS) throw error
        await sleep(this.#clock, Math.random() * 5 * 2 ** attempt, call.signal)
      }
    }
  }

  /**
   * Whether the server's queue of notifications has room. A queue that was full stays full, also when all who listen have read it, until
   * somebody asks the server this. What fails here fails nothing: the operation goes on without a notification.
   */
  async #hasRoom(call: Call): Promise<boolean> {
    const rows = await this.#query(HAS_ROOM, [], call).catch(() => [])
    const [row] = rows as { answer: string }[]
    const wasFull = this.#isQueueFull
    this.#isQueueFull = row?.answer !== 'true'
    if (this.#isQueueFull && !wasFull) this.#warn(queueFull)
    return !this.#isQueueFull
  }

  /** The rows of a statement that only reads: of these leases, or of all. */
  async #read<R>(
    text: string,
    leases: readonly string[] | undefined,
    call: Call,
    others: readonly unknown[] = [],
  ): Promise<Answer<R>> {
    const namespace = this.#namespace
    const values = leases === undefined ? [namespace] : [namespace, arrayOf(leases), ...others]
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
    call?: Call,
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

/** A statement that was refused for the set-up did nothing: it is a transaction of its own. */
const notDone = (error: unknown): unknown =>
  error instanceof StoreFailure && error.isSetUp
    ? new StoreFailure(error.message, { cause: error.cause, isSetUp: true, isNotDone: true })
    : error

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
  | 'read'
  | 'readAll'
  | 'watch'
  | 'watchAll'
  | 'pinned'
  | 'pinnedAll'
  | 'counted'
  | 'guard'
  | 'findOld'
  | 'removeOld'
  | 'forget'
  | 'findCounts'
  | 'tidy'
  | 'tell'
  | 'fitting'
  | 'entering'
  | 'sweep'
>

/** Rare kinds have functions of their own, so that the others stay fast. */
function functionFor(op: Op): OpFunction {
  if (op.kind === 'claim' && op.share !== undefined) return 'claimShare'
  if (op.kind === 'claim') return op.place === undefined ? 'claim' : 'claimInQueue'
  if (op.kind === 'extend') return op.adoption === undefined && op.value === undefined ? 'extend' : 'amend'
  if (op.kind === 'release') return op.fencingToken === undefined ? 'withdraw' : 'release'
  return op.kind
}

/** What does the same without tickets; undefined: nothing. */
function withoutQueues(name: OpFunction): OpFunction | undefined {
  if (name === 'claimInQueue') return 'claim'
  return name === 'leave' || name === 'passOver' ? undefined : name
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

const shareOf =
  (name: 'weight' | 'capacity' | 'passing'): Field =>
  (op) =>
    op.kind === 'claim' ? op.share?.[name] : undefined

const claimFields = ['lease', 'holder', 'nonce', 'durationMs', optional(fieldOf('value')), 'announce']
const extendFields = ['lease', 'holder', 'fencingToken', 'durationMs']
const pinFields = ['lease', 'entity', 'generation']

/** Which fields of an operation its function takes, and whether channel and client follow. */
const parameters: Readonly<
  Record<OpFunction, { readonly fields: readonly (string | Field)[]; readonly announces: boolean }>
> = {
  claim: { fields: claimFields, announces: true },
  claimInQueue: { fields: [...claimFields, 'place', optional(fieldOf('maxWaiters'))], announces: true },
  claimShare: {
    fields: [
      ...claimFields,
      shareOf('weight'),
      optional(shareOf('capacity')),
      shareOf('passing'),
      optional(fieldOf('place')),
      optional(fieldOf('maxWaiters')),
    ],
    announces: true,
  },
  define: {
    fields: ['lease', optional(fieldOf('capacity')), optional(fieldOf('from')), 'generation'],
    announces: true,
  },
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
  pin: { fields: pinFields, announces: true },
  unpin: { fields: pinFields, announces: true },
  leave: { fields: ['lease', (op) => (op.kind === 'leave' ? (op.place ?? 0) : 0)], announces: true },
  passOver: { fields: ['lease', 'place'], announces: true },
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
  const rows: R[] = []
  const notes: Note[] = []
  for (const one of columns) {
    // One by one: a call takes no hundred thousand arguments.
    if ('place' in one || 'told' in one || 'counted' in one) for (const note of rowsOf(one)) notes.push(note as Note)
    else for (const row of rowsOf(one)) rows.push(row as R)
  }
  return { rows, notes, at }
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
    case 'leave':
    case 'passOver':
    case 'define':
      break
  }
  return undefined
}

function verdictUndone(op: Op, row: OpRow, at: number): Verdict {
  if (row.late === true) return late
  const held = heldIn(row, at)
  switch (op.kind) {
    case 'claim':
      if (row.refused === true) return refused(held)
      // What is vacant, lapsed or unheard of could have been taken: somebody has it locked, or put it there in the meantime.
      return held === undefined || row.mine === true ? contended : refused(held)
    case 'extend':
      return held !== undefined && row.mine === true ? contended : refused(held)
    case 'release':
      if (row.busy === true || (held !== undefined && row.mine === true)) return contended
      return held === undefined ? granted(undefined) : refused(held)
    case 'expire':
      if (held !== undefined) return refused(held)
      return row.holder === null ? granted(undefined) : contended
    case 'define':
      return row.refused === true ? refused(undefined) : contended
    case 'pin':
    case 'unpin':
    case 'leave':
    case 'passOver':
      break
  }
  return contended
}

/** A claim with a ticket, or without one because the queue is full, was refused, also where the lease is vacant. */
function withNote(verdict: Verdict, { place, ahead, full, told, counted }: Note): Verdict {
  if (typeof told === 'number') return { ...verdict, told }
  if (verdict.outcome === 'late') return verdict
  if (counted !== undefined && counted !== null) return { ...verdict, counted: countedIn(counted) }
  const refusal = { ...verdict, ...refused(verdict.holding) }
  if (full === true) return { ...refusal, isFull: true }
  return typeof place === 'number' ? { ...refusal, ticket: { place, ahead: Number(ahead) } } : verdict
}

/** The term that this claim has opened, now or earlier. */
function claimed({ holder, nonce, value }: ClaimOp, row: OpRow, at: number): Holding | undefined {
  if (typeof row.token !== 'string') return undefined
  return holding(holder, BigInt(row.token), nonce, row, at, value)
}

/** It says what became of the operation. */
function isAnswer({ outcome }: Verdict): boolean {
  return outcome === 'granted' || outcome === 'refused'
}

function countedIn([at, { capacity, generation, shares }]: CountedAnswer): Counted {
  const rows = rowsOf(shares) as NamedRow[]
  return {
    capacity: capacity ?? undefined,
    generation: generation ?? undefined,
    shares: holdingsIn({ rows, notes: [], at }),
  }
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
  { remaining, value, pinned, opened, weight }: Row,
  at: number,
  valueAsked?: string,
): Holding {
  const held: Holding = {
    holder,
    fencingToken,
    nonce: nonce ?? undefined,
    remainingMs: Number(remaining),
    ageMs: Math.max(0, (at - (opened ?? Number(fencingToken))) / 1000),
    value: value ?? valueAsked,
    pinned: pinned === true,
    version: undefined,
  }
  return typeof weight === 'number' ? { ...held, weight } : held
}

/** This role may not do what the function does. Functions are all there is to it but for the tables. */
function isDenied(error: unknown): boolean {
  return codeOf(error instanceof Error ? error.cause : undefined) === '42501'
}

/** After so long it is tried again whether the role may use the table of those who wait. */
const DENIED_MS = 60_000

/** For so long a read waits for a row that it is to watch. */
const LONGEST_LOCK_MS = 1_000

/** For so long those who begin to watch the namespace wait for the transactions that are writing at that moment. */
const LONGEST_OTHERS_MS = 5_000

/** So says `pg_notify` at the COMMIT. */
const QUEUE_FULL = '54000'

/** The server first drops what all who listen have read. As a text, which no type parser of the pool changes. */
const HAS_ROOM = `SELECT (pg_catalog.pg_notification_queue_usage() < 0.99)::text AS answer`

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
