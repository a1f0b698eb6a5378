/**
 * A job that runs once per period in the whole fleet, whatever the clocks of its processes read.
 *
 *     <prefix>/<name>                        the turn: its holder decides, or runs. Renewed; lapses `atMost` after a crash
 *     <prefix>/<name>/0, <prefix>/<name>/1   the marks: the last slots that were begun. Claimed for `atLeast`, never renewed
 *
 * A slot is the fire time of a period, as the schedule says it and not as a clock reads it: it is the same in every process. Slots are
 * strings that rise, and one runs only while both marks are below it:
 *
 *     take the turn ──▶ read the marks ──below──▶ put the lower mark on the slot ──▶ turn still held? ──▶ run ──▶ mark it done, release
 *       │ refused            │ not below                                               │ no
 *       └──▶ skipped         └──▶ release, skipped                                     └──▶ unknown: do not run
 *
 * Why no slot runs twice. A run has held the turn without a gap from before its read of the marks until after its own mark. So nobody
 * else decided in between, and every earlier run had left its mark. A process that is paused in between does not hold the turn
 * any more when it goes on, and does not run. Its mark may still arrive: each attempt has a holder name of its own, so it takes a vacant
 * lease and never a live mark. Where it comes into the instant in which another replaces that mark, the other one replaces it in turn.
 * There are two marks so that a crash in that instant leaves the higher one.
 *
 * Why a slot is not skipped because somebody merely looked. A process that is refused the turn reads for which slot it was taken. The
 * same: somebody deals with it. Another that is marked by the holder of the turn: an earlier slot still runs. Another that is not: the
 * holder is about to decide, and the turn is waited for.
 *
 * After ShedLock, whose `lockAtMostFor` and `lockAtLeastFor` keep their names. There the minimum must be longer than clocks are apart and
 * shorter than the period; here the marks keep a late clock out, and a long minimum delays nobody.
 */
import {
  ErrClaimDenied,
  ErrLost,
  ErrNotHeld,
  ErrStopped,
  ErrUnknown,
  hasMethods,
  MAX_NAME_BYTES,
  throwIfAborted,
  uniqueHolder,
  warn,
  type Held,
  type Hold,
  type Manager,
  type Token,
} from 'lease-core'
import { DateTime, Duration, type DurationLike } from 'luxon'
import { isDate } from 'node:util/types'
import { Checks } from './checks.ts'
import { LinkedSignal, orAborted } from './or-aborted.ts'
import { brokenSegmentRule, encodeSegment } from './segments.ts'
import { using } from './using.ts'

/**
 * Which period: its fire time, or a string that sorts after those of earlier periods (`2026-03`, `2026-W09`, `2026-03-01T12:00`).
 * A `Date` and a `DateTime` mean their ISO string in UTC. All slots of one name must be of one kind. The time at which a process happens
 * to look at its clock is no slot: every process would have one of its own.
 */
export type Slot = Date | DateTime | string

/** Defaults for all jobs of an `OncePer`, and options of each call. */
export interface RunOptions {
  /** How long a job stays busy after the crash of the process that runs it, at most. @default 1 minute */
  readonly atMost?: DurationLike | undefined
  /**
   * true: while its process lives, a run is renewed, and may take as long as it likes. false: it is lost when it takes longer than
   * `atMost`, and the next slot may run beside it; for work whose end nobody may ever report. @default true
   */
  readonly renew?: boolean | undefined
  /**
   * How long the last slot is remembered, from its start and again from its end. A process that comes for this slot or an earlier one is
   * skipped until then, so this must be longer than any clock or catching up is late. It delays no later slot. @default 1 day
   */
  readonly atLeast?: DurationLike | undefined
  /**
   * false: a run whose process died counts as a run. true: a process that comes for a slot that is running waits for the end of the run,
   * and takes over if the run has ended without saying so. @default false
   */
  readonly retry?: boolean | undefined
}

