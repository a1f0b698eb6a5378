/**
 * Work that is done once per key, with a result that is kept for a time.
 *
 *     free ──claim──▶ in progress ──done──▶ done: the result is kept, and expires by itself ──▶ free
 *      ▲                  │
 *      ├──────failed──────┤            a renewed lease means "in progress", the same lease with a result means "done":
 *      └──process died────┘            one write changes one into the other
 *
 * Promises.
 * - While a run of a key is in progress, or its result is kept, no other run of that key begins. If the process dies during the work, the
 *   key is free after `duration`: the work is done at least once.
 * - A mark extends the term of its run. A run that lost its lease records nothing, and a late request for a mark opens no term.
 * - No result is lost silently. A call that has done the work, and does not know whether the result is kept, rejects with an
 *   `ErrNotRecorded` that contains the result.
 */
import {
  checkRequest,
  ErrClaimDenied,
  ErrLost,
  ErrStopped,
  ErrUnknown,
  hasMethods,
  MAX_DURATION_MS,
  MAX_VALUE_BYTES,
  systemClock,
  throwIfAborted,
  uniqueHolder,
} from 'lease-core'
import type { Clock, Hold, Info, Manager, Token } from 'lease-core'
import { OptionReader } from 'lease-core/adapter'
import type { DurationLike } from 'luxon'
import { LinkedSignal, orAborted } from './or-aborted.ts'
import { isFinal, pauseAfter } from './retry.ts'
import { leaseNameIn, prefixIn } from './segments.ts'
import { using, type UsingScope } from './using.ts'

/** Options of `Once`. */
export interface OnceOptions {
  /** The recipe does not stop it. */
  readonly manager: Pick<Manager, 'hold' | 'find' | 'observe' | 'revoke'>
  /** The first part of each lease name: keys of two prefixes are independent. @default 'once' */
  readonly prefix?: string | undefined
  /**
   * How long a key stays in progress after its process has died. Renewed during the work. At least 8 ms. A number is
   * in milliseconds.
   *
   * @default 30 seconds
   */
  readonly duration?: DurationLike | undefined
  /** How long a result is kept, at least, from the end of the work. A number is in milliseconds. @default 1 day */
  readonly keepResult?: DurationLike | undefined
  /** Turns a result into a text. @default JSON; undefined becomes an empty text */
  readonly serialize?: ((result: unknown) => string) | undefined
  /** Turns that text into a result. @default JSON; an empty text becomes undefined */
  readonly parse?: ((text: string) => unknown) | undefined
  /** Keeps results that do not fit into a lease. @default none: a result that is too large is an `ErrNotRecorded` */
  readonly store?: OnceStore | undefined
  /** The clock of the manager, in tests. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/** Keeps texts that do not fit into a lease, where all processes can read them: a table, a Redis key, a bucket. */
export interface OnceStore {
  /** Keeps the text for at least `keepMs` milliseconds. @param id different for each run, so no run overwrites another's result */
  set(id: string, text: string, keepMs: number): Promise<unknown>
  /** Returns the text; undefined or null when it is gone. */
  get(id: string): Promise<string | undefined | null>
}

/** Options of `run`. */
export interface OnceRunOptions {
  /**
   * How long to wait for a run in progress. false: not at all. A duration bounds the wait; it does not bound the answer to a request.
   * true: waits as long as `signal` allows. A number is in milliseconds. @default false
   */
  readonly wait?: DurationLike | boolean | undefined
  /** Ends the wait with its reason, and aborts the signal of the work. If the work returns a result all the same, the result is kept. */
  readonly signal?: AbortSignal | undefined
}

/** Options of `forget`. */
export interface OnceCallOptions {
  /** Rejects the call with its reason. What was sent is not undone. */
  readonly signal?: AbortSignal | undefined
}

/** What the work is called with. */
export interface OnceScope {
  /** Aborts when the lease is lost, when the call is over, and with `options.signal`. */
  readonly signal: AbortSignal
  /** Rises with each run of the key. */
  readonly fencingToken: bigint
  /** For `token.check(key)` in the transaction of the work: a run that has lost its lease then writes nothing. */
  readonly token: Token
}

/** Why it is not certain that a result is recorded. */
export type NotRecordedReason = 'lost' | 'no answer' | 'stopped' | 'no text' | 'too large' | 'store failed'

/**
 * This call has done the work, but other calls may not get its result. Extends `ErrUnknown`, with the same code. The `reason` says more:
 * - `lost`: the work may be done again.
 * - `no answer`, `stopped`: the work may be done again, unless the mark was written after all.
 * - `no text`, `too large`, `store failed`: the work is not done again for `keepResult`; later calls get `ErrNoResult`.
 */
export class ErrNotRecorded extends ErrUnknown {
  override readonly name: string = 'ErrNotRecorded'
  declare readonly reason: NotRecordedReason
  readonly key: string
  /** What the work returned. */
  readonly result: unknown

