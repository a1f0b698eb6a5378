/**
 * The guard for a resource that is not the store of the leases: a file server, another database, an API.
 *
 * A holder that was paused does not know that it lost its lease; the resource does not know either, unless it compares
 * fencing tokens. The gate remembers, by the resource's name, the highest token that it let in and whose it was:
 *
 *     higher than that          in, and remembered
 *     the same, of the same     in: a holder's own further writes
 *     the same, of another      out: tokens belong to one term, so one of the two has no business here
 *     lower                     out: a later term was here before
 *
 * What several hold at once (permits of a semaphore of more than one, readers) has no order of this kind, and is refused.
 *
 * Each store decides in one atomic step. From a refusal on, nobody with a lower token is let in again, for ever.
 *
 * The gate is a check *before* the write. Between the two a holder may be paused, and a later one be let in, unless both
 * happen in one transaction (`PostgresFencingStore` on a connection inside it) or the resource compares tokens itself.
 * Where the resource is the store of the leases, its trapdoor does all this without a gate.
 *
 * After M. Kleppmann, "How to do distributed locking" (2016), with the comparison that admits a holder's second write.
 */
import { brokenSignalRule, ErrNotHeld, ErrUnknown, hasMethods, notValid, reasonOf, throwIfAborted } from 'lease-core'
import type { Problem } from 'lease-core'
import { Checks } from './checks.ts'
import { orAborted } from './or-aborted.ts'

/** Who wants in: a `Hold` or a `FencedLock` fits as it is. */
export interface Fence {
  /** Of one term of one lease. */
  readonly fencingToken: bigint
  /** Whose term it is, best by a name that no other term has. */
  readonly holder: string
  /** Whether nobody else holds a part of the same thing at once. Absent: nobody does. */
  isExclusive?(): Promise<boolean>
}

/** PORT to where the gate remembers. */
export interface FencingStore {
  /**
   * In one atomic step: takes over the fence if its token is higher than the one remembered for this name, or if none is;
   * then resolves with what is remembered. Nothing that was remembered is ever forgotten. Rejects when it cannot tell.
   */
  admit(name: string, fence: Fence): Promise<Fence>
}

export interface FencingGateOptions {
  readonly store: FencingStore
}

export interface AdmitOptions {
  /** Rejects the call with its reason; the token may have been remembered. */
  readonly signal?: AbortSignal | undefined
}

/**
 * The gate does not let this holder in, now or later. `instanceof ErrNotHeld`, with the same code: a later term has been
 * admitted, so this one is over.
 */
export class ErrFenced extends ErrNotHeld {
  override readonly name: string = 'ErrFenced'
  /** The token that was shown. */
  readonly fencingToken: bigint
  /** What the gate remembers. */
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

/** Lets a name's holders in by rising fencing tokens: see the head of this file. */
export class FencingGate {
  readonly #store: FencingStore

  /** @throws ErrNotValid */
  constructor(options: FencingGateOptions) {
    const checks = new Checks(options, ['store'])
    checks.must('store', hasMethods(options.store, 'admit'), 'must be a FencingStore', options.store)
    checks.finish()
    this.#store = options.store
  }

  /** @throws ErrUnknown, the signal's reason */
  async #isExclusive(fence: Fence, signal: AbortSignal | undefined): Promise<boolean> {
    const { holder } = fence
    try {
      return await orAborted((async () => fence.isExclusive?.() ?? true)(), signal)
    } catch (cause) {
      if (signal?.aborted === true) throw cause
      const reason = reasonOf(cause)
      throw new ErrUnknown(`could not ask whether "${holder}" excludes all others: ${reason}`, {
        holder,
        reason,
        cause,
      })
    }
  }

