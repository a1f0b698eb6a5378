/**
 * At most n starts in any span of one period, over all processes.
 *
 *     <prefix>/<name>#<start>   each start holds a share of a counted lease with capacity n, for one period, and lets it expire
 *
 * Promises. A store with a clock never grants n + 1 starts within one period of its clock. On etcd, which has no clock, a process sees
 * that a start has expired after watching it for a period, so there may be fewer starts. Waiters are served first come, first served.
 * Nobody polls.
 */
import { ErrClaimDenied, ErrInvalid, systemClock, uniqueHolder } from 'lease-core'
import type { Clock, Manager } from 'lease-core'
import { brokenCapacityRule, OptionReader } from 'lease-core/adapter'
import type { DurationLike } from 'luxon'
import { leaseNameIn, prefixIn } from './segments.ts'
import { ErrLimitMismatch } from './semaphore.ts'
import { ShareQueue } from './share-queue.ts'

/** Options of a Throttle. */
export interface ThrottleOptions {
  /** The recipe does not stop it. */
  readonly manager: Manager
  /** The name of the throttle; the same for everyone who shares it. */
  readonly name: string
  /** How many starts per period, from 1 to 2³⁰; the same for everyone: the store compares it. */
  readonly n: number
  /**
   * The same for everyone, which is not compared: a start counts for the period of the process that made it. More
   * than 1 ms. A number is in milliseconds.
   */
  readonly period: DurationLike
  /** The first part of each lease name: throttles of two prefixes are independent. @default 'throttles' */
  readonly prefix?: string | undefined
  /** The clock of the manager, in tests. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/** Options of `start`. */
export interface StartOptions {
  /**
   * false: a single try. A duration bounds the wait for others. true: waits as long as `signal` allows. A number is
   * in milliseconds.
   *
   * @default true
   */
  readonly wait?: DurationLike | boolean | undefined
  /** Ends the call with its reason. A start that was granted after all may count. */
  readonly signal?: AbortSignal | undefined
}

const KNOWN_OPTIONS = ['manager', 'name', 'n', 'period', 'prefix', 'clock']

/** Grants at most n starts in any span of one period: see the head of this file. */
export class Throttle {
  readonly name: string
  readonly n: number
  readonly #manager: Manager
  readonly #lease: string
  readonly #periodMs: number
  readonly #queue: ShareQueue

  /** @throws ErrNotValid with every problem */
  constructor(options: ThrottleOptions) {
    const reader = new OptionReader(options, KNOWN_OPTIONS)
    const { manager, name, n } = reader.read
    reader.object('manager', 'a Manager', ['hold', 'find', 'counted'])
    this.#lease = leaseNameIn(reader, 'name', { prefix: prefixIn(reader, 'throttles') })
    reader.fault('n', brokenCapacityRule(n))
    this.#periodMs = reader.leaseDuration('period')
    const clock = reader.clock() ?? systemClock
    reader.finish()
    this.name = name
    this.n = n
    this.#manager = manager
    this.#queue = new ShareQueue(manager, clock)
  }

  /**
   * Resolves when the caller may start. The start counts for one period from its grant, whatever becomes of the work.
   *
   * @throws ErrClaimDenied   n starts were in the last period, or others were ahead, until the wait was over
   * @throws ErrLimitMismatch others share this throttle with another n
   * @throws ErrNotValid      an option breaks a rule; nothing was sent
   * @throws ErrUnknown       the start may count
   */
  start(options: StartOptions = {}): Promise<void> {
    return this.#start(options)
  }

  async #start(options: StartOptions, isTry: boolean = false): Promise<void> {
    const reader = new OptionReader(options, isTry ? ['signal'] : ['wait', 'signal'])
    const waitMs = reader.wait(!isTry)
    const signal = reader.signal()
    reader.finish()
    const share = { weight: 1, capacity: this.n }
    // Nobody relies on the share: that it was granted is all.
    const lease = { duration: this.#periodMs, renewEvery: false, acceptLate: true, share, signal, waitMs } as const
    try {
      const hold = await this.#queue.hold(this.#lease, uniqueHolder('start'), lease)
      hold.letLapse()
    } catch (error) {
      throw error instanceof Error ? await this.#explained(error) : error
    }
  }

  /** Does what `start` does, in a single try. Resolves to whether the caller may start. */
  async tryStart(options: Omit<StartOptions, 'wait'> = {}): Promise<boolean> {
    try {
      await this.#start(options, true)
      return true
    } catch (error) {
      if (error instanceof ErrClaimDenied && !(error instanceof ErrLimitMismatch)) return false
      throw error
    }
  }

  async #explained(error: Error): Promise<unknown> {
    if (error instanceof ErrInvalid) {
      const { capacity: n } = await this.#manager.counted(this.#lease)
      if (n === undefined) return error
      const message = `throttle "${this.name}" has n equal to ${n}, not ${this.n}`
      return new ErrLimitMismatch(this.name, this.#lease, { n, asked: this.n, message })
    }
    if (!(error instanceof ErrClaimDenied)) return error
    const message = `"${this.name}" may not start: ${this.n} have in the last period, or others are ahead`
    return new ErrClaimDenied(message, { lease: this.#lease, expiry: error.expiry, cause: error })
  }
}
