/**
 * The way to the store: one call at a time from the outside, and what all calls share.
 *
 * - *Time-outs*: each call is given up after its own.
 * - *Deadlines*: each call says what the store's clock showed at least when it was sent, and until when the store may execute it
 *   (`store-clock.ts`). Before its first call a client reads the store's clock.
 * - *Epochs*: a store without a clock is notified in which epoch a call was sent; a new one begins whenever an outcome is unknown.
 * - *Outages*: a store that has answered no call for some seconds is a `store-away` warning, once for each outage.
 * - *The end*: `close` gives up all calls in flight, and every later one but the last (`lastly`).
 */
import { randomBytes } from 'node:crypto'
import { DateTime } from 'luxon'
import { abortController } from './abort-signal.ts'
import { sleep, systemClock, type Clock } from './clock.ts'
import { reasonOf, type ErrUnknown } from './errors.ts'
import { StoreCall } from './store-call.ts'
import { StoreClock } from './store-clock.ts'
import { LONGEST_DEADLINE_MS, type Call, type Substrate, type SubstrateWarning } from './substrate.ts'

/** Until when a call whose outcome is unknown may still be executed. */
export interface InDoubt {
  /** By the store's clock; undefined: the store has none, and epochs end it. */
  readonly notAfterMs: number | undefined
}

/** Why a call has no answer, and what may still become of it; `sent` is false where the store certainly never saw it. */
export class LostCall extends Error implements InDoubt {
  readonly sent: boolean
  readonly notAfterMs: number | undefined

  constructor(cause: unknown, { sent, notAfterMs }: InDoubt & { readonly sent: boolean }) {
    const limit = Error.stackTraceLimit
    Error.stackTraceLimit = 0
    super(reasonOf(cause), { cause })
    Error.stackTraceLimit = limit
    this.sent = sent
    this.notAfterMs = notAfterMs
  }
}

/** A store that has been away for so long is warned of. */
const AWAY_MS = 5_000

export class StoreLink {
  /** Names this client in the store. */
  readonly client: string = randomBytes(9).toString('base64url')
  readonly #substrate: Substrate
  readonly #clock: Clock
  readonly #timeoutMs: number
  readonly #warn: (warning: SubstrateWarning) => void
  /** Failures since the last answer, and when the first of them was sent. */
  #failures = 0
  #awaySinceMs = 0
  #isWarned = false
  readonly #storeClock: StoreClock
  /** An array, and not a Set, whose tables would keep each other alive (`keyed-mutex.ts`). */
  readonly #inFlight: StoreCall[] = []
  readonly #closing = abortController() // every operation that pauses listens to it
  #epoch = 0
  #knowing: Promise<void> | undefined

  constructor({
    substrate,
    clock,
    timeoutMs,
    warn,
  }: {
    readonly substrate: Substrate
    readonly clock: Clock
    readonly timeoutMs: number
    readonly warn: (warning: SubstrateWarning) => void
  }) {
    this.#substrate = substrate
    this.#clock = clock
    this.#timeoutMs = timeoutMs
    this.#warn = warn
    this.#storeClock = new StoreClock(clock)
  }

  /** Aborts when the client is closed; the reason is the error of every later call. */
  get closing(): AbortSignal {
    return this.#closing.signal
  }

