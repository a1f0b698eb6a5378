/**
 * Trapdoor keys: "this very term still stands" in one step with the caller's own writes.
 *
 * - *A script* (`RedisGuard.run`): checked and run in one step of the server. Promise: the script ran while the term
 *   stood by the server's clock.
 * - *A transaction* (`RedisGuard.transaction`, or a connection as key): WATCH, then a look at the lease, then the caller's
 *   MULTI … EXEC, which Redis drops if the lease changed in between, or lapsed. The look is needed: what was gone when
 *   WATCH came is not missed by EXEC. A mere renewal makes it drop as well, and it has to be tried again.
 *
 * Any EXEC on a connection ends its WATCH, and so does a reconnection; the next EXEC is then executed all the same. So
 * `transaction` goes over a connection that nobody else has (`private-connection.ts`), and a connection as key must be one.
 *
 * Every look asks for the right to write first: a replica, which may be behind, never passes a guard. A term is recognised by
 * its fencing token, with which what is stored begins (`script.ts`).
 *
 * A failover that loses the last writes of the old master loses grants and guarded writes alike; no check in Redis can
 * see that. Keep the fencing token beside your data, and refuse a lower one, where that matters.
 */
import { ErrNotHeld, ErrTrapdoor, ErrUnknown, hasMethods, notValid, systemClock, type Trapdoor } from 'lease-core'
import { LONGEST_DEADLINE_MS, notHeld } from 'lease-core/adapter'
import { asIoredis } from './as-ioredis.ts'
import { databaseOf, evaluate, explained, isPipeline, NoAnswer, saidBy, withoutCredentials } from './connection.ts'
import type {
  NodeRedisClient,
  NodeRedisScripting,
  NodeRedisTransactional,
  RedisPrivateConnection,
  RedisScripting,
  RedisTransactional,
  ValkeyGlideClient,
} from './driver.ts'
import { isWatchError } from './node-redis.ts'
import { dropPrivate, privateOf } from './private-connection.ts'
import { script, selecting, type Script } from './script.ts'
import { isValkeyGlide, NOT_WATCHED } from './valkey-glide.ts'

/** One term of one lease, and where to look for it. */
export interface GuardedTerm {
  /** As the server sees it. */
  readonly key: string
  /** undefined: where the connection is that it was claimed with, which does not say. */
  readonly database: number | undefined
  /** The connection that the lease was claimed with: over another one the same key may be on another server. */
  readonly place: object
  readonly lease: string
  readonly holder: string
  readonly fencingToken: bigint
}

/** Understands a `RedisGuard`, and a connection for WATCH. */
export function redisTrapdoor(term: GuardedTerm): Trapdoor {
  return async (key) => {
    if (key === undefined) return
    if (isTermCollector(key)) key[ADD_TERM](term)
    else await watch(key, [term])
  }
}

/**
 * The method by which a guard is given a term. Registered, so that two copies of this package know each other's guards. The
 * number rises when `GuardedTerm` changes its shape.
 */
const ADD_TERM = Symbol.for('lease-redis.RedisGuard/2')

interface TermCollector {
  [ADD_TERM](term: GuardedTerm): void
}

function isTermCollector(key: unknown): key is TermCollector {
  return hasMethods(key, ADD_TERM)
}

/**
 * A trapdoor key that gates scripts and transactions of the caller:
 *
 *     const guard = new RedisGuard()
 *     await token.check(guard)
 *     await guard.run(redis, `return redis.call('SET', KEYS[1], ARGV[1])`, ['{orders}:total'], [42])
 *
 * Checked by several tokens it demands all of these terms at once. Only an earlier term of the same lease and holder, by a client
 * over the same connection, is replaced by the later one. The guard may be used as often as one likes; each time it looks anew.
 */
export class RedisGuard {
  /** All that are demanded. Replaced, never changed: a run under way keeps those it began with. */
  #terms: readonly GuardedTerm[] = []

  static {
    const addTerm = function (this: RedisGuard, term: GuardedTerm): void {
      const terms = this.#terms
      this.#terms = terms.length === 0 ? [term] : [...terms.filter((other) => !isReplaced(other, term)), term]
    }
    Object.defineProperty(this.prototype, ADD_TERM, { value: addTerm })
  }

