/**
 * A job that runs once per period in the whole fleet, even if the clocks of its processes differ.
 *
 *     <prefix>/<name>                        the turn: its holder decides, or runs. Renewed; expires `atMost` after a crash
 *     <prefix>/<name>/0, <prefix>/<name>/1   the marks: the last slots that began. Claimed for `atLeast`, never renewed
 *
 * A slot is the fire time of a period in the schedule, not the time on a clock: it is the same in every process. Slots are strings that
 * rise, and a slot runs only if both marks are below it:
 *
 *     take the turn ──▶ read the marks ──below──▶ put the lower mark on the slot ──▶ turn still held? ──▶ run ──▶ mark it done, release
 *       │ refused            │ not below                                               │ no
 *       └──▶ skipped         └──▶ release, skipped                                     └──▶ unknown: do not run
 *
 * Why no slot runs twice. A run holds the turn without a gap from before its read of the marks until after its own mark. So nobody else
 * decides in between, and every earlier run has left its mark. A process that is paused in between has lost the turn when it continues,
 * and does not run. Its mark may still arrive. Each attempt has a holder name of its own, so a late mark can take a vacant lease, but
 * never replaces a live mark. If it arrives while another process is replacing that mark, the other process replaces the late mark too.
 * There are two marks so that a crash at that moment leaves the higher one.
 *
 * Why a process that only decides does not make others skip. A process that is refused the turn reads for which slot the turn was taken:
 * - the same slot: the holder of the turn deals with it;
 * - another slot, which that holder has marked: that slot still runs;
 * - another slot, not marked: that holder is about to decide, so this process waits for the turn.
 *
 * `atMost` and `atLeast` are named after `lockAtMostFor` and `lockAtLeastFor` of ShedLock. There the minimum must be longer than the
 * difference between clocks and shorter than the period. Here the marks stop a late process, and a long minimum delays nobody.
 */
import {
  ErrClaimDenied,
  ErrNotHeld,
  ErrStopped,
  ErrUnknown,
  MAX_NAME_BYTES,
  throwIfAborted,
  uniqueHolder,
  warn,
  type Held,
  type Hold,
  type Manager,
  type Token,
  showAs,
} from 'lease-core'
import { OptionReader } from 'lease-core/adapter'
import { DateTime, Duration, type DurationLike } from 'luxon'
import { isDate } from 'node:util/types'
import { LinkedSignal, orAborted } from './or-aborted.ts'
import { released } from './released.ts'
import { brokenSegmentRule, leaseNameIn, prefixIn } from './segments.ts'
import { using } from './using.ts'

/**
 * A period: its fire time, or a string that sorts after those of earlier periods (`2026-03`, `2026-W09`, `2026-03-01T12:00`).
 * A `Date` or a `DateTime` means its ISO string in UTC. All slots of one name must be of one kind. Do not use the present time: every
 * process would have a slot of its own.
 */
export type Slot = Date | DateTime | string

/** Defaults for all jobs of an `OncePer`, and options of each call. Use the same in every process. */
export interface RunOptions {
  /**
   * How long a job stays busy, at most, after a crash of the process that runs it. A number is in milliseconds.
   *
   * @default 1 minute
   */
  readonly atMost?: DurationLike | undefined
  /**
   * true: a run is renewed while its process lives, so it may take any time. false: a run that takes longer than `atMost` is lost, and
   * the next slot may run beside it; for work whose end may never be reported. @default true
   */
  readonly renew?: boolean | undefined
  /**
   * How long the last slot is remembered, counted from its start and again from its end. Until then, calls for this slot or an earlier
   * one are skipped. Must be longer than any process may be late, also when it catches up. Does not delay later
   * slots. A number is in milliseconds.
   *
   * @default 1 day
   */
  readonly atLeast?: DurationLike | undefined
  /**
   * false: a run whose process died counts as a run. true: a call for a slot that is running waits until that run ends, and takes over if
   * the run ended without a record that it is done. @default false
   */
  readonly retry?: boolean | undefined
}

