/**
 * A guard for a resource outside the store of the leases: a file server, another database, an API.
 *
 * A holder that was paused does not know that it lost its lease. The resource does not know either, unless it compares fencing tokens.
 * For each resource name the gate remembers the highest token that it admitted, and its holder:
 *
 *     higher                          admitted and remembered
 *     equal, from the same holder     admitted: another write of the same holder
 *     equal, from another holder      refused: a token belongs to one term, so one of the two is wrong
 *     lower                           refused: a later term was admitted
 *
 * Fencing tokens do not order holders of one thing at the same time (readers, permits of a larger semaphore): these are refused.
 *
 * Each store decides in one atomic step. After a token was admitted, no lower one is admitted, ever.
 *
 * The gate is a check *before* the write. Between the two the holder may be paused, and a later holder admitted. One transaction for
 * both prevents that (`PostgresFencingStore` on a connection inside it), and so does a resource that compares tokens itself.
 * If the resource is the store of the leases, use its trapdoor instead of a gate.
 *
 * After M. Kleppmann, "How to do distributed locking" (2016). In addition, a holder's second write is admitted.
 */
import { randomUUID } from 'node:crypto'
import { ErrNotHeld, ErrUnknown, hasMethods, notValid, reasonOf, throwIfAborted } from 'lease-core'
import { OptionReader } from 'lease-core/adapter'
import { orAborted } from './or-aborted.ts'

/** What the gate compares. Every `Held` fits, for instance a `Hold` or a `FencedLock`. */
export interface Fence {
  /** Of one term of the lease. */
  readonly fencingToken: bigint
  /** The holder of that term; preferably a name that no other term uses. */
  readonly holder: string
  /** Whether nobody else can hold a share of the same lease at the same time. Absent: true. @throws ErrNotHeld its term is over */
  isExclusive?(): Promise<boolean>
}

/** Where the gate remembers the admitted tokens; implement it for a store of your own. */
export interface FencingStore {
  /**
   * In one atomic step: remembers the fence if no token, or a lower one, is remembered for this name; then resolves with the remembered
   * fence. Never forgets. Rejects if the outcome is not known.
   */
  admit(name: string, fence: Fence): Promise<Fence>
}

/** Options of a FencingGate. */
export interface FencingGateOptions {
  /** Where the admitted tokens are remembered. */
  readonly store: FencingStore
}

/** Options of `admit`. */
export interface AdmitOptions {
  /** Rejects the call with its reason. The token may have been remembered. */
  readonly signal?: AbortSignal | undefined
}

/**
 * The gate refuses this holder, now and forever: another term with a higher or equal token was admitted. Extends `ErrNotHeld`, with the
 * same code.
 */
export class ErrFenced extends ErrNotHeld {
  override readonly name: string = 'ErrFenced'
  /** The refused token. */
  readonly fencingToken: bigint
  /** The fence that the gate remembers. */
  readonly admitted: Fence

  constructor(name: string, { holder, fencingToken }: Fence, admitted: Fence) {
    const theirs = `fencing token ${admitted.fencingToken} of "${admitted.holder}" was admitted`
    super(`"${name}" does not admit fencing token ${fencingToken} of "${holder}": ${theirs}`, {
      holder,
      reason: admitted.fencingToken > fencingToken ? 'lower token' : 'token of another term',
    })
    this.fencingToken = fencingToken
    this.admitted = admitted
  }
}

/** Admits the holders of a resource by rising fencing tokens: see the head of this file. */
export class FencingGate {
  readonly #store: FencingStore

  /** @throws ErrNotValid */
  constructor(options: FencingGateOptions) {
    const reader = new OptionReader(options, ['store'])
    reader.object('store', 'a FencingStore', ['admit'])
    reader.finish()
    this.#store = reader.read.store
  }

