/**
 * Receives hints over a separate connection, which is open while there is a listener. For adapters: keeps that connection alive.
 *
 *     connect ──resync──▶ listening ──ended, or no answer to a ping──▶ pause ──▶ connect …
 *
 * The pause doubles each time, up to five seconds, until a connection has lasted for some time. So a connection that is accepted and dropped
 * again and again does not make all listeners read all the time.
 *
 * No store replays hints, so every new connection begins with `resync`. A silent connection is pinged, because NAT, a load balancer or a lost
 * host may drop idle connections without notice. Only hints depend on this connection: without them, waiters use timers.
 */
import type { LeaseChange } from './client.ts'
import { sleep, type Clock } from './clock.ts'
import { reasonOf } from './errors.ts'
import type { SubstrateWarning } from './substrate.ts'

/** An open connection over which hints certainly arrive. */
export interface HintConnection {
  /** Settles when the connection has ended, for any reason. */
  readonly ended: Promise<unknown>
  /** Settles, in either way, when the server has answered. */
  ping(): Promise<unknown>
  /** Closes the connection, if necessary without the protocol's goodbye. Rejections are ignored. */
  close(): Promise<unknown> | void
}

/**
 * Opens a connection, and resolves when hints certainly arrive over it. When `signal` aborts, it must free what it opened, at once or when it
 * is ready.
 */
export type OpenHintConnection = (tell: (change: LeaseChange) => void, signal: AbortSignal) => Promise<HintConnection>

/** What a HintStream needs. */
export interface HintStreamOptions {
  /** Opens one connection. */
  readonly connect: OpenHintConnection
  /** For pauses and pings. */
  readonly clock: Clock
  /**
   * Called after each failed attempt, with the error and the number of failures in a row. A connection that did not last counts as failed.
   *
   * @default does nothing
   */
  readonly failed?: ((error: unknown, attempts: number) => void) | undefined
}

/** How many failures in a row to tolerate: about two seconds, as in a restart of the server. */
const MANY_ATTEMPTS = 5

/** Makes a `failed` callback that warns after five failures in a row, and again only after hints have worked in between. */
export function warnOfNoHints(
  warn: (warning: SubstrateWarning) => void,
  explained: (error: unknown) => unknown,
): (error: unknown, attempts: number) => void {
  return (error, attempts) => {
    if (attempts !== MANY_ATTEMPTS) return
    warn({
      warning: 'no-hints',
      message: `The connection that hears of vacated leases has failed ${attempts} times in a row (${reasonOf(explained(error))}). It is tried again. Until it works, who waits for a lease finds out by timer only.`,
    })
  }
}

/** How long a connection may be silent, and how long connecting may take. */
const HEARTBEAT_MS = 20_000
/** A connection that ends sooner counts as one that failed. */
const LASTING_MS = 20_000
const FIRST_DELAY_MS = 100
const LONGEST_DELAY_MS = 5_000
/** How long `close` waits for a farewell. */
const FAREWELL_MS = 500

/** Passes hints to its listeners, over one connection after another, while there is a listener. */
export class HintStream {
  readonly #connect: OpenHintConnection
  readonly #clock: Clock
  readonly #failed: (error: unknown, attempts: number) => void
  readonly #listeners = new Set<(change: LeaseChange) => void>()
  /** Settles when the connections of earlier watches are closed. */
  #ending: Promise<void> = Promise.resolve()
  #watching: { readonly controller: AbortController; readonly ended: Promise<void> } | undefined

  constructor({ connect, clock, failed = ignore }: HintStreamOptions) {
    this.#connect = connect
    this.#clock = clock
    this.#failed = failed
  }

