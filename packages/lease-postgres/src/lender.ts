/**
 * Connections on loan: from the pool, or made beside it while it gives none; and which of them may be dead.
 *
 * - After a failover, idle connections may be dead without a word, while new ones work at once. So when a call was given up, the
 *   connections that have not been heard of since it was sent are closed instead of used.
 * - A call that was given up leaves a connection on which an answer may still come. Closing it at once makes a slow machine slower,
 *   so a few are kept for a moment: most answer, and go back to the pool. What does not answer is cancelled and closed.
 * - A pool may give nothing for long: others have all of its connections, or the attempts to make one hang. A lease must not lapse for
 *   that, so after half of its time-out a call makes a connection of its own, with the hooks of the pool. Where these cannot be run,
 *   or do not end in time, it makes none: in another role or search_path it might find other leases, or none.
 */
import { hasMethods, notValid, systemClock, type Timer } from 'lease-core'
import { cancel } from './cancel.ts'
import type { PostgresPool, PostgresPoolClient } from './driver.ts'
import { runHooks, showsHooks, tellRemoved } from './pool-hooks.ts'

/** After a call was given up: for so long, a connection that this process has not seen before may have been idle at that time. */
const SUSPICION_MS = 60_000
/** How long a connection is kept on which an answer is overdue. */
const KEPT_MS = 2_000
/** Of the pool's connections, the part that may be kept. */
const KEPT_PART = 4
/** How long a pool is waited for that has given nothing of late. */
const STUCK_MS = 50
/** Connections beside the pool at once. */
const MOST_BESIDE = 2

const lenders = new WeakMap<PostgresPool, Lender>()

const ignore = (): void => {}

export class Lender {
  readonly #pool: PostgresPool
  /** When the latest call was sent that was given up, while nothing has shown that the way to the server is fine. */
  #givenUpMs: number | undefined
  /** When each connection was made, or answered last. */
  readonly #heardMs = new WeakMap<object, number>()
  /** Connections that the pool has made, and lent to nobody yet; and those that it has lent for the first time. */
  readonly #justMade = new WeakSet<object>()
  readonly #new = new WeakSet<object>()
  #kept = 0
  #beside = 0
  /** It gave nothing in time, and has given nothing since. */
  #isStuck = false

  /** The one of this pool. */
  static of(pool: PostgresPool): Lender {
    let lender = lenders.get(pool)
    if (lender === undefined) lenders.set(pool, (lender = new Lender(pool)))
    return lender
  }

