/**
 * A claim that is renewed during work, and then left to expire with a mark, or released.
 *
 *     in progress ──mark()────▶ over: the lease goes on with this value, and expires by itself
 *         │  ▲  └──giveUp()──▶ over: the lease is free
 *         │  └── renewed after a third of its duration; a failed renewal is retried
 *         └──its time is over, or another term was found──▶ lost
 *
 * It is not a Hold, because a Hold cannot end with a last value for another duration. So it gets no hints, and notices a revocation only
 * at a renewal. A renewal that finds the lease vacant opens a new term: that is a loss, and the new term is released.
 */
import {
  ErrClaimDenied,
  ErrLost,
  ErrNotHeld,
  ErrUnknown,
  sleep,
  Stopwatch,
  throwIfAborted,
  trustWindowMs,
  uniqueHolder,
  warn,
} from 'lease-core'
import type { Clock, LossReason, Manager, Timer, Token } from 'lease-core'

export interface RunRequest {
  /** The value of the claim. */
  readonly value: string
  readonly lease: string
  readonly durationMs: number
  readonly signal: AbortSignal | undefined
}

/** See the head of this file. */
export class Run {
  readonly lease: string
  readonly fencingToken: bigint
  readonly token: Token
  readonly #manager: Pick<Manager, 'claim' | 'release'>
  readonly #clock: Clock
  readonly #durationMs: number
  readonly #lost = new AbortController()
  /** Since the last claim that was granted was sent. */
  #since: Stopwatch
  #timer: Timer | undefined
  #renewing = false
  /** Failed renewals in a row. */
  #failures = 0
  #retryMs = 0
  #isOver = false

  private constructor(
    { manager, clock }: { readonly manager: Pick<Manager, 'claim' | 'release'>; readonly clock: Clock },
    token: Token,
    { since, durationMs }: { readonly since: Stopwatch; readonly durationMs: number },
  ) {
    this.#manager = manager
    this.#clock = clock
    this.token = token
    this.lease = token.lease
    this.fencingToken = token.fencingToken as bigint
    this.#durationMs = durationMs
    this.#since = since
    this.#tick()
  }

  /** The run; or the refusal, when another holds the lease. */
  static async claim(
    manager: Pick<Manager, 'claim' | 'release'>,
    clock: Clock,
    { lease, durationMs, value, signal }: RunRequest,
  ): Promise<Run | ErrClaimDenied> {
    const since = new Stopwatch(clock)
    try {
      const token = await manager.claim(lease, uniqueHolder(), durationMs, { value, signal })
      return new Run({ manager, clock }, token, { since, durationMs })
    } catch (error) {
      if (error instanceof ErrClaimDenied) return error
      throw error
    }
  }

  /** Aborts with an `ErrLost` when the lease is lost, before another can hold it (after a revocation: at the next renewal). */
  get lost(): AbortSignal {
    return this.#lost.signal
  }

  /** @throws ErrLost */
  assertHeld(): void {
    if (this.#leftMs <= 0) this.#lose('expired')
    throwIfAborted(this.lost)
  }

  /** Releases the lease. Never rejects: a failure becomes a warning, and the lease expires by itself. */
  async giveUp(): Promise<void> {
    this.#end()
    await this.#release().catch((error: unknown) => warn(error, 'LeaseReleaseWarning'))
  }

  /**
   * Leaves the lease to expire with this value. Retries while the run is held; the run is renewed until the answer.
   *
   * @throws ErrLost, ErrClaimDenied another may hold the lease: it is not marked, or the mark does not count
   * @throws ErrStopped, ErrUnknown  the lease may be marked
   */
  async mark(value: string, keepMs: number): Promise<void> {
    try {
      for (let attempts = 1; ; attempts++) {
        this.assertHeld()
        let failure: ErrUnknown
        try {
          const options = { value, announce: true }
          const { fencingToken } = await this.#manager.claim(this.lease, this.token.holder, keepMs, options)
          if (fencingToken === this.fencingToken) return
          await this.#release().catch(() => {}) // if it fails, a reader sees that the mark is of another term
          throw this.#lose('revoked')
        } catch (error) {
          if (!(error instanceof ErrUnknown) || error.reason === 'closed') throw error
          failure = error
        }
        await sleep(this.#clock, pauseMs(attempts))
        if (this.lost.aborted || this.#leftMs <= 0) throw failure
      }
    } finally {
      this.#end()
    }
  }

  /** How long the lease may still be relied on. */
  get #leftMs(): number {
    return trustWindowMs(this.#durationMs) - this.#since.elapsedMs
  }

  /** Runs at least once a second: timers do not show a suspend, clocks do. */
  #tick(): void {
    if (this.#isOver || this.lost.aborted) return
    const leftMs = this.#leftMs - EARLY_MS
    if (leftMs <= 0) return void this.#lose(this.#failures > 0 || this.#renewing ? 'unreachable' : 'expired')
    const dueMs = Math.max(this.#durationMs / 3, this.#retryMs) - this.#since.elapsedMs
    if (dueMs <= 0 && !this.#renewing) void this.#renew()
    const delayMs = Math.min(leftMs, dueMs <= 0 ? leftMs : dueMs, CLOCK_MS)
    this.#timer = this.#clock.setTimer(Math.max(1, delayMs), () => this.#tick())
  }

  async #renew(): Promise<void> {
    this.#renewing = true
    const since = new Stopwatch(this.#clock)
    try {
      const { fencingToken } = await this.#manager.claim(this.lease, this.token.holder, this.#durationMs)
      if (fencingToken === this.fencingToken) {
        this.#since = since
        this.#retryMs = 0
        this.#failures = 0
      } else {
        this.#lose('revoked')
        await this.#release().catch(() => {}) // nobody relies on the new term, and it expires by itself
      }
    } catch (error) {
      if (error instanceof ErrClaimDenied) this.#lose('taken', error)
      else if (!(error instanceof ErrUnknown)) this.#lose('unreachable', error)
      else this.#retryMs = this.#since.elapsedMs + pauseMs(++this.#failures)
    } finally {
      this.#renewing = false
    }
    this.#timer?.cancel()
    this.#tick()
  }

  #lose(reason: LossReason, cause?: unknown): ErrLost {
    const { lease, token } = this
    const message = `lease "${lease}" of "${token.holder}" is not held any more: ${losses[reason]}`
    this.#lost.abort(new ErrLost(message, { lease, holder: token.holder, reason, cause }))
    return this.lost.reason as ErrLost
  }

  #end(): void {
    this.#isOver = true
    this.#timer?.cancel()
  }

  /** @throws ErrUnknown, ErrStopped */
  async #release(): Promise<void> {
    await this.#manager.release(this.lease, this.token.holder).catch((error: unknown) => {
      if (!(error instanceof ErrNotHeld)) throw error
    })
  }
}

const losses: Readonly<Record<LossReason, string>> = {
  expired: 'its time ran out before it could be renewed',
  taken: 'another has it',
  revoked: 'it was vacated before its time',
  unreachable: 'it could not be renewed in time',
}

/** Timers are late, and listeners need a moment. */
const EARLY_MS = 2
const CLOCK_MS = 1_000

/** Before the next attempt, after so many failures in a row. */
function pauseMs(failures: number): number {
  return Math.min(1_000, 10 * 2 ** failures)
}