export interface OncePerOptions extends RunOptions {
  /** It stays yours to stop. */
  readonly manager: Pick<Manager, 'hold' | 'claim' | 'find' | 'release' | 'revoke'>
  /** The family of jobs: those of two prefixes have nothing to do with each other. @default 'once' */
  readonly prefix?: string | undefined
}

export interface RunCallOptions extends RunOptions {
  /** Ends the call with its reason before the work begins; afterwards it aborts the signal of the work. */
  readonly signal?: AbortSignal | undefined
}

export interface LastOptions {
  /** Rejects the call with its reason. */
  readonly signal?: AbortSignal | undefined
}

/** It did not run here. */
export interface Skipped {
  readonly ran: false
  /**
   * `taken`: this slot has run, or runs · `passed`: a later one was begun before, so this one comes too late · `busy`: an earlier one
   * still runs.
   */
  readonly reason: 'taken' | 'passed' | 'busy'
  /** The slot that stood in the way. */
  readonly slot: string
  /** Which process ran it or runs it: host and process id are in its name. */
  readonly by: string
}

/** What became of a call of `run`. */
export type Outcome<T> = { readonly ran: true; readonly slot: string; readonly result: T } | Skipped

/** What became of a call of `begin`. */
export type Begun = { readonly ran: true; readonly slot: string; readonly run: Run } | Skipped

/** What the work is given. */
export interface RunScope {
  /** Aborts when the turn is lost, when the work is over, and with `options.signal`. */
  readonly signal: AbortSignal
  /** Rises with every run of this name. For every write to what the job changes. */
  readonly fencingToken: bigint
  readonly slot: string
  readonly run: Run
}

/** The last slot of a job that was begun. */
export interface LastRun {
  readonly slot: string
  readonly by: string
  /** false: it runs, its process died, or its end could not be recorded. */
  readonly done: boolean
}

/** What is written into a turn or a mark, and where it was found. */
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
  /** Of this call alone. */
  readonly holder: string
  readonly signal: AbortSignal | undefined
}

const TIMES = ['atMost', 'renew', 'atLeast', 'retry']
const MINUTE_MS = 60_000
const DAY_MS = 86_400_000
const DEFAULTS: Times = { atMostMs: MINUTE_MS, renew: true, atLeastMs: DAY_MS, retry: false }
/** So often the turn may change hands between a refusal and the look at who has it, or the mark between a look and a claim. */
const MAX_ROUNDS = 30

/** A run that was begun: the turn of its job, held. Release it when the work has ended. */
export class Run implements Held {
  readonly holder: string
  /** Rises with every run of this name. */
  readonly fencingToken: bigint
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

  get token(): Token {
    return this.#hold.token
  }

  get held(): boolean {
    return this.#releasing === undefined && this.#hold.held
  }

  get signal(): AbortSignal {
    return this.#until.signal
  }

  remaining(): Duration {
    return this.held ? this.#hold.remaining() : Duration.fromMillis(0)
  }

