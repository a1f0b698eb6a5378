/**
 * Lead: runs work in one process at a time, for as long as that process leads.
 *
 *   waiting ──granted──▶ working ──the work ends──▶ released ──▶ waiting …          (`again: false`: the end)
 *                           │
 *                           ├─ lost ───▶ the signal aborts ── the work ends ──▶ waiting …
 *                           └─ stop() ─▶ the signal aborts
 *                                             ├─ the work ends ───────────────▶ released ──▶ the end
 *                                             └─ not within one `duration` ───▶ renewed no more: the lease lapses; the end
 *
 * Promises.
 * - Work begins only while the lease is held. Two runs of one candidate never overlap: after a loss, the candidate leads again only when
 *   its work has ended.
 * - The signal aborts no later than the trust window ends, and at once on `stop()`.
 * - The lease is released after the work has ended, also when it throws, and never earlier.
 * - `stop()` takes at most one `duration`. If the work has not ended by then, the lease expires within another `duration`, and the next
 *   leader may begin beside that work: only `token.check(key)` or the fencing token rejects its late writes.
 *
 * Failure. Failed attempts are retried with growing pauses. There is also a pause after work that throws or soon returns. An error that no
 * retry can cure (the manager was stopped) ends the candidacy: `finished` rejects.
 *
 * After `RunOrDie` of client-go (with `ReleaseOnCancel`, which here waits for the work) and `LeaderSelector` of Curator.
 */
import {
  ErrLost,
  ErrStopped,
  Stopwatch,
  systemClock,
  uniqueHolder,
  type Clock,
  type Held,
  type Hold,
  type Manager,
  type Timer,
  type Token,
  showAs,
} from 'lease-core'
import { OptionReader } from 'lease-core/adapter'
import type { Duration, DurationLike } from 'luxon'
import { Emitter } from './emitter.ts'
import { LinkedSignal, whenAborted } from './or-aborted.ts'
import { isFinal, pauseAfter } from './retry.ts'
import { leaseNameIn } from './segments.ts'
import { unlessGone } from './unless-gone.ts'

/** Runs while this process leads. The term ends when the returned value, or promise, has settled. */
export type LeadWork = (term: LeaderTerm) => unknown

/** Options of `lead`. */
export interface LeadOptions {
  /** The name of this candidate; different for each candidate. @default a unique name (`uniqueHolder`) */
  readonly holder?: string | undefined
  /**
   * How long a grant lasts. Renewed after a third of it. After a crash another candidate leads when it is over, and `stop()` waits at most
   * this long for the work. A number is in milliseconds. At least 8 ms. @default 15 seconds
   */
  readonly duration?: DurationLike | undefined
  /** Text that travels with the lease, for instance the leader's address; everyone can read it. At most 4 KiB. */
  readonly value?: string | undefined
  /** Whether to campaign again after each term. false: the candidacy ends with its first term. @default true */
  readonly again?: boolean | undefined
  /**
   * The longest pause after work that threw or soon returned; the first is 50 to 100 ms. A number is in
   * milliseconds.
   *
   * @default 30 seconds
   */
  readonly maxPause?: DurationLike | undefined
  /** Stops the candidate when it aborts, as `stop()` does. The signal of the work then has the same reason. */
  readonly signal?: AbortSignal | undefined
  /** The clock of the manager, in tests. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/** Events with the arguments of their listeners. */
export interface CandidateEvents {
  /** This candidate leads from now on. */
  elected: [LeaderTerm]
  /** The lease was lost: this candidate no longer leads. */
  lost: [ErrLost]
  /** The work threw, and not because its signal aborted; or a release or a claim failed. Retried where that can help. */
  error: [unknown]
}

/**
 * Campaigns from now on, and runs the work whenever this process leads.
 *
 *     const candidate = lead(manager, 'scheduler', async ({ signal }) => schedule(signal))
 *     …
 *     await candidate.stop()
 *
 * @param name the same for all candidates. Escaped like every id: `my.app` is the lease `my%2Eapp`
 * @throws ErrNotValid with every problem
 */
export function lead(
  manager: Pick<Manager, 'hold'>,
  name: string,
  work: LeadWork,
  options: LeadOptions = {},
): Candidate {
  return new Candidate(readLead(manager, name, work, options))
}

/** One term of a candidate: what its work is called with. */
export class LeaderTerm implements Held {
  /** The name of the lease. */
  readonly lease: string
  /** The name of the candidate. */
  readonly holder: string
  /** Higher than those of all earlier leaders. */
  readonly fencingToken: bigint
  /** Aborts when the work must end: with an `ErrLost`, with the reason of the stop, or after `release()` with an AbortError. */
  readonly signal: AbortSignal
  readonly #hold: Hold

