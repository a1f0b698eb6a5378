/**
 * One reader for many viewers: reads a namespace, or one lease, again and again while somebody watches, and keeps what it read last.
 *
 *     idle ──first watcher──▶ reading ──▶ pause ──▶ reading …     the last watcher leaves ──▶ idle
 *
 * A read that fails, or takes long, leaves the last state in place, with its age and what is wrong. So an outage of the store never empties
 * the page, and a reload during the outage shows what is known. The pause is at least nine times as long as the read took, up to
 * `LONGEST_PAUSE_MS`: a console costs a store with 100,000 leases at most a tenth of its time.
 */
import { reasonOf, type Clock, type Timer } from 'lease-core'

/** What is known. */
export interface Known<T> {
  /** undefined: no read has succeeded yet. */
  readonly state: T | undefined
  /** When the last successful read was answered, by the wall clock, in milliseconds since the epoch. */
  readonly readMs: number | undefined
  /** Why the state may be out of date; undefined: the last read succeeded. */
  readonly trouble: string | undefined
}

export interface FeedOptions<T> {
  readonly clock: Clock
  readonly pollEveryMs: number
  read(): Promise<T>
  /** Calls back when a read is worth while at once; returns what ends that. Called while somebody watches. */
  hints?(changed: () => void): () => void
}

const LONGEST_PAUSE_MS = 30_000
/** How long a reading takes before it is trouble, in milliseconds; the store's own timeout reports why. */
const PATIENCE_MS = 3_000

export class Feed<T> {
  readonly #options: FeedOptions<T>
  readonly #watchers = new Set<() => void>()
  #known: Known<T> = { state: undefined, readMs: undefined, trouble: undefined }
  /** By the monotonic clock. */
  #readAtMs = Number.NEGATIVE_INFINITY
  #reading: Promise<void> | undefined
  /** A hint came during a read, which may have missed it. */
  #isDirty = false
  #pause: Timer | undefined
  #endHints: (() => void) | undefined

  constructor(options: FeedOptions<T>) {
    this.#options = options
  }

  get known(): Known<T> {
    return this.#known
  }

  get isWatched(): boolean {
    return this.#watchers.size > 0
  }

  /** Calls the listener after each read, successful or not. Returns what ends that. */
  watch(listener: () => void): () => void {
    const own = (): void => listener()
    this.#watchers.add(own)
    if (this.#watchers.size === 1) {
      this.#endHints = this.#options.hints?.(() => this.refresh())
      this.refresh()
    }
    return () => {
      if (!this.#watchers.delete(own) || this.#watchers.size > 0) return
      this.#pause?.cancel()
      this.#pause = undefined
      this.#endHints?.()
      this.#endHints = undefined
    }
  }

  /** Reads at once, or again after the read in flight. What is known counts as old. */
  refresh(): void {
    this.#readAtMs = Number.NEGATIVE_INFINITY
    if (this.#reading !== undefined) this.#isDirty = true
    else void this.#read()
  }

  /** Resolves with what is known: read within `pollEveryMs`, or after one more read or `PATIENCE_MS`. Never rejects. */
  async latest(): Promise<Known<T>> {
    const ageMs = this.#options.clock.monotonic() - this.#readAtMs
    if (this.#known.trouble === undefined && ageMs < this.#options.pollEveryMs) return this.#known
    const read = this.#read() // its own patience ends first, and says so
    let timer: Timer | undefined
    const patience = new Promise<void>((resolve) => {
      timer = this.#options.clock.setTimer(PATIENCE_MS, resolve)
    })
    await Promise.race([read, patience])
    timer?.cancel()
    return this.#known
  }

  #read(): Promise<void> {
    this.#reading ??= this.#readOnce()
    return this.#reading
  }

  async #readOnce(): Promise<void> {
    const { clock, pollEveryMs } = this.#options
    this.#pause?.cancel()
    this.#isDirty = false
    const startedMs = clock.monotonic()
    const patience = clock.setTimer(PATIENCE_MS, () => this.#learn({ trouble: 'the store has not answered yet' }))
    try {
      const state = await this.#options.read()
      if (!this.#isDirty) this.#readAtMs = clock.monotonic()
      this.#learn({ state, readMs: clock.now(), trouble: undefined })
    } catch (error) {
      this.#learn({ trouble: reasonOf(error) })
    }
    patience.cancel()
    this.#reading = undefined
    if (!this.isWatched) return
    const tookMs = clock.monotonic() - startedMs
    const pauseMs = this.#isDirty ? 0 : Math.min(LONGEST_PAUSE_MS, Math.max(pollEveryMs, 9 * tookMs))
    this.#pause = clock.setTimer(pauseMs, () => this.refresh())
  }

  #learn(news: Partial<Known<T>>): void {
    this.#known = { ...this.#known, ...news }
    for (const watcher of [...this.#watchers]) watcher()
  }
}