  assertHeld(): void {
    this.#hold.assertHeld()
    if (this.#releasing === undefined) return
    const { lease, holder } = this.#hold
    throw new ErrLost(`lease "${lease}" of "${holder}" is not held any more: released`, {
      lease,
      holder,
      reason: 'expired',
    })
  }

  /**
   * Records that the slot is done, then gives the turn up. A run that was lost records it as well, unless another process runs the slot
   * anew by then.
   *
   * @throws ErrNotHeld another process has the turn already
   * @throws ErrUnknown it may have happened: the slot stays taken, but with `retry` it may run again
   */
  release(): Promise<void> {
    return this.#end(this.#mark.done)
  }

  /** The work never began: takes the mark back, so that another may run the slot. @internal */
  withdraw(): Promise<void> {
    return this.#end(this.#mark.undo)
  }

  /** Never rejects: the outcome of the work must not be masked. A release that fails becomes a warning of the process. */
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

/** The record comes first: the next holder of the turn reads it. */
async function endInOrder(record: () => Promise<unknown>, hold: Hold): Promise<void> {
  try {
    await record()
  } finally {
    await hold.release()
  }
}

/** Runs jobs once per slot, over all processes that use the same prefix and names. See the head of this file. */
export class OncePer {
  readonly #manager: OncePerOptions['manager']
  readonly #prefix: string
  readonly #defaults: Times

  /** @throws ErrNotValid with every problem */
  constructor(options: OncePerOptions) {
    const checks = new Checks(options, ['manager', 'prefix', ...TIMES])
    const { manager, prefix = 'once' } = options
    const isManager = hasMethods(manager, 'hold', 'claim', 'find', 'release', 'revoke')
    checks.must('manager', isManager, 'must be a Manager', manager)
    checks.name('prefix', prefix)
    this.#defaults = timesOf(options, checks, DEFAULTS)
    checks.finish()
    this.#manager = manager
    this.#prefix = encodeSegment(prefix)
  }

  /**
   * Does the work of this slot, unless the slot has run or runs elsewhere. Rejects with what the work throws: the slot has run then, too.
   * A work whose signal aborts is waited for.
   *
   * @throws ErrUnknown  it is not known whether this process was to run the slot: it does not run here, and perhaps nowhere
   * @throws ErrLost     the turn was lost before the work began: it does not run here
   * @throws ErrNotValid nothing was sent
   */
  async run<T>(
    name: string,
    slot: Slot,
    work: (scope: RunScope) => T | PromiseLike<T>,
    options: RunCallOptions = {},
  ): Promise<Outcome<Awaited<T>>> {
    const request = this.#requestOf(name, slot, options, (checks) =>
      checks.must('work', typeof work === 'function', 'must be a function', work),
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
   * As `run`, where somebody else calls the work: a scheduler that asks whether it may. Release the run when the work has ended.
   *
   * @throws ErrUnknown  as `run`
   * @throws ErrNotValid nothing was sent
   */
  async begin(name: string, slot: Slot, options: RunCallOptions = {}): Promise<Begun> {
    return this.#begin(this.#requestOf(name, slot, options))
  }

  /** Reads the last slot of this job that was begun. undefined: none was, or it is forgotten by now (`atLeast`). */
  async last(name: string, options: LastOptions = {}): Promise<LastRun | undefined> {
    const { marks, signal } = this.#callOf(name, options)
    const last = latest(await orAborted(this.#readAll(marks), signal))
    return last === undefined ? undefined : { slot: last.slot, by: last.by, done: last.done }
  }

  /**
   * An operator has the job forget its last slots: the next process that comes runs, whatever its slot. A run in progress goes on.
   *
   * @throws ErrUnknown it may have happened
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
      // Nobody is here any more to run it.
      beginning.then((late) => (late.ran ? late.run.withdraw() : undefined)).catch(() => {})
      throw error
    }
  }

  /** Takes the turn, unless it is known without it that the slot is not ours. */
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
      if (now?.slot === slot && !retry) return notRun('taken', now)
      // The same holder of the turn for so long: it runs, and its mark has lapsed meanwhile.
      if (now !== undefined && now.slot !== slot && now.fencingToken === refusedBy?.fencingToken)
        return notRun('busy', now)
      refusedBy = now
      // A holder that died before it decided is gone after `atMost`.
      wait = now === undefined ? false : now.slot === slot ? true : atMostMs
    }
    throw exhausted(request)
  }

  /** With the turn: whether the slot is ours to run. Unless it is, the turn is given up again. */
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

  /** Puts a mark on the slot, and says which; or says why not. */
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
        // Somebody who does not have the turn any more has put a mark there.
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

  #requestOf(name: string, slot: Slot, options: RunCallOptions, check?: (checks: Checks) => void): Request {
    const checks = new Checks(options, [...TIMES, 'signal'])
    const names = this.#namesOf(name, checks)
    const key = keyOf(slot, checks)
    check?.(checks)
    const times = timesOf(options, checks, this.#defaults)
    const { signal } = options
    checks.signal('signal', signal)
    checks.finish()
    return { ...names, ...times, slot: key, holder: uniqueHolder(), signal }
  }

  #callOf(name: string, options: LastOptions): Names & { readonly signal: AbortSignal | undefined } {
    const checks = new Checks(options, ['signal'])
    const names = this.#namesOf(name, checks)
    const { signal } = options
    checks.signal('signal', signal)
    checks.finish()
    throwIfAborted(signal)
    return { ...names, signal }
  }

  #namesOf(name: string, checks: Checks): Names {
    const rule = brokenSegmentRule(name)
    checks.must('name', rule === undefined, rule ?? '', name)
    const turn = rule === undefined ? `${this.#prefix}/${encodeSegment(name)}` : ''
    const marks = [`${turn}/0`, `${turn}/1`] as const
    checks.fits('name', marks[0], name)
    return { turn, marks }
  }
}

function timesOf(options: RunOptions, checks: Checks, defaults: Times): Times {
  const { atMost, renew = defaults.renew, atLeast, retry = defaults.retry } = options
  const atMostMs = atMost === undefined ? defaults.atMostMs : checks.leaseDuration('atMost', atMost)
  checks.must('renew', typeof renew === 'boolean', 'must be true or false', renew)
  if (renew) checks.renewal('atMost', Math.ceil(atMostMs / 3), 'atMost', atMostMs)
  const atLeastMs = atLeast === undefined ? defaults.atLeastMs : checks.duration('atLeast', atLeast)
  checks.must('retry', typeof retry === 'boolean', 'must be true or false', retry)
  return { atMostMs, renew, atLeastMs, retry }
}

/** The slot as a string that rises. */
function keyOf(slot: unknown, checks: Checks): string {
  const instant = DateTime.isDateTime(slot) ? slot.toMillis() : isDate(slot) ? slot.getTime() : undefined
  if (instant !== undefined) {
    const key = Number.isFinite(instant) ? DateTime.fromMillis(instant, { zone: 'utc' }).toISO() : null
    const isPlain = key !== null && /^\d{4}-/.test(key) // others do not sort
    checks.must('slot', isPlain, 'must be a valid date of the years 0 to 9999', slot)
    return key ?? ''
  }
  const rule = typeof slot === 'string' ? brokenSegmentRule(slot) : 'must be a Date, a DateTime or a string'
  checks.must('slot', rule === undefined, rule ?? '', slot)
  if (rule !== undefined) return ''
  const key = slot as string
  const isShort = Buffer.byteLength(key) <= MAX_NAME_BYTES
  checks.must('slot', isShort, `must be at most ${MAX_NAME_BYTES} bytes`, slot)
  return key
}

/** What is said to somebody who comes for this slot while these marks stand; undefined: it may run. */
function skippedFor({ slot, retry }: Request, marks: readonly Found[]): Skipped | undefined {
  const last = latest(marks)
  if (last === undefined || last.slot < slot) return undefined
  if (last.slot > slot) return notRun('passed', last)
  return retry && !last.done ? undefined : notRun('taken', last)
}

function notRun(reason: Skipped['reason'], { slot, by }: Found): Skipped {
  return { ran: false, reason, slot, by }
}

/** The highest slot; of two marks of one slot the one that is done. */
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

/** Whether the holder of the turn has marked its slot, and not said that it is done. */
function isRunning({ by }: Found, marks: readonly Found[]): boolean {
  return marks.some((mark) => mark.by === by && !mark.done)
}

/** Never rejects: the turn lapses by itself. */
async function leave(hold: Hold): Promise<void> {
  await hold.release().catch(() => {})
}

/** Another has replaced the mark; or the manager was stopped, after which the release of a Hold does nothing either. */
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