  constructor(key: string, result: unknown, details: { reason: NotRecordedReason; lease: string; cause?: unknown }) {
    super(`the work for "${key}" was done, and its result is not certainly kept: ${reasons[details.reason]}`, details)
    this.key = key
    this.result = result
  }
}

const reasons: Readonly<Record<NotRecordedReason, string>> = {
  lost: 'the lease was lost before the work was done',
  'no answer': 'the store did not answer',
  stopped: 'the manager was stopped',
  'no text': '`serialize` threw, or returned no text that a lease may carry',
  'too large': 'it does not fit into a lease, and there is no `store`',
  'store failed': 'the `store` did not take it',
}

/** An earlier call has done the work, but its result is not available. Extends `ErrUnknown`, with the same code. */
export class ErrNoResult extends ErrUnknown {
  override readonly name: string = 'ErrNoResult'
  readonly key: string

  constructor(key: string, details: { reason: string; lease: string; cause?: unknown }) {
    super(`the work for "${key}" was done, and its result is gone: ${details.reason}`, details)
    this.key = key
  }
}

const DURATION_MS = 30_000
const KEEP_RESULT_MS = 86_400_000

/** Does the work of each key once: see the head of this file. Make one for each kind of work. */
export class Once {
  readonly #manager: OnceOptions['manager']
  readonly #prefix: string
  readonly #durationMs: number
  readonly #keepMs: number
  readonly #serialize: (result: unknown) => unknown
  readonly #parse: (text: string) => unknown
  readonly #store: OnceStore | undefined
  readonly #clock: Clock

  /** @throws ErrNotValid with every problem */
  constructor(options: OnceOptions) {
    const reader = new OptionReader(options, OPTIONS)
    const { manager, store, serialize = toJson, parse = fromJson } = reader.read
    reader.object('manager', 'a Manager', ['hold', 'find', 'observe', 'revoke'])
    this.#prefix = prefixIn(reader, 'once')
    this.#durationMs = reader.renewedDuration('duration', DURATION_MS)
    this.#keepMs = reader.leaseDuration('keepResult', KEEP_RESULT_MS)
    reader.function('serialize')
    reader.function('parse')
    reader.must('store', store === undefined || hasMethods(store, 'get', 'set'), 'must have get and set')
    const clock = reader.clock() ?? systemClock
    reader.finish()
    this.#manager = manager
    this.#serialize = serialize
    this.#parse = parse
    this.#store = store
    this.#clock = clock
  }

