/**
 * Scripts on the caller's connection, and what is done when it falls silent.
 *
 *     asked, and no answer for a quarter of a second ──▶ asked for a sign of life: a Cluster may keep a request and ask again
 *     none for another quarter                       ──▶ a connection made as it was, twice a second, until one answers
 *                                                    ──▶ that one is used, until it ends or is silent in turn
 *
 * A host that vanished and a server that hangs close no connection, and a driver without a time-out for silence stays with it for
 * many minutes. The caller's connection is left alone all the same: others use it, and what they have sent might be sent twice
 * if it were cut. What we have sent over it may still be executed, at most once and only before its deadline: each request says
 * until when (`redis-substrate.ts`).
 *
 * A late answer of the caller's connection does not call us back to it once another one is in use: behind Sentinels it may lead
 * to a former master. What makes a connection as the caller's was asks the Sentinels, the name server, and the options, again.
 */
import { hasMethods, type Clock } from 'lease-core'
import type { Call } from 'lease-core/adapter'
import { evaluate, isOfSetUp, isReply, NoAnswer } from './connection.ts'
import type { RedisConnection, RedisScripting } from './driver.ts'
import { overrides } from './listener.ts'
import { script, type Script } from './script.ts'

/** How long it may be silent before it is asked for a sign of life; another one is tried after twice as long, and as often. */
const SILENCE_MS = 250
/** An attempt has so long, and so many are under way at most: each gets longer than a slow network needs. */
const ATTEMPT_MS = 3_000
const MOST_ATTEMPTS = 6

/** A connection of ours. */
export interface StandIn extends RedisScripting {
  disconnect(): void
  on(event: 'error' | 'end', listener: (error?: Error) => void): unknown
}

const probe: Script = script(`return redis.call('TIME')`)

const known = new WeakMap<RedisConnection, SteadyConnection>()

export class SteadyConnection {
  readonly #redis: RedisConnection
  readonly #clock: Clock
  /** Makes a connection as the caller's, which does not show how. */
  #another: (() => StandIn) | undefined
  /** Substrates that use it. */
  #users = 0
  /** In use instead of the caller's. */
  #standIn: StandIn | undefined
  readonly #attempts = new Set<StandIn>()
  /** What was wrong with the last connection that was tried; undefined: nothing since the last answer. */
  #trouble: unknown
  /** Rejects what has no answer yet. */
  readonly #waiting = new Set<(why: Error) => void>()
  #answers = 0
  #asked = false
  /** For so many periods nothing was answered. */
  #silence = 0
  #cancel: (() => void) | undefined

  /**
   * The one for this connection: all substrates over it share it.
   *
   * @param another makes a connection as this one, which does not show how
   */
  static over(redis: RedisConnection, clock: Clock, another?: () => StandIn): SteadyConnection {
    const steady = known.get(redis) ?? new SteadyConnection(redis, clock)
    steady.#another ??= another
    known.set(redis, steady)
    steady.#users++
    return steady
  }