  /** Adds a listener. The first one opens the connection. Returns a function that removes the listener; the last removal closes it. */
  watch(listener: (change: LeaseChange) => void): () => void {
    const own = (change: LeaseChange): void => listener(change)
    this.#listeners.add(own)
    if (this.#watching === undefined) {
      const controller = new AbortController()
      this.#watching = { controller, ended: this.#run(controller.signal) }
    }
    return () => {
      if (this.#listeners.delete(own) && this.#listeners.size === 0) void this.close()
    }
  }

  /** Removes all listeners, and resolves when the connection is closed, or does not answer in time. Never rejects; idempotent. */
  async close(): Promise<void> {
    this.#listeners.clear()
    const watching = this.#watching
    this.#watching = undefined
    if (watching !== undefined) {
      watching.controller.abort(new Error('nobody watches any more'))
      this.#ending = Promise.all([this.#ending, watching.ended]).then(ignore)
    }
    // Also one that is still being closed since its last listener has left.
    await this.#ending
  }

  /** One connection after the other. Never rejects. */
  async #run(signal: AbortSignal): Promise<void> {
    for (let failures = 0, attempts = 0; !signal.aborted;) {
      const { lasted, error } = await this.#listenOnce(signal)
      if (signal.aborted) return
      failures = lasted ? 1 : failures + 1
      attempts = lasted ? 0 : attempts + 1
      if (!lasted) this.#failed(error, attempts)
      const delayMs = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** (failures - 1)) * (0.5 + Math.random() / 2)
      await sleep(this.#clock, delayMs, signal).catch(ignore)
    }
  }

  /** Listens until the connection ends; returns whether it lasted, and why it ended. Never rejects. */
  async #listenOnce(signal: AbortSignal): Promise<{ readonly lasted: boolean; readonly error: unknown }> {
    const over = new AbortController()
    const ended = new Promise<never>((_resolve, reject) => {
      over.signal.addEventListener('abort', () => reject(over.signal.reason as Error), { once: true })
    })
    ended.catch(ignore)
    let isOver = false // reading it off the signal would be the dearest step of passing on a hint
    const end = (): void => {
      isOver = true
      over.abort(new Error('the connection ended'))
    }
    signal.addEventListener('abort', end, { once: true })
    const tell = (change: LeaseChange): void => {
      if (isOver) return
      for (const listener of [...this.#listeners]) listener(change)
    }
    let connection: HintConnection | undefined
    let finished = false
    let error: unknown
    let sinceMs = Number.POSITIVE_INFINITY
    try {
      const opening = this.#connect(tell, over.signal)
      // Ready too late for anybody to want it: closed as soon as it is there.
      opening.then((opened) => {
        if (finished) void close(opened)
        else connection = opened
      }, ignore)
      if (!(await this.#within(HEARTBEAT_MS, opening, over.signal))) throw new Error('no sign of life')
      const opened = await Promise.race([opening, ended])
      opened.ended.then(end, end)
      sinceMs = this.#clock.monotonic()
      tell({ kind: 'resync' })
      await Promise.race([this.#heartbeat(opened, over.signal), ended])
    } catch (thrown) {
      error = thrown // whatever it was, the answer is a new connection
    }
    signal.removeEventListener('abort', end)
    end()
    finished = true
    const lasted = this.#clock.monotonic() - sinceMs >= LASTING_MS
    if (connection !== undefined) await this.#within(FAREWELL_MS, close(connection))
    return { lasted, error }
  }

  /** Rejects when the connection ends, or gives no sign of life for as long as a heartbeat. */
  async #heartbeat(connection: HintConnection, over: AbortSignal): Promise<never> {
    for (;;) {
      await sleep(this.#clock, HEARTBEAT_MS, over)
      if (!(await this.#within(HEARTBEAT_MS, connection.ping(), over))) throw new Error('no sign of life')
    }
  }

  /** Whether the promise settled within the time, and before the signal aborted. No timer is left behind. */
  #within(ms: number, promise: Promise<unknown>, over?: AbortSignal): Promise<boolean> {
    return new Promise((resolve) => {
      const settle = (inTime: boolean): void => {
        timer.cancel()
        over?.removeEventListener('abort', onAbort)
        resolve(inTime)
      }
      const onAbort = (): void => settle(false)
      const timer = this.#clock.setTimer(ms, onAbort)
      over?.addEventListener('abort', onAbort)
      if (over?.aborted === true) onAbort()
      const onSettled = (): void => settle(true)
      promise.then(onSettled, onSettled)
    })
  }
}

async function close(connection: HintConnection): Promise<void> {
  try {
    await connection.close()
  } catch {
    // it is being thrown away
  }
}

function ignore(): void {}