  /**
   * Runs the script, with KEYS and ARGV as given here, if every term checked stands: in one step, so nobody else is
   * granted the lease before it ends. Otherwise nothing of it runs. It may be any script without a `#!` line. Redis rolls
   * nothing back: a script that fails leaves behind what it has written by then.
   *
   * In a Cluster all keys must be in the slot of the namespace: put `{namespace}` into their names. Where the outcome is
   * lost with the connection the script may have run.
   *
   * @throws ErrNotHeld a term does not stand; nothing was run
   * @throws ErrTrapdoor before the first check, or the connection cannot answer for the lease: another keyPrefix or database, a
   *   replica, no right to look; nothing was run
   * @throws ErrUnknown somebody has opened a MULTI on the connection: it is run when that is executed, if at all
   * @throws what the script or the driver throws, as it is
   */
  async run(
    given: RedisScripting | NodeRedisScripting | ValkeyGlideClient,
    lua: string,
    keys: readonly string[] = [],
    args: readonly (string | Buffer | number)[] = [],
  ): Promise<unknown> {
    const terms = this.#checked()
    const redis = asIoredis(given) as RedisScripting
    if (typeof lua !== 'string' || lua.startsWith('#!')) {
      throw notValid([{ argument: 'lua', rule: 'must be a script without a #! line', value: lua }])
    }
    if (!hasMethods(redis, 'eval', 'evalsha') || isPipeline(redis)) throw notUnderstood(terms, 'pass a connection')
    const allKeys = [...keysFor(redis, terms), ...keys]
    const allArgs = [...terms.map(beginningOf), ...args]
    let answer: unknown
    try {
      answer = await evaluate(redis, guarded(terms, lua, databaseIn(terms)), allKeys, allArgs)
    } catch (error) {
      if (!(error instanceof NoAnswer)) throw whatItSays(error, terms)
      throw new ErrUnknown(`it may have happened: ${error.message}`, { reason: error.message, cause: error })
    }
    return answered(answer, terms)
  }

  /**
   * Makes the connection's next EXEC depend on every term checked; if they stand by then, and nothing about them has
   * changed since, it writes. An EXEC that answers null has written nothing: watch again, which tells a renewal from a
   * loss. `transaction` does all that.
   *
   * @throws ErrNotHeld a term does not stand; nothing is watched
   * @throws ErrTrapdoor before the first check, or not a connection that can be watched
   */
  async watch(connection: RedisPrivateConnection | NodeRedisClient): Promise<void> {
    await watch(connection, this.#checked())
  }

  /**
   * Runs one transaction that is written only if every term checked stands at its EXEC, and returns what EXEC answered:
   *
   *     await guard.transaction(redis, (multi) => void multi.set('{orders}:total', 42))
   *
   * It goes over a connection of its own that is made as the given one, with its options, and is kept until that one ends: what
   * others do on the given connection, their EXEC for example, does not touch it. In a Cluster give the node of the slot. Commands
   * that were added to the given connection itself are not there.
   *
   * `body` queues the commands, and is called again when the lease was renewed in the meantime. One transaction at a time for a
   * connection.
   *
   * @throws ErrNotHeld a term does not stand; nothing was written
   * @throws ErrTrapdoor before the first check, or the connection cannot answer for the lease; nothing was written
   * @throws ErrUnknown EXEC had no answer within ten seconds; it may have been written. Without an answer before that: ErrTrapdoor,
   *   and nothing was written. The time that the body takes does not count
   * @throws what the body or the driver throws, as it is; where EXEC's answer is lost it may have been written
   */
  async transaction<Multi extends { exec(): Promise<unknown> }>(
    given: RedisTransactional<Multi> | NodeRedisTransactional<Multi>,
    body: (multi: Multi) => unknown,
  ): Promise<Exclude<Awaited<ReturnType<Multi['exec']>>, null>> {
    const terms = this.#checked()
    if (isValkeyGlide(given)) throw trapdoor(NOT_WATCHED, terms)
    const connection = asIoredis(given) as RedisTransactional<Multi>
    if (busy.has(connection)) throw new ErrTrapdoor('another transaction is under way on this connection')
    const own = privateOf(connection, terms[0])
    busy.add(connection)
    let sound = false // nothing is watched on it, and nothing is under way
    try {
      for (;;) {
        await inTime(watch(own, terms), () => trapdoor(`the guard could not look: ${SILENT}`, terms))
        const multi = own.multi() as Multi
        try {
          await body(multi)
        } catch (error) {
          // Without an answer the next transaction gets another connection.
          await inTime(own.unwatch(), () => new Error(SILENT)).then(() => (sound = true), ignore)
          throw error
        }
        const results = await inTime(
          multi.exec().catch((error: unknown) => {
            if (isWatchError(error)) return null
            throw error
          }),
          () => new ErrUnknown(`it may have happened: ${SILENT}`, { reason: SILENT }),
        )
        if (results === null) continue
        sound = true
        return results as Exclude<Awaited<ReturnType<Multi['exec']>>, null>
      }
    } catch (error) {
      sound ||= error instanceof ErrNotHeld
      throw withoutCredentials(error)
    } finally {
      busy.delete(connection)
      if (!sound) dropPrivate(connection)
    }
  }

  #checked(): readonly GuardedTerm[] {
    if (this.#terms.length === 0) {
      throw new ErrTrapdoor('nothing to guard yet: pass this RedisGuard to token.check() first')
    }
    return this.#terms
  }
}