  private constructor(redis: RedisConnection, clock: Clock) {
    this.#redis = redis
    this.#clock = clock
    // Closed by its owner: then so is what was made after it.
    if (hasMethods(redis, 'on')) (redis as unknown as StandIn).on('end', () => this.#dispose())
  }

  /**
   * Runs the script where answers can be expected.
   *
   * @throws what the driver throws; or, where another connection is used from now on, an error that says so: it may have run
   */
  run(
    wanted: Script,
    keys: readonly string[],
    args: readonly (string | number)[],
    call: Call | undefined,
  ): Promise<unknown> {
    const connection = this.#standIn ?? this.#redis
    return new Promise((resolve, reject) => {
      this.#waiting.add(reject)
      call?.onAbort?.(() => this.#waiting.delete(reject))
      this.#asked = true
      if (this.#cancel === undefined) this.#listen(keys[0] ?? '')
      evaluate(connection, wanted, keys, args).then(
        (answer) => {
          this.#heard(reject)
          resolve(answer)
        },
        (error: unknown) => {
          if (isReply(error)) this.#heard(reject)
          else this.#waiting.delete(reject)
          if (error instanceof NoAnswer && error.isOutOfStep) this.#replace(connection, keys[0] ?? '')
          reject(error)
        },
      )
    })
  }

  /** Why nothing is answered, as far as the attempts to connect have shown. */
  get trouble(): unknown {
    return this.#trouble
  }

  /** To be called once for each `over`. */
  close(): void {
    if (--this.#users === 0) this.#dispose()
  }

  #heard(request: (why: Error) => void): void {
    this.#answers++
    this.#trouble = undefined
    if (this.#waiting.delete(request) && this.#waiting.size === 0) this.#stopListening()
    if (this.#attempts.size > 0) this.#abandon()
  }

  /** Until nothing is asked any more. */
  #listen(key: string): void {
    const answers = this.#answers
    this.#asked = false
    const timer = this.#clock.setTimer(SILENCE_MS, () => {
      this.#cancel = undefined
      if (this.#waiting.size === 0 && !this.#asked) return this.#stopListening()
      this.#silence = answers === this.#answers ? this.#silence + 1 : 0
      if (this.#silence === 1) this.#ask(key)
      else if (this.#silence > 1 && this.#silence % 2 === 0) this.#attempt(key)
      this.#listen(key)
    })
    this.#cancel = () => timer.cancel()
  }

  #stopListening(): void {
    this.#cancel?.()
    this.#cancel = undefined
    this.#silence = 0
  }

  /** Asks the connection in use for a sign of life. */
  #ask(key: string): void {
    const connection = this.#standIn ?? this.#redis
    const alive = (): void => {
      if (connection !== (this.#standIn ?? this.#redis)) return
      this.#answers++
      this.#abandon()
    }
    evaluate(connection, probe, [key], []).then(alive, (error: unknown) => {
      if (isReply(error)) alive()
    })
  }

  /** It gives each request the answer to another one, until it connects again. */
  #replace(connection: RedisScripting, key: string): void {
    if (connection === (this.#standIn ?? this.#redis) && this.#attempts.size === 0) this.#attempt(key)
  }

  #attempt(key: string): void {
    if (this.#attempts.size >= MOST_ATTEMPTS) return
    const attempt = this.#another === undefined ? standInFor(this.#redis) : this.#another()
    if (attempt === undefined) return
    this.#attempts.add(attempt)
    const giveUp = (): void => {
      if (this.#attempts.delete(attempt)) attempt.disconnect()
    }
    const timer = this.#clock.setTimer(ATTEMPT_MS, giveUp)
    attempt.on('error', (error) => this.#failed(error)) // what was asked rejects as well
    attempt.on('end', () => {
      timer.cancel()
      this.#attempts.delete(attempt)
      if (this.#standIn === attempt) this.#standIn = undefined
    })
    evaluate(attempt, probe, [key], []).then(() => {
      timer.cancel()
      if (this.#attempts.delete(attempt)) this.#use(attempt)
    }, giveUp)
  }

  #use(standIn: StandIn): void {
    this.#abandon()
    const former = this.#standIn
    this.#standIn = standIn
    former?.disconnect()
    this.#answers++
    for (const reject of this.#waiting) reject(new Error('no answer over this connection: another one was opened'))
    this.#waiting.clear()
  }

  /** What comes back until somebody changes the set-up is no reason to wait: a Cluster would keep what is asked, and ask for ever. */
  #failed(error: unknown): void {
    this.#trouble = error
    if (!isOfSetUp(error)) return
    for (const reject of this.#waiting) reject(error as Error)
    this.#waiting.clear()
  }

  #abandon(): void {
    const attempts = [...this.#attempts]
    this.#attempts.clear()
    for (const attempt of attempts) attempt.disconnect()
  }

  #dispose(): void {
    this.#stopListening()
    this.#abandon()
    this.#standIn?.disconnect()
    this.#standIn = undefined
  }
}

/** Made as this one was; undefined where it does not show how, or was closed by its owner. */
function standInFor(redis: RedisConnection): StandIn | undefined {
  const { status } = redis as { readonly status?: unknown }
  if (status === 'end' || !hasMethods(redis, 'duplicate')) return undefined
  try {
    if (!('nodes' in redis)) return redis.duplicate(overrides) as unknown as StandIn
    const cluster = redis as unknown as { duplicate(nodes: readonly never[], options: object): StandIn }
    return cluster.duplicate([], { clusterRetryStrategy: () => null, lazyConnect: true })
  } catch {
    return undefined
  }
}
