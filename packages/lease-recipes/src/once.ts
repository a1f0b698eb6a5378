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
 * - A mark counts only in the term of the run that made it: it contains the fencing token. A run that lost its lease records nothing. If
 *   its last request opens a new term, the next reader of that mark revokes the term.
 * - No result is lost silently. A call that has done the work, and does not know whether the result is kept, rejects with an
 *   `ErrNotRecorded` that contains the result.
 *
 * The lease of a run is not a Hold (`run.ts`): a revocation is noticed at the next renewal, which is due after a third of `duration`.
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
  onAbort,
  systemClock,
  throwIfAborted,
} from 'lease-core'
import type { Clock, Info, Manager, Token } from 'lease-core'
import type { DurationLike } from 'luxon'
import { Checks } from './checks.ts'
import { LinkedSignal, orAborted } from './or-aborted.ts'
import { Run } from './run.ts'

/** Options of `Once`. */
export interface OnceOptions {
  /** The recipe does not stop it. */
  readonly manager: Pick<Manager, 'claim' | 'find' | 'observe' | 'release' | 'revoke'>
  /** The first part of each lease name: keys of two prefixes are independent. `OncePer` has the same default. @default 'once' */
  readonly prefix?: string | undefined
  /** How long a key stays in progress after its process has died. Renewed during the work. At least 8 ms. @default 30 seconds */
  readonly duration?: DurationLike | undefined
  /** How long a result is kept, at least, from the end of the work. @default 1 day */
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
   * true: waits as long as `signal` allows. @default false
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
    const checks = new Checks(options, OPTIONS)
    const { manager, prefix = 'once', duration, keepResult, store, clock = systemClock } = options
    const { serialize = toJson, parse = fromJson } = options
    const isManager = hasMethods(manager, 'claim', 'find', 'observe', 'release', 'revoke')
    checks.must('manager', isManager, 'must be a Manager', manager)
    checks.name('prefix', prefix)
    this.#durationMs = duration === undefined ? DURATION_MS : checks.leaseDuration('duration', duration)
    checks.renewal('duration', this.#durationMs / 3, 'duration', this.#durationMs)
    this.#keepMs = keepResult === undefined ? KEEP_RESULT_MS : checks.leaseDuration('keepResult', keepResult)
    checks.must('serialize', typeof serialize === 'function', 'must be a function', serialize)
    checks.must('parse', typeof parse === 'function', 'must be a function', parse)
    checks.must('store', store === undefined || hasMethods(store, 'get', 'set'), 'must have get and set', store)
    checks.must('clock', hasMethods(clock, 'now', 'monotonic', 'setTimer'), 'must be a Clock', clock)
    checks.finish()
    this.#manager = manager
    this.#prefix = prefix
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
   * @throws ErrLost        the answer to the claim came too late to rely on the lease: the work has not begun
   * @throws ErrNotValid    an argument breaks a rule; nothing was sent
   * @throws ErrUnknown     the store could not be asked: this call has not begun the work
   */
  async run<T>(
    key: string,
    work: (scope: OnceScope) => T | PromiseLike<T>,
    options: OnceRunOptions = {},
  ): Promise<Awaited<T>> {
    const checks = new Checks(options, ['wait', 'signal'])
    const lease = checks.id('key', key, this.#prefix)
    const { wait = false, signal } = options
    const waitMs = typeof wait === 'boolean' ? (wait ? Number.POSITIVE_INFINITY : 0) : checks.duration('wait', wait)
    checks.signal('signal', signal)
    checks.must('work', typeof work === 'function', 'must be a function', work)
    checks.finish()
    throwIfAborted(signal)
    const begun = await this.#begin(lease, waitMs, signal)
    if (begun instanceof Run) return this.#do(begun, key, work, signal)
    return (await this.#resultOf(begun, lease, key, signal)) as Awaited<T>
  }

  /**
   * Frees the key: its result is forgotten, and the next call does the work. A run in progress loses its lease. It goes on until it
   * notices that, and records nothing.
   *
   * @throws ErrUnknown the key may have been freed
   */
  async forget(key: string, options: OnceCallOptions = {}): Promise<void> {
    const checks = new Checks(options, ['signal'])
    const lease = checks.id('key', key, this.#prefix)
    checks.signal('signal', options.signal)
    checks.finish()
    await this.#manager.revoke(lease, { signal: options.signal })
  }

  // ── begin ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** A run of this call, or the mark of an earlier run that is done. */
  async #begin(lease: string, waitMs: number, signal: AbortSignal | undefined): Promise<Run | Mark> {
    const until = new LinkedSignal(signal)
    const timeIsUp = (): void => until.abort(TIME_IS_UP)
    if (waitMs === 0) timeIsUp()
    const timer = waitMs > 0 && waitMs <= MAX_DURATION_MS ? this.#clock.setTimer(waitMs, timeIsUp) : undefined
    try {
      for (;;) {
        const request = { lease, durationMs: this.#durationMs, value: IN_PROGRESS, signal }
        const run = await Run.claim(this.#manager, this.#clock, request)
        if (run instanceof Run) return run
        const state = await this.#stateOf(lease, until.signal, signal)
        if (state === 'in progress') throw run
        if (state !== 'free') return state
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
        const state = await this.#read(lease, info, signal)
        if (state !== 'in progress') return state
      }
    } catch (error) {
      if (error !== TIME_IS_UP) throw error
    }
    return this.#read(lease, await this.#manager.find(lease, { signal }), signal)
  }

  async #read(lease: string, info: Info | undefined, signal: AbortSignal | undefined): Promise<State> {
    if (info === undefined) return 'free'
    const mark = parseMark(info.value)
    if (mark === undefined) return 'in progress'
    const { fencingToken } = info
    if (mark.fencingToken === fencingToken) return mark
    // A run that had lost its lease opened a new term with this mark, and has not released it: the term means nothing.
    await this.#manager.revoke(lease, { fencingToken, signal })
    return 'free'
  }

  // ── work ──────────────────────────────────────────────────────────────────────────────────────────────────────

  async #do<T>(
    run: Run,
    key: string,
    work: (scope: OnceScope) => T | PromiseLike<T>,
    signal: AbortSignal | undefined,
  ): Promise<Awaited<T>> {
    const until = new LinkedSignal(signal)
    const { fencingToken, token, lost } = run
    onAbort(lost, () => until.abort(lost.reason))
    try {
      let result: Awaited<T>
      try {
        throwIfAborted(signal)
        run.assertHeld()
        result = await work({ signal: until.signal, fencingToken, token })
      } catch (error) {
        await run.giveUp()
        throw error
      }
      await this.#record(run, key, result)
      return result
    } finally {
      until.letGo()
      until.abort(new DOMException('the call is over', 'AbortError'))
    }
  }

  /** @throws ErrNotRecorded */
  async #record(run: Run, key: string, result: unknown): Promise<void> {
    const { lease, fencingToken } = run
    const failure = (reason: NotRecordedReason, cause: unknown): ErrNotRecorded =>
      new ErrNotRecorded(key, result, { reason, lease, cause })
    try {
      const { mark, reason, cause } = await this.#markFor(run, result)
      await run.mark(formatMark({ ...mark, fencingToken }), this.#keepMs)
      if (reason !== undefined) throw failure(reason, cause)
    } catch (error) {
      if (error instanceof ErrNotRecorded) throw error
      if (error instanceof ErrLost || error instanceof ErrClaimDenied) throw failure('lost', error)
      throw failure(error instanceof ErrStopped ? 'stopped' : 'no answer', error)
    }
  }

  /**
   * The mark of a run that is done. If the result cannot be kept, the mark says so: the work was done all the same, and must not be
   * repeated.
   */
  async #markFor(run: Run, result: unknown): Promise<MarkAndProblem> {
    const { fencingToken } = run
    let text: unknown
    try {
      text = this.#serialize(result)
    } catch (cause) {
      return { mark: UNKEPT, reason: 'no text', cause }
    }
    if (typeof text !== 'string') return { mark: UNKEPT, reason: 'no text', cause: undefined }
    const mark = { kind: 'done', text } as const
    const problem = problemOf(formatMark({ ...mark, fencingToken }))
    if (problem === undefined) return { mark }
    if (this.#store === undefined) {
      const isLarge = Buffer.byteLength(text) > MAX_VALUE_BYTES - HEAD_BYTES
      return { mark: UNKEPT, reason: isLarge ? 'too large' : 'no text', cause: problem }
    }
    try {
      await orAborted(this.#put(this.#store, run, text), run.lost)
    } catch (cause) {
      return { mark: UNKEPT, reason: 'store failed', cause }
    }
    return { mark: { kind: 'stored', text: '' } }
  }

  /** The mark expires before the text: it is made within `duration`, and lasts for `keepResult`. */
  async #put(store: OnceStore, { lease, fencingToken }: Run, text: string): Promise<void> {
    await store.set(idOf(lease, fencingToken), text, this.#keepMs + this.#durationMs)
  }

  async #resultOf(mark: Mark, lease: string, key: string, signal: AbortSignal | undefined): Promise<unknown> {
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
      return this.#parse(text)
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

/** The value of the lease of a run that is done: `done 17 {"id":5}`, `stored 17 `, `unkept 17 `. */
interface Mark {
  readonly kind: 'done' | 'stored' | 'unkept'
  /** Of the run that made it: the mark counts only in that term. */
  readonly fencingToken: bigint
  readonly text: string
}

type State = Mark | 'free' | 'in progress'

interface MarkAndProblem {
  readonly mark: Omit<Mark, 'fencingToken'>
  /** Why the result is not in it. */
  readonly reason?: NotRecordedReason
  readonly cause?: unknown
}

const UNKEPT = { kind: 'unkept', text: '' } as const
/** The value of a lease in progress. */
const IN_PROGRESS = 'in progress'
/** How much of a value is not the result, at most: a fencing token has 20 digits. */
const HEAD_BYTES = 32

function formatMark({ kind, fencingToken, text }: Mark): string {
  return `${kind} ${fencingToken} ${text}`
}

/** undefined: not the value of a run that is done. */
function parseMark(value: string | undefined): Mark | undefined {
  const { kind, fencingToken, text } =
    /^(?<kind>done|stored|unkept) (?<fencingToken>-?\d+) (?<text>.*)$/s.exec(value ?? '')?.groups ?? {}
  if (kind === undefined || fencingToken === undefined || text === undefined) return undefined
  return { kind: kind as Mark['kind'], fencingToken: BigInt(fencingToken), text }
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