/** The connection may be dead without a word, and then no transaction would ever pass again. */
const SILENT = `the server gave no answer within ${LONGEST_DEADLINE_MS} ms over the connection for transactions`

/** What the work resolves with, or this error when it takes longer than any request may. */
function inTime<T>(work: Promise<T>, silence: () => Error): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = systemClock.setTimer(LONGEST_DEADLINE_MS, () => reject(silence()))
    work.then(resolve, reject).finally(() => timer.cancel())
  })
}

/** Connections on which a transaction of ours is under way. */
const busy = new WeakSet<object>()

/** With what begins what is stored of this term, and of no other (`script.ts`). */
function beginningOf({ fencingToken }: GuardedTerm): string {
  return `${fencingToken}|`
}

/** Scripts made lately, by the caller's text, for each number of terms and database: making a digest costs most of what `run` does here. */
const made = new Map<string, Map<string, Script>>()
const MOST_MADE = 256

/**
 * KEYS: leases, then the caller's. ARGV: how what is stored of each must begin, then the caller's. Ours are taken out before
 * the caller's script begins. All of ours is on the first line: what the server says about lines of the script is true of the caller's
 * own. A server whose memory is full denies the SETRANGE as well; the caller's script may want none.
 *
 * Answers { the caller's answer }; or, where nothing is run, which term does not stand. This is no error: errors are not marked.
 */
function guarded({ length: terms }: readonly GuardedTerm[], lua: string, database: number | undefined): Script {
  const kind = `${terms} ${database}`
  const scripts = made.get(kind) ?? new Map<string, Script>()
  made.set(kind, scripts)
  const known = scripts.get(lua)
  if (known !== undefined) return known
  const select = database === undefined ? '' : selecting(database)
  const denied = `local function denied(reply) local why = type(reply) == 'table' and reply.err if why and string.find(why, 'OOM', 1, true) ~= 1 then return redis.error_reply('LEASEDENIED ' .. why) end end`
  const ask = `local no = denied(redis.pcall('SETRANGE', KEYS[1], 0, '')) if no then return no end`
  const look = `local stored = redis.pcall('GET', KEYS[i]) no = denied(stored) if no then return no end if not stored or string.sub(stored, 1, #ARGV[i]) ~= ARGV[i] then return i end`
  const shift = `table.remove(KEYS, 1) table.remove(ARGV, 1)`
  const ours = `${select} do ${denied} ${ask} for i = 1, ${terms} do ${look} end for i = 1, ${terms} do ${shift} end end`
  const fresh = script(
    `${ours} local function body(...) ${lua}\nend local answer = body() if type(answer) == 'table' and answer.err then return answer end return { answer }`,
  )
  if (scripts.size >= MOST_MADE) scripts.clear()
  scripts.set(lua, fresh)
  return fresh
}

/** @throws ErrNotHeld a term does not stand */
function answered(answer: unknown, terms: readonly GuardedTerm[]): unknown {
  if (!Array.isArray(answer)) throw notHeld(terms[Number(answer) - 1] as GuardedTerm)
  return answer.length === 0 ? null : (answer[0] as unknown)
}

/** What a failed script of ours says about these terms; what the caller's script or the driver threw, as it is. */
function whatItSays(error: unknown, terms: readonly GuardedTerm[]): unknown {
  withoutCredentials(error)
  const message: unknown = (error as { message?: unknown } | null)?.message
  if (typeof message !== 'string') return error
  if (/^MOVED \d/.test(message)) {
    const remedy = 'pass the Cluster to run(), or the node of the slot to transaction()'
    return trapdoor(`the lease is on another node of the Cluster: ${remedy}`, terms, error)
  }
  const denied = /^LEASEDENIED (.*)$/s.exec(message)?.[1] ?? (message.startsWith('DATABASE ') ? message : undefined)
  if (denied === undefined) return message.startsWith('CROSSSLOT') ? explained(error) : error
  return trapdoor(`the guard could not look: ${explained(new Error(denied)).message}`, terms, error)
}