  /**
   * Does the work, or resolves with the result of an earlier run. If the work throws, the key is free again; this call does not repeat the
   * work. Waiting calls then do their own work, one after the other.
   *
   * @throws what the work throws
   * @throws ErrClaimDenied the work is in progress elsewhere, or still was when `wait` ran out
   * @throws ErrNotRecorded this call has done the work; other calls may not get the result
   * @throws ErrNoResult    the work was done earlier; its result is not available
   * @throws ErrLost        the lease was lost before the work began
   * @throws ErrNotValid    an argument breaks a rule; nothing was sent
   * @throws ErrUnknown     the store could not be asked: this call has not begun the work
   */
  async run<T>(
    key: string,
    work: (scope: OnceScope) => T | PromiseLike<T>,
    options: OnceRunOptions = {},
  ): Promise<Awaited<T>> {
    const reader = new OptionReader(options, ['wait', 'signal'], { arguments: { key, work } })
    const lease = leaseNameIn(reader, 'key', { prefix: this.#prefix })
    const waitMs = reader.wait()
    const signal = reader.signal()
    reader.must('work', typeof work === 'function', 'must be a function')
    reader.finish()
    throwIfAborted(signal)
    const begun = await this.#begin(lease, waitMs, signal)
    if ('kind' in begun) return (await this.#resultOf(begun, lease, key, signal)) as Awaited<T>
    const body = async ({ signal: until, fencingToken }: UsingScope<Hold>): Promise<Awaited<T>> => {
      const result = await work({ signal: until, fencingToken, token: begun.token })
      await this.#record(begun, key, result)
      return result
    }
    return using(begun, body, { signal })
  }

  /**
   * Frees the key: its result is forgotten, and the next call does the work. A run in progress loses its lease. It goes on until it
   * notices that, and records nothing.
   *
   * @throws ErrUnknown the key may have been freed
   */
  async forget(key: string, options: OnceCallOptions = {}): Promise<void> {
    const reader = new OptionReader(options, ['signal'], { arguments: { key } })
    const lease = leaseNameIn(reader, 'key', { prefix: this.#prefix })
    const signal = reader.signal()
    reader.finish()
    await this.#manager.revoke(lease, { signal })
  }

  // ── begin ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** The Hold of this call, or the mark of an earlier run that is done. */
  async #begin(lease: string, waitMs: number, signal: AbortSignal | undefined): Promise<Hold | Done> {
    const until = new LinkedSignal(signal)
    const timeIsUp = (): void => until.abort(TIME_IS_UP)
    if (waitMs === 0) timeIsUp()
    const timer = waitMs > 0 && waitMs <= MAX_DURATION_MS ? this.#clock.setTimer(waitMs, timeIsUp) : undefined
    try {
      for (;;) {
        try {
          const options = { duration: this.#durationMs, value: IN_PROGRESS, signal }
          return await this.#manager.hold(lease, uniqueHolder(), options)
        } catch (refusal) {
          if (!(refusal instanceof ErrClaimDenied)) throw refusal
          const state = await this.#stateOf(lease, until.signal, signal)
          if (state === 'in progress') throw refusal
          if (state !== 'free') return state
        }
      }
    } finally {
      timer?.cancel()
      until.letGo()
    }
  }

  /** Waits until the key is free or done. When the wait is over, reads once more. */
  async #stateOf(lease: string, until: AbortSignal, signal: AbortSignal | undefined): Promise<State> {
    try {
      for await (const info of this.#manager.observe(lease, { signal: until })) {
        const state = stateOf(info)
        if (state !== 'in progress') return state
      }
    } catch (error) {
      if (error !== TIME_IS_UP) throw error
    }
    return stateOf(await this.#manager.find(lease, { signal }))
  }

  // ── results ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** @throws ErrNotRecorded */
  async #record(hold: Hold, key: string, result: unknown): Promise<void> {
    const { mark, problem } = await this.#markFor(hold, result)
    const { reason, cause } = (await this.#mark(hold, formatMark(mark))) ?? problem ?? {}
    if (reason !== undefined) throw new ErrNotRecorded(key, result, { reason, lease: hold.lease, cause })
  }

  /**
   * Leaves the lease to lapse with this value. Until that is answered the lease is renewed, so it is tried for as long as it is held.
   * Resolves with why it did not certainly happen.
   */
  async #mark(hold: Hold, value: string): Promise<Failure | undefined> {
    let isSent = false
    let unanswered: unknown
    try {
      for (let attempts = 1; ; attempts++) {
        hold.assertHeld()
        isSent = true
        try {
          await hold.update(value, { duration: this.#keepMs })
          return undefined
        } catch (error) {
          if (isFinal(error) || error instanceof ErrLost) throw error
          unanswered = error
        }
        await pauseAfter(attempts, { clock: this.#clock, signal: hold.signal })
      }
    } catch (error) {
      if (error instanceof ErrStopped || (error as Partial<Error> | undefined)?.cause instanceof ErrStopped)
        return { reason: 'stopped', cause: error }
      // Where the term was ended before its time, it has no mark; where it ran out, it may have one.
      const isVacated = error instanceof ErrLost && (error.reason === 'revoked' || error.reason === 'taken')
      return isSent && !isVacated
        ? { reason: 'no answer', cause: unanswered ?? error }
        : { reason: 'lost', cause: error }
    } finally {
      hold.letLapse()
    }
  }

  /**
   * The mark of a run that is done. If the result cannot be kept, the mark says so: the work was done all the same, and must not be
   * repeated.
   */
  async #markFor(hold: Hold, result: unknown): Promise<MarkAndProblem> {
    let text: unknown
    try {
      text = this.#serialize(result)
    } catch (cause) {
      return unkept('no text', cause)
    }
    if (typeof text !== 'string') {
      Promise.resolve(text).catch(() => {}) // of a `serialize` that is async by mistake: the result is in the error, nothing else must fail
      return unkept('no text')
    }
    const mark = { kind: 'done', text } as const
    const problem = problemOf(formatMark(mark))
    if (problem === undefined) return { mark }
    if (this.#store === undefined) {
      const isLarge = Buffer.byteLength(formatMark(mark)) > MAX_VALUE_BYTES
      return unkept(isLarge ? 'too large' : 'no text', problem)
    }
    try {
      await orAborted(this.#put(this.#store, hold, text), hold.signal)
    } catch (cause) {
      return unkept('store failed', cause)
    }
    return { mark: { kind: 'stored', text: '' } }
  }

  /** The mark expires before the text: it is made within `duration`, and lasts for `keepResult`. */
  async #put(store: OnceStore, { lease, fencingToken }: Hold, text: string): Promise<void> {
    await store.set(idOf(lease, fencingToken), text, this.#keepMs + this.#durationMs)
  }

  async #resultOf(mark: Done, lease: string, key: string, signal: AbortSignal | undefined): Promise<unknown> {
    const gone = (reason: string, cause?: unknown): ErrNoResult => new ErrNoResult(key, { reason, lease, cause })
    if (mark.kind === 'unkept') throw gone('it could not be kept')
    let text: string | undefined | null = mark.text
    if (mark.kind === 'stored') {
      const store = this.#store
      if (store === undefined) throw gone('it is in a store, and there is no `store`')
      const get = async (): Promise<string | undefined | null> => store.get(idOf(lease, mark.fencingToken))
      try {
        text = await orAborted(get(), signal)
      } catch (cause) {
        throwIfAborted(signal)
        throw gone('the `store` failed', cause)
      }
      if (typeof text !== 'string') throw gone('the `store` does not have it any more')
    }
    try {
      return await this.#parse(text)
    } catch (cause) {
      throw gone('`parse` threw', cause)
    }
  }
}

const OPTIONS = ['manager', 'prefix', 'duration', 'keepResult', 'serialize', 'parse', 'store', 'clock']
const TIME_IS_UP = new Error('the wait is over')

/** JSON has no undefined. */
function toJson(result: unknown): unknown {
  return result === undefined ? '' : JSON.stringify(result)
}

function fromJson(text: string): unknown {
  return text === '' ? undefined : JSON.parse(text)
}

// ── marks ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** The value of the lease of a run that is done: `done {"id":5}`, `stored `, `unkept `. */
interface Mark {
  readonly kind: 'done' | 'stored' | 'unkept'
  readonly text: string
}

/** A mark, with the fencing token of the run that made it. */
interface Done extends Mark {
  readonly fencingToken: bigint
}

type State = Done | 'free' | 'in progress'

/** Why a result is not certainly kept. */
interface Failure {
  readonly reason: NotRecordedReason
  readonly cause?: unknown
}

interface MarkAndProblem {
  readonly mark: Mark
  /** Why the result is not in it. */
  readonly problem?: Failure
}

function unkept(reason: NotRecordedReason, cause?: unknown): MarkAndProblem {
  return { mark: { kind: 'unkept', text: '' }, problem: { reason, cause } }
}

/** The value of a lease in progress. */
const IN_PROGRESS = 'in progress'

function formatMark({ kind, text }: Mark): string {
  return `${kind} ${text}`
}

function stateOf(info: Info | undefined): State {
  if (info === undefined) return 'free'
  const { kind, text } = /^(?<kind>done|stored|unkept) (?<text>.*)$/s.exec(info.value ?? '')?.groups ?? {}
  if (kind === undefined || text === undefined) return 'in progress'
  return { kind: kind as Mark['kind'], text, fencingToken: info.fencingToken }
}

/** The error with which core refuses this value; undefined when it is valid. */
function problemOf(value: string): unknown {
  try {
    checkRequest('a', { holder: 'a', duration: 1, value })
    return undefined
  } catch (error) {
    return error
  }
}

function idOf(lease: string, fencingToken: bigint): string {
  return `${lease}:${fencingToken}`
}