  /** @param signal aborts no later than that of the Hold */
  constructor(hold: Hold, signal: AbortSignal) {
    this.#hold = hold
    this.lease = hold.lease
    this.holder = hold.holder
    this.fencingToken = hold.fencingToken
    this.signal = signal
  }

  /** For `token.check(key)` before a guarded write. */
  get token(): Token {
    return this.#hold.token
  }

  /** Whether the holder may rely on the lease now; also true while the work ends after `stop()`. Reads the clocks. */
  get held(): boolean {
    return this.#hold.held
  }

  /** How long the holder may rely on the lease without a renewal; zero when it is over. */
  remaining(): Duration {
    return this.#hold.remaining()
  }

  /** @throws ErrLost the term is over, by loss or by release */
  assertHeld(): void {
    this.#hold.assertHeld()
  }

  /** Resigns at once, before the work has ended: only for work that has nothing left to protect. Otherwise return from the work. */
  release(): Promise<void> {
    return this.#hold.release()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#hold[Symbol.asyncDispose]()
  }
}

showAs(LeaderTerm, 'LeaderTerm', ['lease', 'holder', 'fencingToken', 'held'])

interface Campaign {
  readonly manager: Pick<Manager, 'hold'>
  readonly lease: string
  readonly work: LeadWork
  readonly holder: string
  readonly durationMs: number
  readonly value: string | undefined
  readonly again: boolean
  readonly maxPauseMs: number
  readonly signal: AbortSignal | undefined
  readonly clock: Clock
}

/** How the work ended. */
interface Outcome {
  readonly thrown: { readonly error: unknown } | undefined
  /** How long it ran. */
  readonly ranMs: number
}

/** Leads, or campaigns to lead. `lead()` makes it. */
export class Candidate extends Emitter<CandidateEvents> implements AsyncDisposable {
  /** The name of the lease. */
  readonly lease: string
  /** The name of this candidate. */
  readonly holder: string
  /**
   * Resolves when the candidacy is over: after `stop()`, or with `again: false` after the only term. It waits for the work, but at most
   * one `duration` after the stop. You need not await it.
   *
   * Rejects with the error that ended the candidacy, for instance `ErrStopped` when the manager was stopped. With `again: false` it also
   * rejects with what the work threw.
   */
  readonly finished: Promise<void>
  readonly #campaign: Campaign
  readonly #stopping: LinkedSignal
  #hold: Hold | undefined
  #term: LeaderTerm | undefined
  #isWorking = false
  /** The error that ended the candidacy, if one did. */
  #failure: ErrStopped | undefined