  /**
   * One call of the substrate.
   *
   * @throws LostCall
   */
  call<T>(send: (call: Call) => Promise<T>, timeoutMs: number = this.#timeoutMs): Promise<T> {
    if (this.#substrate.time === undefined || this.#storeClock.known) return this.#call(send, timeoutMs)
    return this.#readClock().then(() => this.#call(send, timeoutMs))
  }

  /** The outcome of a call is unknown: what was sent until now must not open a term once the store has seen what is sent from now on. */
  beginEpoch(): void {
    this.#epoch++
  }

  /** Resolves when a call in doubt can certainly not be executed any more, or as soon as the next call is (`Call.epoch`). */
  async untilOver({ notAfterMs }: InDoubt): Promise<void> {
    for (;;) {
      const leftMs = notAfterMs === undefined ? -1 : notAfterMs - this.#storeClock.earliestMs(this.#clock.monotonic())
      if (leftMs < 0) return
      await sleep(this.#clock, Math.ceil(leftMs) + 1, this.closing)
    }
  }

  /** Gives up all calls in flight. Idempotent. */
  close(reason: ErrUnknown): void {
    if (this.closing.aborted) return
    this.#closing.abort(reason)
    for (const call of [...this.#inFlight]) call.abort(reason)
  }

  /**
   * The one call that may still be sent once this is closed. It ends when its time is over by the client's clock or by the
   * machine's: also a client whose clock stands still must come to its end.
   *
   * @throws LostCall
   */
  lastly<T>(send: (call: Call) => Promise<T>, timeoutMs: number): Promise<T> {
    return this.#call(send, Math.min(timeoutMs, this.#timeoutMs), { isLast: true })
  }

  /** Calls that come before the answer share it. */
  #readClock(): Promise<void> {
    this.#knowing ??= this.#call((call) => this.#substrate.time?.(call) ?? Promise.resolve(0), this.#timeoutMs, {
      onAnswer: (storeMs, sentMs) => this.#storeClock.learn(storeMs, sentMs),
    })
      .then(
        () => {},
        (error: unknown) => {
          const cause = error instanceof LostCall ? error.cause : error
          throw new LostCall(cause, { sent: false, notAfterMs: undefined })
        },
      )
      .finally(() => (this.#knowing = undefined))
    return this.#knowing
  }

  #call<T>(
    send: (call: Call) => Promise<T>,
    timeoutMs: number,
    {
      onAnswer,
      isLast = false,
    }: { readonly onAnswer?: (answer: T, sentMs: number) => void; readonly isLast?: boolean } = {},
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      const sentMs = this.#clock.monotonic()
      const clock = this.#storeClock.known ? this.#storeClock : undefined
      const notAfterMs = clock?.latestMs(sentMs + Math.min(timeoutMs, LONGEST_DEADLINE_MS))
      const { client } = this
      const stamp = { timeoutMs, client, epoch: this.#epoch, sentMs: clock?.earliestMs(sentMs), notAfterMs }
      const call = new StoreCall(stamp, this.#storeClock, sentMs)
      const end = (): void => {
        timer.cancel()
        machineTimer?.cancel()
        this.#forget(call)
      }
      const fail = (cause: unknown): void => {
        end()
        this.#failed(cause, sentMs)
        reject(new LostCall(cause, { sent: true, notAfterMs }))
      }
      const giveUp = (): void => call.abort(this.#noAnswer(timeoutMs))
      const timer = this.#clock.setTimer(timeoutMs, giveUp)
      const machineTimer = isLast ? systemClock.setTimer(timeoutMs, giveUp) : undefined
      call.onAbort(fail)
      if (this.closing.aborted && !isLast) return call.abort(this.closing.reason as Error)
      call.index = this.#inFlight.push(call) - 1
      try {
        send(call).then((answer) => {
          end()
          this.#failures = 0
          onAnswer?.(answer, sentMs)
          resolve(answer)
        }, fail)
      } catch (error) {
        fail(error)
      }
    })
  }

  #noAnswer(timeoutMs: number): Error {
    const trouble = this.#substrate.trouble?.()
    const words = `no answer within ${timeoutMs} ms`
    return trouble === undefined ? new Error(words) : new Error(`${words}: ${reasonOf(trouble)}`, { cause: trouble })
  }

  /** Warns of a store that has been away for some seconds. */
  #failed(cause: unknown, sentMs: number): void {
    if (this.closing.aborted) return
    if (this.#failures++ === 0) {
      this.#awaySinceMs = sentMs
      this.#isWarned = false
    }
    const awayMs = this.#clock.monotonic() - this.#awaySinceMs
    if (this.#isWarned || this.#failures === 1 || awayMs < AWAY_MS) return
    this.#isWarned = true
    const since = DateTime.fromMillis(Math.floor(this.#clock.now() - awayMs)).toISO()
    this.#warn({
      warning: 'store-away',
      message: `No call to the store has succeeded since ${since}, for ${Math.floor(awayMs / 1000)} seconds: ${reasonOf(cause)}. Whatever waits, renews or observes tries again.`,
    })
  }

  /** The last one takes its place. */
  #forget(call: StoreCall): void {
    if (call.index < 0) return
    const last = this.#inFlight.pop()
    if (last !== undefined && last !== call) {
      this.#inFlight[call.index] = last
      last.index = call.index
    }
    call.index = -1
  }
}