  /** @throws ErrNotHeld, ErrUnknown, the signal's reason */
  async #isExclusive(fence: Fence, signal: AbortSignal | undefined): Promise<boolean> {
    const { holder } = fence
    try {
      return await orAborted((async () => fence.isExclusive?.() ?? true)(), signal)
    } catch (cause) {
      if (signal?.aborted === true || cause instanceof ErrNotHeld) throw cause
      const reason = reasonOf(cause)
      throw new ErrUnknown(`could not ask whether "${holder}" excludes all others: ${reason}`, {
        holder,
        reason,
        cause,
      })
    }
  }

  /**
   * Admits the fence. When the call resolves, no lower token is admitted any more.
   *
   * @param name of the resource, at most 255 bytes. One resource must have one lease
   * @throws ErrFenced   refused forever
   * @throws ErrNotHeld  the fence is a share whose term is over. The gate's store was not asked
   * @throws ErrNotValid an argument breaks a rule, or the fence is a share that does not exclude others: guard it with
   *   `token.check(key)`. The gate's store was not asked
   * @throws ErrUnknown  the store could not be asked: infer nothing, and do not write. Calling again is safe
   */
  async admit(name: string, fence: Fence, options: AdmitOptions = {}): Promise<void> {
    const { holder, fencingToken, signal } = readAdmit(name, fence, options)
    throwIfAborted(signal)
    if (!(await this.#isExclusive(fence, signal))) {
      const rule = 'must exclude all others: a share of a counted lease has a guard of its own'
      throw notValid([{ argument: 'fence', rule, value: holder }], { holder })
    }
    let admitted: Fence
    try {
      admitted = answerTo(fencingToken, await orAborted(this.#store.admit(name, { holder, fencingToken }), signal))
    } catch (cause) {
      throwIfAborted(signal)
      const reason = reasonOf(cause)
      throw new ErrUnknown(`could not ask who was admitted to "${name}": ${reason}`, { holder, reason, cause })
    }
    if (admitted.fencingToken !== fencingToken || admitted.holder !== holder) throw new ErrFenced(name, fence, admitted)
  }
}

/** Checks the answer of a store of the caller's. @throws when it is none: the outcome is then not known, and certainly no refusal */
function answerTo(asked: bigint, answer: unknown): Fence {
  const { fencingToken, holder } = (answer ?? {}) as Partial<Fence>
  if (typeof fencingToken !== 'bigint' || typeof holder !== 'string') throw new Error(NO_FENCE)
  if (fencingToken < asked)
    throw new Error('the store answered a lower fencing token than the one that it was asked about')
  return { fencingToken, holder }
}

const NO_FENCE = 'the store answered something else than a fencing token and a holder'

/** Remembers in the memory of this process: for tests, and for a resource that only this process uses. */
export class MemoryFencingStore implements FencingStore {
  readonly #admitted = new Map<string, Fence>()

  async admit(name: string, fence: Fence): Promise<Fence> {
    const known = this.#admitted.get(name)
    if (known !== undefined && known.fencingToken >= fence.fencingToken) return known
    this.#admitted.set(name, fence)
    return fence
  }
}

/** Runs a statement: `Pool`, `Client` and `PoolClient` of `pg` fit. */
export interface FencingQueryable {
  // oxlint-disable-next-line typescript/no-explicit-any -- every driver declares its rows as it likes
  query(text: string, values: any[]): Promise<{ readonly rows: any[] }>
}

/** A pool: it lends connections in the state in which somebody has given them back. `pg.Pool` fits. */
interface FencingPool extends FencingQueryable {
  connect(): Promise<FencingConnection>
}

interface FencingConnection extends FencingQueryable {
  release(destroy?: boolean): void
  on?(event: 'error', listener: () => void): unknown
  removeListener?(event: 'error', listener: () => void): unknown
  /** `I`: outside of a transaction; null: the driver does not tell. */
  getTransactionStatus?(): string | null
}

/** Options of a PostgresFencingStore. */
export interface PostgresFencingStoreOptions {
  /** A pool, or a connection inside the transaction of the write. */
  readonly client: FencingQueryable
  /** The table, optionally with its schema. @default 'fencing_gate' */
  readonly table?: string | undefined
}

/**
 * Remembers one row per name, with one statement.
 *
 * On a connection inside a transaction the row stays locked until the transaction ends: a caller with a higher token waits, so it cannot
 * overtake a write in that transaction. Above READ COMMITTED two such calls cause a serialization failure.
 */
export class PostgresFencingStore implements FencingStore {
  readonly #client: FencingQueryable
  readonly #table: string

  /** @throws ErrNotValid with every problem */
  constructor(options: PostgresFencingStoreOptions) {
    const reader = new OptionReader(options, ['client', 'table'])
    const { client, table = 'fencing_gate' } = reader.read
    reader.must('client', hasMethods(client, 'query'), 'must have a method query')
    const isName = typeof table === 'string' && /^[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?$/.test(table)
    reader.must('table', isName, 'must be a plain table name in lower case, with its schema if need be')
    reader.finish()
    this.#client = client
    this.#table = table.replaceAll(/\w+/g, '"$&"')
  }

  /** Creates the table if it is missing. Many processes may call it at once. */
  async migrate(): Promise<void> {
    await this.#run(this.migrationSql(), [])
  }

  /** Returns the SQL that `migrate` runs, for migrations by hand. */
  migrationSql(): string {
    // One at a time: CREATE TABLE IF NOT EXISTS alone fails when two run it at once.
    return `DO $$ BEGIN
  PERFORM pg_advisory_xact_lock(${MIGRATION_LOCK});
  CREATE TABLE IF NOT EXISTS ${this.#table} (
    name text COLLATE "C" PRIMARY KEY,
    fencing_token numeric NOT NULL,
    holder text COLLATE "C" NOT NULL
  ) WITH (fillfactor = 50);
END $$`
  }

  async admit(name: string, { fencingToken, holder }: Fence): Promise<Fence> {
    // Writes the row even when it does not change: only then does one statement see the latest row and lock it.
    const text = `INSERT INTO ${this.#table} AS gate (name, fencing_token, holder) VALUES ($1, $2::numeric, $3)
ON CONFLICT (name) DO UPDATE SET
  fencing_token = greatest(gate.fencing_token, excluded.fencing_token),
  holder = CASE WHEN excluded.fencing_token > gate.fencing_token THEN excluded.holder ELSE gate.holder END
RETURNING fencing_token::text AS fencing_token, holder`
    const { rows } = await this.#run(text, [name, String(fencingToken), holder])
    const row = rows[0] as { readonly fencing_token?: unknown; readonly holder?: unknown } | undefined
    return fenceOf(row?.fencing_token, row?.holder)
  }

  /**
   * Over a pool an answer counts only if it is committed: a token that is remembered in the transaction of somebody else is
   * forgotten when that is rolled back. A connection that somebody has left in one is closed, which undoes what was done there.
   */
  async #run(text: string, values: readonly unknown[]): Promise<{ readonly rows: readonly unknown[] }> {
    const client = this.#client
    if (!isPool(client)) return client.query(text, [...values])
    for (let leftOpen = 0; leftOpen < MOST_LEFT_OPEN; leftOpen++) {
      const connection = await client.connect()
      connection.on?.('error', ignore) // what breaks it rejects as well
      let isFit = false
      try {
        const result = await connection.query(text, [...values])
        isFit = !(await isInTransaction(connection))
        if (isFit) return result
      } catch (error) {
        if ((error as { readonly code?: unknown } | null)?.code !== FAILED_TRANSACTION) throw error
      } finally {
        connection.release(!isFit)
        if (isFit) connection.removeListener?.('error', ignore)
      }
    }
    throw new Error('each connection of the pool was in a transaction that somebody had left open')
  }
}

const ignore = (): void => {}
const MOST_LEFT_OPEN = 100
const FAILED_TRANSACTION = '25P02'

/** A single connection has `connect` as well. What is inside of a transaction is to stay there. */
function isPool(client: FencingQueryable): client is FencingPool {
  return hasMethods(client, 'connect') && !hasMethods(client, 'release') && !hasMethods(client, 'escapeIdentifier')
}

/** By what the server last said, or by what it says when it is asked: outside of one, what only reads has no transaction id. */
async function isInTransaction(connection: FencingConnection): Promise<boolean> {
  const status = connection.getTransactionStatus?.() ?? null
  if (status !== null) return status !== 'I'
  const { rows } = await connection.query(
    'SELECT pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text AS left_open',
    [],
  )
  return (rows[0] as { readonly left_open?: unknown }).left_open !== null
}

const MIGRATION_LOCK = 7_046_029_254_386_353

/** Runs a script: `Redis` and `Cluster` of ioredis fit. */
export interface FencingEvaluator {
  eval(script: string, numberOfKeys: number, ...keysAndArguments: string[]): Promise<unknown>
}

/** Options of a RedisFencingStore. */
export interface RedisFencingStoreOptions {
  /** A connection to the Redis that remembers. */
  readonly client: FencingEvaluator
  /** The beginning of each key. @default 'fencing-gate:' */
  readonly prefix?: string | undefined
}

/**
 * Remembers one key per name, with one script. The keys never expire. If a key is lost (by an eviction policy, a failover, or a restart
 * without `appendonly`), a lower token is admitted again.
 */
export class RedisFencingStore implements FencingStore {
  readonly #client: FencingEvaluator
  readonly #prefix: string

  /** @throws ErrNotValid with every problem */
  constructor(options: RedisFencingStoreOptions) {
    const reader = new OptionReader(options, ['client', 'prefix'])
    const { client, prefix = 'fencing-gate:' } = reader.read
    reader.must('client', hasMethods(client, 'eval'), 'must have a method eval')
    reader.fault('prefix', brokenTextRule(prefix))
    reader.finish()
    this.#client = client
    this.#prefix = prefix
  }

  async admit(name: string, { fencingToken, holder }: Fence): Promise<Fence> {
    const mark = randomUUID()
    const reply = await this.#client.eval(ADMIT, 1, `${this.#prefix}${name}`, String(fencingToken), holder, mark)
    const [token, whose, marked] = Array.isArray(reply) ? (reply as unknown[]) : []
    // After a CLIENT REPLY of somebody who shares the connection, the driver takes the answer to another call for this one.
    return fenceOf(marked === mark ? token : undefined, whose)
  }
}

/** Lua's numbers are doubles, exact to 2^53 only: decimal strings are compared by length, then digit by digit. */
const ADMIT = `local known = redis.call('HMGET', KEYS[1], 'token', 'holder')
local token, theirs = known[1], ARGV[1]
if not token or #token < #theirs or (#token == #theirs and token < theirs) then
  redis.call('HSET', KEYS[1], 'token', theirs, 'holder', ARGV[2])
  return { theirs, ARGV[2], ARGV[3] }
end
return { known[1], known[2], ARGV[3] }`

/** @throws when the answer has another form: the outcome is then not known */
function fenceOf(fencingToken: unknown, holder: unknown): Fence {
  if (typeof fencingToken !== 'string' || !/^\d+$/.test(fencingToken) || typeof holder !== 'string') {
    throw new Error(NO_FENCE)
  }
  return { fencingToken: BigInt(fencingToken), holder }
}

interface Admission {
  readonly holder: string
  readonly fencingToken: bigint
  readonly signal: AbortSignal | undefined
}

/** @throws ErrNotValid with every problem */
function readAdmit(name: unknown, fence: Fence, options: AdmitOptions): Admission {
  const { fencingToken, holder } = Object(fence) as Fence
  const reader = new OptionReader(options, ['signal'], { arguments: { name, fencingToken, holder } })
  const isToken = typeof fencingToken === 'bigint' && fencingToken >= 0n
  reader.fault('name', brokenTextRule(name))
  reader.must('fencingToken', isToken, 'must be a bigint of at least 0')
  reader.fault('holder', brokenTextRule(holder))
  const signal = reader.signal()
  reader.finish()
  return { holder, fencingToken, signal }
}

/** The rule that this text breaks, or undefined. Every store can tell two valid texts apart. */
function brokenTextRule(text: unknown): string | undefined {
  if (typeof text !== 'string') return 'must be a string'
  if (text === '') return 'must not be empty'
  if (text.includes('\0') || /\p{Cs}/u.test(text)) return 'must be well-formed Unicode without NUL'
  return Buffer.byteLength(text) > 255 ? 'must be at most 255 bytes' : undefined
}