async function watch(given: unknown, terms: readonly GuardedTerm[]): Promise<void> {
  if (isValkeyGlide(given)) throw trapdoor(NOT_WATCHED, terms)
  const connection = asIoredis(given) as RedisPrivateConnection
  checkWatchable(connection, terms)
  const keys = keysFor(connection, terms)
  const look = async (database?: number): Promise<void> => {
    answered(await evaluate(connection, guarded(terms, '', database), keys, terms.map(beginningOf)), terms)
  }
  try {
    // Sent together: one connection answers in the order in which it was asked, so the look comes after WATCH.
    const [watching] = await Promise.all([connection.watch(...keys), look()])
    if (watching === 'OK') return
    throw trapdoor(`the connection is not one of its own: it answered ${saidBy(watching)} to WATCH`, terms)
  } catch (error) {
    await connection.unwatch().catch(ignore)
    if (error instanceof NoAnswer)
      throw trapdoor(`the connection is not one of its own: ${error.message}`, terms, error)
    if (!(error instanceof ErrNotHeld)) throw whatItSays(error, terms)
    // Not where the connection is. It may be in another database than it was asked to use.
    const database = databaseIn(terms)
    if (database === undefined) throw error
    const elsewhere = await look(database).then(
      () => 'is not there',
      (again: unknown) => (again instanceof ErrNotHeld ? undefined : 'may not go there'),
    )
    if (elsewhere === undefined) throw error
    throw trapdoor(`the lease is in database ${database}, and the connection ${elsewhere}`, terms, error)
  }
}

/** @throws ErrTrapdoor this connection would not keep what it promises by WATCH */
function checkWatchable(connection: RedisPrivateConnection, terms: readonly GuardedTerm[]): void {
  if (!hasMethods(connection, 'watch', 'unwatch', 'eval', 'evalsha') || isPipeline(connection)) {
    throw notUnderstood(
      terms,
      'pass a RedisGuard, or a connection of its own to be watched (a Redis of ioredis, a client of node-redis)',
    )
  }
  if (connection.isCluster === true) {
    throw trapdoor('a Cluster cannot be watched: use run(), or transaction() with the node of the slot', terms)
  }
  // After a reconnection EXEC would be sent by a connection that watches nothing.
  if (typeof connection.options?.retryStrategy === 'function') {
    throw trapdoor(
      'this connection reconnects by itself and would then forget what it watched: pass one of its own, redis.duplicate({ retryStrategy: null })',
      terms,
    )
  }
}

/** The later term of the same lease, of the same holder in the same place, takes the place of this one. Everything else is demanded. */
function isReplaced(one: GuardedTerm, by: GuardedTerm): boolean {
  return (
    one.key === by.key &&
    one.holder === by.holder &&
    one.database === by.database &&
    one.place === by.place &&
    one.fencingToken <= by.fencingToken
  )
}

/** Where all of these are; undefined: where the connection is. */
function databaseIn(terms: readonly GuardedTerm[]): number | undefined {
  return terms.find(({ database }) => database !== undefined)?.database
}

/** @throws ErrTrapdoor one of them is certainly not where this connection is */
function keysFor(connection: RedisScripting, terms: readonly GuardedTerm[]): string[] {
  const keys = terms.map((term) => keyFor(connection, term))
  const databases = new Set(terms.map(({ database }) => database).filter((database) => database !== undefined))
  if (databases.size > 1) {
    const names = [...databases].join(' and ')
    throw trapdoor(`the leases are in databases ${names}, and a guard looks in one: use a guard for each`, terms)
  }
  return keys
}

/** The name to give to this connection, which may put a prefix of its own in front. */
function keyFor(connection: RedisScripting, term: GuardedTerm): string {
  const { key, database } = term
  const here = databaseOf(connection)
  if (here !== undefined && database !== undefined && here !== database) {
    throw trapdoor(
      `the lease is in database ${database}, and the connection is in ${here}: pass one with that \`db\``,
      [term],
    )
  }
  const prefix = connection.options?.keyPrefix ?? ''
  if (key.startsWith(prefix)) return key.slice(prefix.length)
  throw trapdoor(
    `the keyPrefix of this connection, "${prefix}", is not the one of the connection that the lease was claimed with`,
    [term],
  )
}

function notUnderstood(terms: readonly GuardedTerm[], remedy: string): ErrTrapdoor {
  return trapdoor(`this key is not understood: ${remedy}`, terms)
}

function trapdoor(message: string, [term]: readonly GuardedTerm[], cause?: unknown): ErrTrapdoor {
  return new ErrTrapdoor(message, { lease: term?.lease, holder: term?.holder, ...(cause !== undefined && { cause }) })
}

function ignore(): void {}