/** Options of `OncePer`. */
export interface OncePerOptions extends RunOptions {
  /** The recipe does not stop it. */
  readonly manager: Pick<Manager, 'hold' | 'claim' | 'find' | 'release' | 'revoke'>
  /** The first part of each lease name: jobs of two prefixes are independent. @default 'once-per' */
  readonly prefix?: string | undefined
}

/** Options of `run` and `begin`. */
export interface RunCallOptions extends RunOptions {
  /** Before the work begins: ends the call with its reason. After that: aborts the signal of the work. */
  readonly signal?: AbortSignal | undefined
}

/** Options of `last` and `forget`. */
export interface LastOptions {
  /** Rejects the call with its reason. */
  readonly signal?: AbortSignal | undefined
}

/** The slot did not run in this process. */
export interface Skipped {
  readonly ran: false
  /**
   * `taken`: this slot has run, or runs · `passed`: a later slot has begun · `busy`: another slot of the job still runs.
   */
  readonly reason: 'taken' | 'passed' | 'busy'
  /** The slot that prevented it. */
  readonly slot: string
  /** The process that ran it or runs it: a holder name with host and process id. */
  readonly by: string
}

/** The outcome of a call of `run`. */
export type Outcome<T> = { readonly ran: true; readonly slot: string; readonly result: T } | Skipped

/** The outcome of a call of `begin`. */
export type Begun = { readonly ran: true; readonly slot: string; readonly run: Run } | Skipped

/** What the work is called with. */
export interface RunScope {
  /** Aborts when the run is lost, when the work is over, and with `options.signal`. */
  readonly signal: AbortSignal
  /** Rises with every run of this name. Send it with every write to what the job changes. */
  readonly fencingToken: bigint
  /** The slot that runs, as a string. */
  readonly slot: string
  /** The run itself, for `token`, `held` and `assertHeld()`. */
  readonly run: Run
}

/** The last slot of a job that began. */
export interface LastRun {
  /** The slot, as a string. */
  readonly slot: string
  /** The process that ran it or runs it: a holder name with host and process id. */
  readonly by: string
  /** false: it runs, its process died, or its end was not recorded. */
  readonly done: boolean
}

/** The record in a turn or a mark, and where it was found. */
interface Found extends LastRun {
  readonly lease: string
  readonly holder: string
  readonly fencingToken: bigint
}

interface Names {
  readonly turn: string
  readonly marks: readonly [string, string]
}

interface Times {
  readonly atMostMs: number
  readonly renew: boolean
  readonly atLeastMs: number
  readonly retry: boolean
}

interface Request extends Names, Times {
  readonly slot: string
  /** A name of this call alone. */
  readonly holder: string
  readonly signal: AbortSignal | undefined
}

const TIMES = ['atMost', 'renew', 'atLeast', 'retry']
const MINUTE_MS = 60_000
const DAY_MS = 86_400_000
const DEFAULTS: Times = { atMostMs: MINUTE_MS, renew: true, atLeastMs: DAY_MS, retry: false }
/** How often the turn may change holder between a refusal and a read, or a mark between a read and a claim. */
const MAX_ROUNDS = 30

/** A run that has begun: its process holds the turn of the job. Release it when the work has ended. */
export class Run implements Held {
  /** A name of this run alone. */
  readonly holder: string
  /** Rises with every run of this name. */
  readonly fencingToken: bigint
  /** The slot that runs, as a string. */
  readonly slot: string
  readonly #hold: Hold
  readonly #mark: { readonly done: () => Promise<unknown>; readonly undo: () => Promise<unknown> }
  readonly #until: LinkedSignal
  #releasing: Promise<void> | undefined

  /** `OncePer` makes it. */
  constructor(
    slot: string,
    hold: Hold,
    mark: { readonly done: () => Promise<unknown>; readonly undo: () => Promise<unknown> },
  ) {
    this.holder = hold.holder
    this.fencingToken = hold.fencingToken
    this.slot = slot
    this.#hold = hold
    this.#mark = mark
    this.#until = new LinkedSignal(hold.signal)
  }

