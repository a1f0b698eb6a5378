/**
 * Trapdoor keys: "this very term still stands" in one step with the caller's own writes.
 *
 * - *A script* (`RedisGuard.run`): checked and run in one step of the server. Promise: the script ran while the term
 *   stood by the server's clock.
 * - *A transaction* (`RedisGuard.transaction`, or a connection as key): WATCH, then a look at the lease, then the caller's
 *   MULTI … EXEC, which Redis drops if the lease changed in between, or lapsed. The look is needed: what was gone when
 *   WATCH came is not missed by EXEC. A mere renewal makes it drop as well, and it has to be tried again.
 *
 * A connection that reconnects forgets what it watched and then sends EXEC all the same, so only one that does not
 * reconnect may be a key. A term is recognised by its fencing token, with which what is stored begins (`script.ts`).
 *
 * A failover that loses the last writes of the old master loses grants and guarded writes alike; no check in Redis can
 * see that. Keep the fencing token beside your data, and refuse a lower one, where that matters.
 */
import { ErrNotHeld, ErrTrapdoor, hasMethods, notValid, type Trapdoor } from 'lease-core'
import { evaluate, explained } from './connection.ts'
import type { RedisPrivateConnection, RedisScripting, RedisTransactional } from './driver.ts'
import { script, type Script } from './script.ts'

/** One term of one lease, and where to look for it. */
export interface GuardedTerm {
  /** As the server sees it. */
  readonly key: string
  readonly lease: string
  readonly holder: string
  readonly fencingToken: bigint
}

/** Understands a `RedisGuard`, and a connection for WATCH. */
export function redisTrapdoor(term: GuardedTerm): Trapdoor {
  return async (key) => {
    if (key === undefined) return
    if (isTermCollector(key)) key[ADD_TERM](term)
    else if (hasMethods(key, 'watch', 'unwatch', 'get')) await watch(key as RedisPrivateConnection, [term])
    else {
      throw new ErrTrapdoor(
        'this key is not understood: pass a RedisGuard, or a connection of its own to be watched (a Redis of ioredis)',
        { lease: term.lease, holder: term.holder },
      )
    }
  }
}

/**
 * The method by which a guard is given a term. Registered, so that two copies of this package know each other's guards. The
 * number rises when `GuardedTerm` changes its shape.
 */
const ADD_TERM = Symbol.for('lease-redis.RedisGuard/1')

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
 * Checked by several tokens it demands all of these terms at once. It may be used as often as one likes; each time it
 * looks anew.
 */
export class RedisGuard {
  /** One of each lease. Replaced, never changed: a run under way keeps those it began with. */
  #terms: readonly GuardedTerm[] = []