  /**
   * Resolves when the fence is let in: no lower token was, or will be, let in after it.
   *
   * @param name of the resource, which has one lease: at most 255 bytes
   * @throws ErrFenced   it is out for good
   * @throws ErrNotValid the store was not asked; also for a share that does not exclude others: a later one would keep it out for good,
   *   although it stands. It has a guard of its own (`token.check(key)`)
   * @throws ErrUnknown  the store could not be asked: infer nothing, and do not write
   */
  async admit(name: string, fence: Fence, options: AdmitOptions = {}): Promise<void> {
    checkAdmit(name, fence, options)
    const { holder, fencingToken } = fence
    throwIfAborted(options.signal)
    if (!(await this.#isExclusive(fence, options.signal))) {
      const rule = 'must exclude all others: a share of a counted lease has a guard of its own'
      throw notValid([{ argument: 'fence', rule, value: holder }], { holder })
    }
    let admitted: Fence
    try {
      admitted = await orAborted(this.#store.admit(name, { holder, fencingToken }), options.signal)
    } catch (cause) {
      throwIfAborted(options.signal)
      const reason = reasonOf(cause)
      throw new ErrUnknown(`could not ask who was admitted to "${name}": ${reason}`, { holder, reason, cause })
    }
    if (admitted.fencingToken !== fencingToken || admitted.holder !== holder) throw new ErrFenced(name, fence, admitted)
  }
}

/** Remembers in this process, and only as long as it lives: for tests, and where one process owns the resource. */
export class MemoryFencingStore implements FencingStore {
  readonly #admitted = new Map<string, Fence>()

  async admit(name: string, fence: Fence): Promise<Fence> {
    const known = this.#admitted.get(name)
    if (known !== undefined && known.fencingToken >= fence.fencingToken) return known
    this.#admitted.set(name, fence)
    return fence
  }
}

/** What runs a statement: `Pool`, `Client` and `PoolClient` of `pg` fit. */
export interface FencingQueryable {
  // oxlint-disable-next-line typescript/no-explicit-any -- every driver declares its rows as it likes
  query(text: string, values: any[]): Promise<{ readonly rows: any[] }>
}

export interface PostgresFencingStoreOptions {
  readonly client: FencingQueryable
  /** The table, with its schema if need be. @default 'fencing_gate' */
  readonly table?: string | undefined
}

/**
 * Remembers in one row for each name, by one statement.
 *
 * On a connection inside a transaction the row stays locked until it ends: whoever comes with a higher token waits, so a
 * write in the same transaction cannot be overtaken. Above READ COMMITTED such a meeting is a serialization failure.
 */
export class PostgresFencingStore implements FencingStore {
  readonly #client: FencingQueryable
  readonly #table: string

  /** @throws ErrNotValid with every problem */
  constructor(options: PostgresFencingStoreOptions) {
    const checks = new Checks(options, ['client', 'table'])
    checks.must('client', hasMethods(options.client, 'query'), 'must have a method query', options.client)
    const { client, table = 'fencing_gate' } = options
    const isName = typeof table === 'string' && /^[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?$/.test(table)
    checks.must('table', isName, 'must be a plain table name in lower case, with its schema if need be', table)
    checks.finish()
    this.#client = client
    this.#table = table.replaceAll(/\w+/g, '"$&"')
  }

  /** Creates the table if it is missing; safe from many processes at once. */
  async migrate(): Promise<void> {
    await this.#client.query(this.migrationSql(), [])
  }

  /** What `migrate` runs, for people who migrate by hand. */
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
    // The row is written even when it stays as it is: only so one statement sees the latest and locks it.
    const text = `INSERT INTO ${this.#table} AS gate (name, fencing_token, holder) VALUES ($1, $2::numeric, $3)
ON CONFLICT (name) DO UPDATE SET
  fencing_token = greatest(gate.fencing_token, excluded.fencing_token),
  holder = CASE WHEN excluded.fencing_token > gate.fencing_token THEN excluded.holder ELSE gate.holder END
RETURNING fencing_token::text AS fencing_token, holder`
    const { rows } = await this.#client.query(text, [name, String(fencingToken), holder])
    const row = rows[0] as { readonly fencing_token?: unknown; readonly holder?: unknown } | undefined
    return fenceOf(row?.fencing_token, row?.holder)
  }
}

const MIGRATION_LOCK = 7_046_029_254_386_353

/** What runs a script: `Redis` and `Cluster` of ioredis fit. */
export interface FencingEvaluator {
  eval(script: string, numberOfKeys: number, ...keysAndArguments: string[]): Promise<unknown>
}

export interface RedisFencingStoreOptions {
  readonly client: FencingEvaluator
  /** Begins each key. @default 'fencing-gate:' */
  readonly prefix?: string | undefined
}

/**
 * Remembers in one key for each name, by one script. The keys never expire: an eviction policy, a fail-over or a restart
 * without `appendonly` that loses a key lets a lower token in again.
 */
export class RedisFencingStore implements FencingStore {
  readonly #client: FencingEvaluator
  readonly #prefix: string

  /** @throws ErrNotValid with every problem */
  constructor(options: RedisFencingStoreOptions) {
    const checks = new Checks(options, ['client', 'prefix'])
    checks.must('client', hasMethods(options.client, 'eval'), 'must have a method eval', options.client)
    const { client, prefix = 'fencing-gate:' } = options
    checks.must('prefix', brokenTextRule(prefix) === undefined, brokenTextRule(prefix) ?? '', prefix)
    checks.finish()
    this.#client = client
    this.#prefix = prefix
  }

  async admit(name: string, { fencingToken, holder }: Fence): Promise<Fence> {
    const reply = await this.#client.eval(ADMIT, 1, `${this.#prefix}${name}`, String(fencingToken), holder)
    const [token, whose] = Array.isArray(reply) ? (reply as unknown[]) : []
    return fenceOf(token, whose)
  }
}

/** Lua's numbers are doubles, exact to 2^53 only: decimal strings are compared by length, then digit by digit. */
const ADMIT = `local known = redis.call('HMGET', KEYS[1], 'token', 'holder')
local token, theirs = known[1], ARGV[1]
if not token or #token < #theirs or (#token == #theirs and token < theirs) then
  redis.call('HSET', KEYS[1], 'token', theirs, 'holder', ARGV[2])
  return { theirs, ARGV[2] }
end
return known`

/** @throws when this is no answer of ours: then nobody can tell */
function fenceOf(fencingToken: unknown, holder: unknown): Fence {
  if (typeof fencingToken !== 'string' || !/^\d+$/.test(fencingToken) || typeof holder !== 'string') {
    throw new Error('the store answered something else than a fencing token and a holder')
  }
  return { fencingToken: BigInt(fencingToken), holder }
}

function checkAdmit(name: unknown, fence: unknown, options: unknown): void {
  const problems: Problem[] = []
  const must = (argument: string, rule: string | undefined, value: unknown): void => {
    if (rule !== undefined) problems.push({ argument, rule, value })
  }
  const { fencingToken, holder } = Object(fence) as { fencingToken?: unknown; holder?: unknown }
  const isObject = typeof options === 'object' && options !== null
  const { signal, ...others } = (isObject ? options : {}) as Record<string, unknown>
  const isToken = typeof fencingToken === 'bigint' && fencingToken >= 0n
  must('name', brokenTextRule(name), name)
  must('fencingToken', isToken ? undefined : 'must be a bigint of at least 0', fencingToken)
  must('holder', brokenTextRule(holder), holder)
  must('options', isObject ? undefined : 'must be an object', options)
  must('signal', signal === undefined ? undefined : brokenSignalRule(signal), signal)
  for (const [option, value] of Object.entries(others)) must(option, 'is not an option', value)
  if (problems.length > 0) throw notValid(problems)
}

/** The rule that this text breaks, or undefined: what every store keeps apart from every other. */
function brokenTextRule(text: unknown): string | undefined {
  if (typeof text !== 'string') return 'must be a string'
  if (text === '') return 'must not be empty'
  if (text.includes('\0') || /\p{Cs}/u.test(text)) return 'must be well-formed Unicode without NUL'
  return Buffer.byteLength(text) > 255 ? 'must be at most 255 bytes' : undefined
}