  /** For `token.check(key)` before a guarded write. It is of this run. */
  get token(): Token {
    return this.#hold.token
  }

  /** Whether this process may rely on the turn now. Reads the clocks. */
  get held(): boolean {
    return this.#releasing === undefined && this.#hold.held
  }

  /** Aborts with an `ErrLost` when the turn is lost, and with an AbortError when `release()` begins. */
  get signal(): AbortSignal {
    return this.#until.signal
  }

  /** How long this process may rely on the turn without a renewal; zero when the run is over. */
  remaining(): Duration {
    return this.held ? this.#hold.remaining() : Duration.fromMillis(0)
  }

  /** @throws ErrLost the run is over, by loss or by release */
  assertHeld(): void {
    this.#hold.assertHeld()
    if (this.#releasing !== undefined) throw released(this.#hold)
  }

  /**
   * Records that the slot is done, then releases the turn. A lost run records it too, unless another process has begun the slot again.
   *
   * @throws ErrNotHeld another process has the turn already
   * @throws ErrUnknown the slot may not be recorded as done: it stays taken, but with `retry` it may run again
   */
  release(): Promise<void> {
    return this.#end(this.#mark.done)
  }

  /** The work never began: withdraws the mark, so that another process may run the slot. @internal */
  withdraw(): Promise<void> {
    return this.#end(this.#mark.undo)
  }

  /** Releases the run. Never rejects, so that it does not hide the outcome of the work: a failure becomes a warning of the process. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.release().catch((error: unknown) => warn(error, 'LeaseReleaseWarning'))
  }

  #end(record: () => Promise<unknown>): Promise<void> {
    if (this.#releasing !== undefined) return this.#releasing
    this.#releasing = endInOrder(record, this.#hold)
    this.#until.abort(new DOMException('the run was released', 'AbortError'))
    return this.#releasing
  }
}

showAs(Run, 'Run', ['slot', 'holder', 'fencingToken', 'held'])

/** The record comes first: the next holder of the turn reads it. */
async function endInOrder(record: () => Promise<unknown>, hold: Hold): Promise<void> {
  try {
    await record()
  } finally {
    await hold.release()
  }
}

/** Runs each slot of a job once, over all processes that use the same prefix and names. See the head of this file. */
export class OncePer {
  readonly #manager: OncePerOptions['manager']
  readonly #prefix: string
  readonly #defaults: Times

  /**
   * Checks what `run` of an `OncePer` without defaults of its own would refuse, before the first slot is due: for schedulers, when a job is
   * made.
   *
   * @throws ErrNotValid with every problem
   */
  static checkOptions(options: RunOptions): void {
    const reader = new OptionReader(options, TIMES)
    timesIn(reader, DEFAULTS)
    reader.finish()
  }

  /** @throws ErrNotValid with every problem */
  constructor(options: OncePerOptions) {
    const reader = new OptionReader(options, ['manager', 'prefix', ...TIMES])
    reader.object('manager', 'a Manager', ['hold', 'claim', 'find', 'release', 'revoke'])
    this.#prefix = prefixIn(reader, 'once-per')
    this.#defaults = timesIn(reader, DEFAULTS)
    reader.finish()
    this.#manager = reader.read.manager
  }

  /**
   * Does the work of this slot, unless the slot has run or runs elsewhere. Rejects with what the work throws; the slot then counts as run.
   * Waits for the work, also after its signal has aborted.
   *
   * @throws ErrUnknown  the store did not answer: the work does not begin here. The slot may count as run, and then runs nowhere
   * @throws ErrLost     the turn was lost before the work began: the work does not begin here
   * @throws ErrNotValid an argument breaks a rule; nothing was sent
   */
  async run<T>(
    name: string,
    slot: Slot,
    work: (scope: RunScope) => T | PromiseLike<T>,
    options: RunCallOptions = {},
  ): Promise<Outcome<Awaited<T>>> {
    const request = this.#requestOf(name, slot, options, (reader) =>
      reader.fault('work', typeof work === 'function' ? undefined : 'must be a function', work),
    )
    const begun = await this.#begin(request)
    if (!begun.ran) return begun
    const { run } = begun
    try {
      throwIfAborted(request.signal)
      run.assertHeld()
    } catch (error) {
      await run.withdraw().catch(() => {})
      throw error
    }
    const body = ({ signal, fencingToken }: { readonly signal: AbortSignal; readonly fencingToken: bigint }) =>
      work({ signal, fencingToken, slot: run.slot, run })
    const result = await using(run, body, { signal: request.signal })
    return { ran: true, slot: run.slot, result }
  }

  /**
   * Begins a slot as `run` does, for work that other code calls, for instance a scheduler. Release the run when the work has ended.
   *
   * @throws ErrUnknown  as in `run`
   * @throws ErrNotValid an argument breaks a rule; nothing was sent
   */
  async begin(name: string, slot: Slot, options: RunCallOptions = {}): Promise<Begun> {
    return this.#begin(this.#requestOf(name, slot, options))
  }

  /** Reads the last slot of this job that began. undefined: none began, or it is forgotten (`atLeast`). */
  async last(name: string, options: LastOptions = {}): Promise<LastRun | undefined> {
    const { marks, signal } = this.#callOf(name, options)
    const last = latest(await orAborted(this.#readAll(marks), signal))
    return last === undefined ? undefined : { slot: last.slot, by: last.by, done: last.done }
  }

  /**
   * Makes the job forget its last slots, for operators: the next call runs, whatever its slot. A run in progress goes on, and
   * records its slot when it ends.
   *
   * @throws ErrUnknown the slots may have been forgotten
   */
  async forget(name: string, options: LastOptions = {}): Promise<void> {
    const { marks, signal } = this.#callOf(name, options)
    await orAborted(Promise.all(marks.map((mark) => this.#manager.revoke(mark))), signal)
  }

  async #begin(request: Request): Promise<Begun> {
    const { signal } = request
    throwIfAborted(signal)
    const beginning = this.#take(request)
    try {
      return await orAborted(beginning, signal)
    } catch (error) {
      // The caller has gone: withdraw a late run.
      beginning.then((late) => (late.ran ? late.run.withdraw() : undefined)).catch(() => {})
      throw error
    }
  }

  /** Takes the turn, unless the marks show already that the slot must not run here. */
  async #take(request: Request): Promise<Begun> {
    const { turn, marks, slot, holder, atMostMs, renew, retry, signal } = request
    const renewEvery = renew ? undefined : false
    const value = recordOf({ slot, by: holder, done: false })
    let wait: number | boolean = false
    let refusedBy: Found | undefined
    for (let round = 1; round <= MAX_ROUNDS; round++) {
      const found = await this.#readAll(marks)
      const skipped = skippedFor(request, found)
      if (skipped !== undefined) return skipped
      if (refusedBy !== undefined && refusedBy.slot !== slot && isRunning(refusedBy, found)) {
        return notRun('busy', refusedBy)
      }
      throwIfAborted(signal)
      try {
        const hold = await this.#manager.hold(turn, holder, { duration: atMostMs, renewEvery, value, wait, signal })
        return await this.#decide(request, hold)
      } catch (error) {
        if (!(error instanceof ErrClaimDenied)) throw error
      }
      const now = await this.#read(turn)
      // Who has the turn may only be about to see that the slot has run, as this one would.
      if (now?.slot === slot && !retry) return skippedFor(request, await this.#readAll(marks)) ?? notRun('taken', now)
      // The same term has held the turn for the whole wait: it runs, and its mark has expired.
      if (now !== undefined && now.slot !== slot && now.fencingToken === refusedBy?.fencingToken)
        return notRun('busy', now)
      refusedBy = now
      // The turn of a holder that died before it decided expires after `atMost`.
      wait = now === undefined ? false : now.slot === slot ? true : atMostMs
    }
    throw exhausted(request)
  }

  /** Holding the turn: decides whether the slot runs here. If not, releases the turn. */
  async #decide(request: Request, hold: Hold): Promise<Begun> {
    try {
      const decided = await this.#markOrSkip(request)
      if (typeof decided === 'string') {
        const run = this.#runOf(request, hold, decided)
        if (run.held) return { ran: true, slot: request.slot, run }
        const { turn, slot, holder } = request
        const message = `it took too long to begin: slot ${slot} of "${turn}" does not run here, and counts as begun`
        throw new ErrUnknown(message, { lease: turn, holder, cause: hold.signal.reason })
      }
      await leave(hold)
      return decided
    } catch (error) {
      await leave(hold)
      throw error
    }
  }

  /** Marks the slot and returns the lease of the mark; or returns why the slot is skipped. */
  async #markOrSkip(request: Request): Promise<string | Skipped> {
    const { marks, slot, holder, atLeastMs, signal } = request
    const value = recordOf({ slot, by: holder, done: false })
    for (let round = 1; round <= MAX_ROUNDS; round++) {
      const found = await this.#readAll(marks)
      const skipped = skippedFor(request, found)
      if (skipped !== undefined) return skipped
      throwIfAborted(signal) // nothing is marked yet
      const replaced =
        found.find((mark) => mark.slot === slot) ?? (found.length === marks.length ? lower(found) : undefined)
      const mark = replaced?.lease ?? marks.find((lease) => !found.some((one) => one.lease === lease)) ?? marks[0]
      try {
        if (replaced !== undefined) await this.#manager.release(mark, replaced.holder)
        await this.#manager.claim(mark, holder, atLeastMs, { value })
        return mark
      } catch (error) {
        // A process that has lost the turn has put a late mark there.
        if (!(error instanceof ErrClaimDenied) && !(error instanceof ErrNotHeld)) throw error
      }
    }
    throw exhausted(request)
  }

  #runOf({ slot, holder, atLeastMs }: Request, hold: Hold, mark: string): Run {
    const value = recordOf({ slot, by: holder, done: true })
    return new Run(slot, hold, {
      done: () => this.#manager.claim(mark, holder, atLeastMs, { value }).catch(unlessOver),
      undo: () => this.#manager.release(mark, holder),
    })
  }

  async #readAll(leases: readonly string[]): Promise<readonly Found[]> {
    const found = await Promise.all(leases.map((lease) => this.#read(lease)))
    return found.filter((one) => one !== undefined)
  }

  async #read(lease: string): Promise<Found | undefined> {
    const info = await this.#manager.find(lease)
    if (info === undefined) return undefined
    const { holder, fencingToken, value = '' } = info
    const { slot, by, state } = RECORD.exec(value)?.groups ?? {}
    if (slot === undefined || by === undefined) {
      const message = `lease "${lease}" of "${holder}" is none of a job: is its prefix used for something else?`
      throw new ErrUnknown(message, { lease, holder, reason: 'no record' })
    }
    return { lease, holder, fencingToken, slot, by, done: state === 'done' }
  }

  #requestOf(name: string, slot: Slot, options: RunCallOptions, check?: (reader: OptionReader) => void): Request {
    const reader = new OptionReader(options, [...TIMES, 'signal'], { arguments: { name, slot } })
    const names = this.#namesIn(reader)
    const key = keyIn(reader)
    check?.(reader)
    const times = timesIn(reader, this.#defaults)
    const signal = reader.signal()
    reader.finish()
    return { ...names, ...times, slot: key, holder: uniqueHolder(), signal }
  }

  #callOf(name: string, options: LastOptions): Names & { readonly signal: AbortSignal | undefined } {
    const reader = new OptionReader(options, ['signal'], { arguments: { name } })
    const names = this.#namesIn(reader)
    const signal = reader.signal()
    reader.finish()
    throwIfAborted(signal)
    return { ...names, signal }
  }

  #namesIn(options: OptionReader): Names {
    const turn = leaseNameIn(options, 'name', { prefix: this.#prefix, suffix: '/0' })
    return { turn, marks: [`${turn}/0`, `${turn}/1`] }
  }
}

function timesIn(options: OptionReader, defaults: Times): Times {
  const renew = options.boolean('renew', defaults.renew)
  const check = renew ? 'renewedDuration' : 'leaseDuration'
  const atMostMs = options[check]('atMost', defaults.atMostMs)
  const atLeastMs = options.duration('atLeast', defaults.atLeastMs)
  const retry = options.boolean('retry', defaults.retry)
  return { atMostMs, renew, atLeastMs, retry }
}

/** The slot as a string that sorts by time. */
function keyIn(options: OptionReader): string {
  const slot = options.given('slot')
  const instant = DateTime.isDateTime(slot) ? slot.toMillis() : isDate(slot) ? slot.getTime() : undefined
  if (instant !== undefined) {
    const key = Number.isFinite(instant) ? DateTime.fromMillis(instant, { zone: 'utc' }).toISO() : null
    const isPlain = key !== null && /^\d{4}-/.test(key) // others do not sort
    options.must('slot', isPlain, 'must be a valid date of the years 0 to 9999')
    return key ?? ''
  }
  const rule = typeof slot === 'string' ? brokenSegmentRule(slot) : 'must be a Date, a DateTime or a string'
  options.fault('slot', rule)
  if (rule !== undefined) return ''
  const key = slot as string
  const isShort = Buffer.byteLength(key) <= MAX_NAME_BYTES
  options.must('slot', isShort, `must be at most ${MAX_NAME_BYTES} bytes`)
  return key
}

/** Why a call for this slot is skipped while these marks stand; undefined: it may run. */
function skippedFor({ slot, retry }: Request, marks: readonly Found[]): Skipped | undefined {
  const last = latest(marks)
  if (last === undefined || last.slot < slot) return undefined
  if (last.slot > slot) return notRun('passed', last)
  return retry && !last.done ? undefined : notRun('taken', last)
}

function notRun(reason: Skipped['reason'], { slot, by }: Found): Skipped {
  return { ran: false, reason, slot, by }
}

/** The mark of the highest slot; of two marks of one slot, the one that is done. */
function latest(marks: readonly Found[]): Found | undefined {
  const [one, other] = marks
  return one === undefined || other === undefined || !isBelow(one, other) ? one : other
}

function lower(marks: readonly Found[]): Found | undefined {
  return marks.find((mark) => mark !== latest(marks))
}

function isBelow(one: Found, other: Found): boolean {
  return one.slot === other.slot ? other.done : one.slot < other.slot
}

/** Whether the holder of the turn has marked its slot, and has not recorded that it is done. */
function isRunning({ by }: Found, marks: readonly Found[]): boolean {
  return marks.some((mark) => mark.by === by && !mark.done)
}

/** Releases the turn. Never rejects: if the release fails, the turn expires. */
async function leave(hold: Hold): Promise<void> {
  await hold.release().catch(() => {})
}

/** Ignores that another process has replaced the mark, or that the manager was stopped: the release of a Hold does nothing either then. */
function unlessOver(error: unknown): void {
  if (!(error instanceof ErrClaimDenied) && !(error instanceof ErrStopped)) throw error
}

function recordOf({ slot, by, done }: LastRun): string {
  return `${done ? 'done' : 'begun'} ${by} ${slot}`
}

/** Names of holders have no blanks. */
const RECORD = /^(?<state>begun|done) (?<by>\S+) (?<slot>.+)$/s

function exhausted({ turn, holder, slot }: Request): ErrUnknown {
  const message = `"${holder}" could not decide on slot ${slot}: others changed "${turn}" ${MAX_ROUNDS} times meanwhile`
  return new ErrUnknown(message, { lease: turn, holder, reason: 'retries exhausted' })
}