  /**
   * Listens to the pool, and to each connection that it makes from then on, so that what breaks ends no process: an idle connection
   * makes the pool emit `error`, when the pool has dropped it already; one that the server ends with its greeting emits `error`
   * before the borrower can listen.
   */
  private constructor(pool: PostgresPool) {
    this.#pool = pool
    pool.on?.('error', ignore)
    pool.on?.('connect', (client) => {
      if (!hasMethods(client, 'query')) return
      this.heard(client)
      client.on?.('error', ignore)
      this.#justMade.add(client)
    })
    pool.on?.('acquire', (client) => {
      if (!hasMethods(client, 'query')) return
      if (this.#justMade.delete(client)) this.#new.add(client)
      else this.#new.delete(client)
    })
  }

  /** Whether nobody has had this connection before: what it is like is not what somebody has left. */
  isNew({ client }: Loan): boolean {
    return this.#new.has(client)
  }

  /**
   * @param timeoutMs after half of it a connection is made beside the pool, where the pool shows how it makes its own; sooner while
   *   the pool gives nothing
   * @param isWanted whether anybody still waits
   */
  lend(timeoutMs: number | undefined, isWanted: () => boolean): Promise<Loan> {
    const lent = Promise.resolve(this.#pool.connect())
    const { Client, options, idleCount = 0 } = this.#pool
    if (
      timeoutMs === undefined ||
      idleCount > 0 ||
      Client === undefined ||
      options === undefined ||
      !showsHooks(this.#pool)
    ) {
      return lent.then((client) => new Loan(this, client))
    }
    return new Promise((resolve, reject) => {
      let isOver = false
      const take = (loan: Loan): void => {
        timer.cancel()
        if (isOver) return void loan.giveBack(false)
        isOver = true
        resolve(loan)
      }
      const halfMs = timeoutMs / 2
      const timer = systemClock.setTimer(this.#isStuck ? Math.min(STUCK_MS, halfMs) : halfMs, () => {
        this.#isStuck = true
        if (isWanted()) this.#makeOne(halfMs).then(take, ignore)
      })
      lent
        .then((client) => {
          this.#isStuck = false
          return new Loan(this, client)
        })
        .then(take, (error: unknown) => {
          timer.cancel()
          isOver = true
          reject(error)
        })
    })
  }

  /** Whether this connection was idle when a call was given up, and has not been heard of since. */
  mayBeDead({ client }: Loan): boolean {
    if (this.#givenUpMs === undefined) return false
    const heardMs = this.#heardMs.get(client)
    if (heardMs !== undefined) return heardMs < this.#givenUpMs
    return this.#pool.on !== undefined && systemClock.monotonic() - this.#givenUpMs < SUSPICION_MS
  }

  /** This connection works. */
  heard(client: object): void {
    this.#heardMs.set(client, systemClock.monotonic())
  }

  /** A call that was sent then is given up. */
  gaveUp(sentMs: number): void {
    this.#givenUpMs = sentMs
  }

  /** An answer came that had been given up: it was slow, and nothing is dead. */
  answeredLate(): void {
    this.#givenUpMs = undefined
  }

  /** Whether one more connection may be kept; `leave` when it is no longer. */
  keep(): boolean {
    if (this.#kept >= Math.floor((this.#pool.options?.max ?? 0) / KEPT_PART)) return false
    this.#kept++
    return true
  }

  leave(): void {
    this.#kept--
  }

  async #makeOne(timeoutMs: number): Promise<Loan> {
    const { Client, options } = this.#pool
    if (Client === undefined || options === undefined || this.#beside >= MOST_BESIDE) throw new Error('none')
    this.#beside++
    // The pool's options have a password that is not enumerable.
    const own = Object.getOwnPropertyDescriptors(options)
    const connectionTimeoutMillis = { value: Math.ceil(timeoutMs), enumerable: true }
    const client = new Client(Object.defineProperties({}, { ...own, connectionTimeoutMillis }) as never)
    let isGreeted = false
    let isOver = false
    const end = (): void => {
      if (isOver) return
      isOver = true
      this.#beside--
      client.end().catch(ignore)
      if (isGreeted) tellRemoved(this.#pool, client)
    }
    client.on('error', ignore)
    const lent = Object.assign(client as unknown as PostgresPoolClient, { release: end })
    const greet = async (): Promise<void> => {
      await client.connect()
      if (isOver) return
      isGreeted = true
      await runHooks(this.#pool, client)
    }
    try {
      await within(timeoutMs, greet())
    } catch (error) {
      end()
      throw error
    }
    this.heard(client)
    return new Loan(this, lent)
  }
}

/** @throws when it lasts longer; also what it throws */
function within(timeoutMs: number, work: Promise<void>): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = systemClock.setTimer(timeoutMs, () => reject(new Error('a hook of the pool does not end')))
    work.then(resolve, reject).finally(() => timer.cancel())
  })
}

/** A connection on loan. */
export class Loan {
  readonly client: PostgresPoolClient
  readonly #lender: Lender
  #kept: Timer | undefined
  #isOver = false

  /** @throws ErrNotValid what the pool has given is not a connection on loan */
  constructor(lender: Lender, client: PostgresPoolClient) {
    if (!hasMethods(client, 'query', 'release')) {
      const rule = 'must be a pool, whose connect() resolves to a connection with query and release'
      throw notValid([{ argument: 'pool', rule, value: client }])
    }
    this.#lender = lender
    this.client = client
    // A connection on loan that breaks emits `error`; whatever it was doing rejects as well, which is enough.
    client.on?.('error', ignore)
  }

  /** Only the first time counts. Returns whether this is it. */
  giveBack(destroy: boolean): boolean {
    if (this.#isOver) return false
    this.#isOver = true
    if (this.#kept !== undefined) {
      this.#kept.cancel()
      this.#lender.leave()
    }
    this.client.release(destroy)
    // One that is destroyed may break once more before it is gone.
    if (!destroy) this.client.removeListener?.('error', ignore)
    return true
  }

  /** The call that uses it, sent then, is given up. It may be given back later, when the answer comes after all. */
  abandon(sentMs: number, { mayKeep }: { readonly mayKeep: boolean }): void {
    if (this.#isOver) return
    this.#lender.gaveUp(sentMs)
    if (mayKeep && this.#lender.keep()) this.#kept = systemClock.setTimer(KEPT_MS, () => this.#cancel())
    else this.#cancel()
  }

  #cancel(): void {
    cancel(this.client)
    this.giveBack(true)
  }
}