  /** Use `lead()`. */
  constructor(campaign: Campaign) {
    super()
    const { lease, holder, durationMs, clock, signal } = campaign
    this.#campaign = campaign
    this.lease = lease
    this.holder = holder
    this.#stopping = new LinkedSignal(signal)
    this.finished = new Promise((resolve, reject) => {
      let timer: Timer | undefined
      const timeIsUp = (): void => {
        this.#hold?.letLapse()
        if (this.#failure === undefined) resolve()
        else reject(this.#failure)
      }
      const stopListening = whenAborted(this.#stopping.signal, () => (timer = clock.setTimer(durationMs, timeIsUp)))
      this.#run()
        .then(resolve, reject)
        .finally(() => {
          stopListening() // a stop() that comes later has nothing to wait for
          timer?.cancel()
          this.#stopping.letGo()
        })
    })
    this.finished.catch(() => {})
  }

  /** Whether this leads and may rely on that now; also true while the work ends after `stop()`. Reads the clocks. */
  get isLeader(): boolean {
    return this.#term?.held === true
  }

  /** The present term; undefined while this does not lead. */
  get term(): LeaderTerm | undefined {
    return this.isLeader ? this.#term : undefined
  }

  /** Whether the work is running. True after `stop()` has resolved: the work did not end in time. */
  get isWorking(): boolean {
    return this.#isWorking
  }

  /**
   * Aborts the signal of the work, waits for the work, releases the lease, and ends the candidacy. Takes at most one `duration`; then the
   * lease is no longer renewed. Never rejects; idempotent.
   */
  async stop(): Promise<void> {
    this.#stopping.abort(new ErrStopped('the candidate was stopped', { lease: this.lease, holder: this.holder }))
    await this.finished.catch(() => {})
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  async #run(): Promise<void> {
    const { again, durationMs, maxPauseMs, clock } = this.#campaign
    const { signal } = this.#stopping
    for (let failures = 0; !signal.aborted;) {
      const hold = await this.#elect()
      if (hold === undefined) return
      if (signal.aborted || !hold.held) {
        await this.#giveUp(hold) // stopped or lost before the work could begin
        continue
      }
      const { thrown, ranMs } = await this.#lead(hold)
      const isLost = hold.signal.reason instanceof ErrLost
      await this.#giveUp(hold)
      if (this.#failure !== undefined) throw this.#failure
      if (signal.aborted) return
      if (!again) {
        if (thrown !== undefined) throw thrown.error
        return
      }
      if (isLost) continue
      failures = ranMs < durationMs ? failures + 1 : thrown === undefined ? 0 : 1
      if (failures > 0) await pauseAfter(failures, { clock, mostMs: maxPauseMs, signal })
    }
  }

  /** Resolves with a Hold when the lease is granted, with undefined after a stop. */
  async #elect(): Promise<Hold | undefined> {
    const { manager, lease, holder, durationMs, value, clock } = this.#campaign
    const { signal } = this.#stopping
    const options = { duration: durationMs, value, announce: true, wait: true, signal }
    for (let failures = 1; !signal.aborted; failures++) {
      try {
        return await manager.hold(lease, holder, options)
      } catch (error) {
        if (signal.aborted) return undefined
        this.emit('error', error)
        if (isFinal(error)) throw error
        await pauseAfter(failures, { clock, signal })
      }
    }
    return undefined
  }

  /** Runs the work to its end. The candidate does nothing else until then. */
  async #lead(hold: Hold): Promise<Outcome> {
    const { work, clock } = this.#campaign
    const stopping = this.#stopping.signal
    const until = new LinkedSignal(hold.signal)
    const stopListening = [
      whenAborted(stopping, () => until.abort(stopping.reason)),
      whenAborted(hold.signal, () => this.#ended(hold.signal.reason)),
    ]
    const term = new LeaderTerm(hold, until.signal)
    this.#hold = hold
    this.#term = term
    this.emit('elected', term)
    const begun = new Stopwatch(clock)
    let thrown: Outcome['thrown']
    this.#isWorking = true
    try {
      await work(term)
    } catch (error) {
      thrown = { error }
      if (!isAbort(error, until.signal)) this.emit('error', error)
    }
    this.#isWorking = false
    until.abort(new DOMException('the work has ended', 'AbortError')) // what it left in the background should stop
    until.letGo()
    for (const stop of stopListening) stop()
    return { thrown, ranMs: begun.elapsedMs }
  }

  #ended(reason: unknown): void {
    if (!(reason instanceof ErrLost)) return
    this.emit('lost', reason)
    const { cause } = reason
    if (!(cause instanceof ErrStopped)) return
    this.#failure = cause // the manager was stopped: no renewal or claim can succeed
    this.#stopping.abort(cause)
  }

  /** If the release fails, the lease expires. */
  async #giveUp(hold: Hold): Promise<void> {
    try {
      await hold.release().catch(unlessGone)
    } catch (error) {
      this.emit('error', error)
    }
  }
}

const OPTIONS = ['holder', 'duration', 'value', 'again', 'maxPause', 'signal', 'clock']

function readLead(manager: Pick<Manager, 'hold'>, name: string, work: LeadWork, options: LeadOptions): Campaign {
  const reader = new OptionReader(options, OPTIONS, { arguments: { manager, name, work } })
  reader.object('manager', 'a Manager', ['hold'])
  const lease = leaseNameIn(reader, 'name')
  reader.must('work', typeof work === 'function', 'must be a function')
  const campaign = {
    manager,
    lease,
    work,
    holder: reader.name('holder', uniqueHolder()),
    durationMs: reader.renewedDuration('duration', 15_000),
    value: reader.value(),
    again: reader.boolean('again', true),
    maxPauseMs: reader.duration('maxPause', 30_000),
    signal: reader.signal(),
    clock: reader.clock() ?? systemClock,
  }
  reader.finish()
  return campaign
}

/** Whether the work threw this because its signal aborted. Anything can be thrown, also an object that throws when it is read. */
function isAbort(error: unknown, signal: AbortSignal): boolean {
  if (!signal.aborted) return false
  try {
    return Object.is(error, signal.reason) || (Object(error) as { name?: unknown }).name === 'AbortError'
  } catch {
    return false
  }
}