  static {
    const addTerm = function (this: RedisGuard, term: GuardedTerm): void {
      const terms = this.#terms
      this.#terms = terms.length === 0 ? [term] : [...terms.filter(({ key }) => key !== term.key), term]
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
   * @throws ErrTrapdoor before the first check, or the connection cannot reach the lease's key
   * @throws what the script or the driver throws, as it is
   */
  async run(
    redis: RedisScripting,
    lua: string,
    keys: readonly string[] = [],
    args: readonly (string | Buffer | number)[] = [],
  ): Promise<unknown> {
    const terms = this.#checked()
    if (typeof lua !== 'string' || lua.startsWith('#!')) {
      throw notValid([{ argument: 'lua', rule: 'must be a script without a #! line', value: lua }])
    }
    const allKeys = [...terms.map((term) => keyFor(redis, term)), ...keys]
    const allArgs = [...terms.map(beginningOf), ...args]
    try {
      return await evaluate(redis, guarded(terms.length, lua), allKeys, allArgs)
    } catch (error) {
      const { message } = error as { message?: unknown }
      const lost = typeof message === 'string' ? /^LEASELOST (\d+)$/.exec(message)?.[1] : undefined
      if (lost !== undefined) throw notHeld(terms[Number(lost) - 1] as GuardedTerm)
      throw typeof message === 'string' && message.startsWith('CROSSSLOT') ? explained(error) : error
    }
  }

  /**
   * Makes the connection's next EXEC depend on every term checked; if they stand by then, and nothing about them has
   * changed since, it writes. An EXEC that answers null has written nothing: watch again, which tells a renewal from a
   * loss. `transaction` does all that.
   *
   * @throws ErrNotHeld a term does not stand; nothing is watched
   * @throws ErrTrapdoor before the first check, or not a connection that can be watched
   */
  async watch(connection: RedisPrivateConnection): Promise<void> {
    await watch(connection, this.#checked())
  }

  /**
   * Runs one transaction that is written only if every term checked stands at its EXEC, and returns what EXEC answered:
   *
   *     const connection = redis.duplicate({ retryStrategy: null })
   *     await guard.transaction(connection, (multi) => void multi.set('{orders}:total', 42))
   *
   * `body` queues the commands, and is called again when the lease was renewed meanwhile. One transaction at a time on a
   * connection.
   *
   * @throws ErrNotHeld a term does not stand; nothing was written
   * @throws ErrTrapdoor before the first check, or not a connection that can be watched
   * @throws what the body or the driver throws, as it is; where EXEC's answer is lost it may have been written
   */
  async transaction<Multi extends { exec(): Promise<unknown> }>(
    connection: RedisTransactional<Multi>,
    body: (multi: Multi) => unknown,
  ): Promise<Exclude<Awaited<ReturnType<Multi['exec']>>, null>> {
    const terms = this.#checked()
    if (busy.has(connection)) throw new ErrTrapdoor('another transaction is under way on this connection')
    busy.add(connection)
    try {
      for (;;) {
        await watch(connection, terms)
        const multi = connection.multi()
        try {
          await body(multi)
        } catch (error) {
          await connection.unwatch()
          throw error
        }
        const results = await multi.exec()
        if (results !== null) return results as Exclude<Awaited<ReturnType<Multi['exec']>>, null>
      }
    } finally {
      busy.delete(connection)
    }
  }

  #checked(): readonly GuardedTerm[] {
    if (this.#terms.length === 0) {
      throw new ErrTrapdoor('nothing to guard yet: pass this RedisGuard to token.check() first')
    }
    return this.#terms
  }
}

/** Connections on which a transaction of ours is under way. */
const busy = new WeakSet<object>()

/** With what begins what is stored of this term, and of no other (`script.ts`). */
function beginningOf({ fencingToken }: GuardedTerm): string {
  return `${fencingToken}|`
}

/** Scripts made lately, by the caller's text, for each number of terms: a digest is dearer than all else that `run` does here. */
const made: Map<string, Script>[] = []
const MOST_MADE = 256

/**
 * KEYS: leases, then the caller's. ARGV: how what is stored of each must begin, then the caller's. Ours are taken out before
 * his script begins. All of ours is on the first line: what the server says about lines of the script is true of the caller's
 * own.
 */
function guarded(terms: number, lua: string): Script {
  const scripts = (made[terms] ??= new Map<string, Script>())
  const known = scripts.get(lua)
  if (known !== undefined) return known
  const check = `local stored = redis.call('GET', KEYS[i]) if not stored or string.sub(stored, 1, #ARGV[i]) ~= ARGV[i] then return redis.error_reply('LEASELOST ' .. i) end`
  const shift = `table.remove(KEYS, 1) table.remove(ARGV, 1)`
  const fresh = script(`for i = 1, ${terms} do ${check} end for i = 1, ${terms} do ${shift} end ${lua}`)
  if (scripts.size >= MOST_MADE) scripts.clear()
  scripts.set(lua, fresh)
  return fresh
}

async function watch(connection: RedisPrivateConnection, terms: readonly GuardedTerm[]): Promise<void> {
  checkWatchable(connection, terms)
  const keys = terms.map((term) => keyFor(connection, term))
  // Sent together: one connection answers in the order in which it was asked, so the looks come after WATCH.
  const [, ...looks] = await Promise.all([connection.watch(...keys), ...keys.map((key) => connection.get(key))])
  for (const [index, term] of terms.entries()) {
    if (looks[index]?.startsWith(beginningOf(term)) === true) continue
    await connection.unwatch()
    throw notHeld(term)
  }
}

/** @throws ErrTrapdoor this connection would not keep what it promises by WATCH */
function checkWatchable({ isCluster, options }: RedisPrivateConnection, [term]: readonly GuardedTerm[]): void {
  const { lease, holder } = term ?? {}
  if (isCluster === true) {
    throw new ErrTrapdoor('a Cluster cannot be watched: pass a connection to the node of the slot, or use run()', {
      lease,
      holder,
    })
  }
  // After a reconnection EXEC would be sent by a connection that watches nothing.
  if (typeof options?.retryStrategy === 'function') {
    throw new ErrTrapdoor(
      'this connection reconnects by itself and would then forget what it watched: pass one of its own, redis.duplicate({ retryStrategy: null })',
      { lease, holder },
    )
  }
}

/** The name to give to this connection, which may put a prefix of its own in front. */
function keyFor({ options }: Pick<RedisScripting, 'options'>, { key, lease, holder }: GuardedTerm): string {
  const prefix = options?.keyPrefix ?? ''
  if (key.startsWith(prefix)) return key.slice(prefix.length)
  throw new ErrTrapdoor(
    `the keyPrefix of this connection, "${prefix}", is not the one of the connection that the lease was claimed with`,
    { lease, holder },
  )
}

function notHeld({ lease, holder, fencingToken }: GuardedTerm): ErrNotHeld {
  return new ErrNotHeld(`"${holder}" does not hold lease "${lease}" with fencing token ${fencingToken}`, {
    lease,
    holder,
  })
}
