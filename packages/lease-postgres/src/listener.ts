/**
 * Hints by LISTEN, on a connection of its own that is open while somebody watches.
 *
 * Nothing is replayed after a connection was lost, so every new one starts with `resync`. A silent connection is asked
 * for a sign of life, because what lies between (NAT, load balancer, a vanished host) forgets idle connections without
 * a word. Hints are all that depends on it: without them waiting works by timer.
 */
import { sleep, type Clock, type LeaseChange } from 'lease-core'
import type { PostgresListenClient } from './driver.ts'
import { quoteIdentifier } from './schema.ts'

/** Makes a connection of its own, not connected yet. */
export type OpenListenClient = () => PostgresListenClient

const HEARTBEAT_MS = 20_000
const FIRST_DELAY_MS = 100
const LONGEST_DELAY_MS = 5_000
/** How long `close` waits for the server to say goodbye. */
const FAREWELL_MS = 500

export class Listener {
  readonly #open: OpenListenClient
  readonly #channel: string
  readonly #clock: Clock
  readonly #listeners = new Set<(change: LeaseChange) => void>()
  #watching: { readonly controller: AbortController; readonly ended: Promise<void> } | undefined

  constructor(open: OpenListenClient, channel: string, clock: Clock) {
    this.#open = open
    this.#channel = channel
    this.#clock = clock
  }

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

  async close(): Promise<void> {
    this.#listeners.clear()
    const watching = this.#watching
    this.#watching = undefined
    watching?.controller.abort(new Error('nobody watches any more'))
    await watching?.ended
  }

  /** One connection after the other. Never rejects. */
  async #run(signal: AbortSignal): Promise<void> {
    for (let failures = 0; !signal.aborted;) {
      failures = (await this.#listenOnce(signal)) ? 1 : failures + 1
      const delayMs = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** (failures - 1)) * (0.5 + Math.random() / 2)
      await sleep(this.#clock, delayMs, signal).catch(ignore)
    }
  }

  /** Listens until the connection ends; returns whether it ever listened. Never rejects. */
  async #listenOnce(signal: AbortSignal): Promise<boolean> {
    let client: PostgresListenClient
    try {
      client = this.#open()
    } catch {
      return false
    }
    const over = new AbortController()
    const ended = new Promise<never>((_resolve, reject) => {
      over.signal.addEventListener('abort', () => reject(over.signal.reason as Error), { once: true })
    })
    ended.catch(ignore)
    const end = (): void => over.abort(new Error('the connection ended'))
    // A connection that breaks emits `error`, sometimes twice, and then `end`.
    client.on('error', end)
    client.on('end', end)
    signal.addEventListener('abort', end, { once: true })
    client.on('notification', ({ payload }) => changesIn(payload).forEach((change) => this.#tell(change)))
    let listened = false
    try {
      const listening = client
        .connect()
        .then(() => client.query({ text: `LISTEN ${quoteIdentifier(this.#channel)}` }))
        .then(() => (listened = true))
      listening.catch(ignore)
      if (!(await Promise.race([this.#within(HEARTBEAT_MS, listening), ended]))) throw new Error('no sign of life')
      await Promise.race([listening, ended])
      this.#tell({ kind: 'resync' })
      await Promise.race([this.#heartbeat(client, over.signal), ended])
    } catch {
      // whatever it was, the answer is a new connection
    }
    signal.removeEventListener('abort', end)
    end()
    await this.#within(
      FAREWELL_MS,
      ended.catch(() => client.end()),
    )
    return listened
  }

  /** Rejects when the connection ends, or gives no sign of life for as long as a heartbeat. */
  async #heartbeat(client: PostgresListenClient, over: AbortSignal): Promise<never> {
    for (;;) {
      await sleep(this.#clock, HEARTBEAT_MS, over)
      if (!(await this.#within(HEARTBEAT_MS, client.query({ text: 'SELECT 1' })))) throw new Error('no sign of life')
    }
  }

  /** Whether the promise settled within the time. */
  #within(ms: number, promise: Promise<unknown>): Promise<boolean> {
    return new Promise((resolve) => {
      const timer = this.#clock.setTimer(ms, () => resolve(false))
      const settled = (): void => {
        timer.cancel()
        resolve(true)
      }
      promise.then(settled, settled)
    })
  }

  #tell(change: LeaseChange): void {
    for (const listener of [...this.#listeners]) listener(change)
  }
}

/** A payload is a JSON array of the names vacated; anything else is not ours to understand, so all may have changed. */
function changesIn(payload: string | undefined): LeaseChange[] {
  try {
    const names: unknown = JSON.parse(payload ?? '')
    if (Array.isArray(names) && names.every((name) => typeof name === 'string')) {
      return names.map((lease) => ({ kind: 'vacated', lease }))
    }
  } catch {
    // not JSON
  }
  return [{ kind: 'resync' }]
}

function ignore(): void {}
