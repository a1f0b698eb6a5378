/**
 * Election: among nodes at one path, one leads, and all of them know which and with what value.
 *
 *   stopped ──start()──▶ waiting ──granted──▶ leading ──lost, release()─▶ waiting …
 *      ▲                    │                    │
 *      └───────stop()───────┴────────────────────┘
 *
 * Promises.
 * - At most one node is selected at any instant; it renews by itself for as long as its process runs. When it ends, the
 *   next is selected as soon as the substrate tells so, or when the lease lapses.
 * - Every node, one that joined late and one that only watches too, knows the leader and its value when `start()`
 *   resolves, and hears of every later change. Nobody polls.
 * - `select` and `deselect` alternate, and each is told: `deselect` no later than another can be selected. An operator's
 *   revocation is the exception to both: until the news has come, the revoked node may believe that it leads.
 * - After `stop()` no timer, wait or subscription of it is left.
 *
 * What a node that leads knows of itself counts for more than what it reads: a read that was sent before it was selected
 * may arrive after it, and what it reads about itself while it does not lead is its past, or is about to be granted.
 *
 * Failure. Attempts and reads that fail are repeated with growing pauses for as long as the node runs, whatever they met: errors of others
 * end nothing. What cannot be repeated (the manager was stopped) stops the node: `error`.
 *
 * After `locked`, whose names it keeps.
 */
import { randomUUID } from 'node:crypto'
import {
  ErrLost,
  ErrNotHeld,
  ErrStopped,
  hasMethods,
  notValid,
  sleep,
  systemClock,
  type Clock,
  type Held,
  type Hold,
  type Info,
  type LossReason,
  type Manager,
  type Token,
} from 'lease-core'
import type { DurationLike } from 'luxon'
import { checkedSignal, Checks } from './checks.ts'
import { Emitter } from './emitter.ts'
import { LinkedSignal, orAborted, whenAborted } from './or-aborted.ts'
import { isFinal, pauseAfter } from './retry.ts'
import { unlessGone } from './unless-gone.ts'

export interface ElectionOptions {
  /** It stays yours to stop. */
  readonly manager: Pick<Manager, 'hold' | 'observe' | 'token'>
  /** The manager's. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

export interface NodeOptions {
  /** What the nodes compete for; all of them name the same. */
  readonly path: string
  /** What this node writes when it leads; at most 4 KiB. Needed unless it only watches. */
  readonly value?: string | undefined
  /** Who this node is; no two at one path may be the same. @default a random UUID */
  readonly id?: string | undefined
  /** How long a grant lasts; renewed from a third of it on. A number is in milliseconds. @default 10 seconds */
  readonly ttl?: DurationLike | undefined
  /** false: this node watches and is never selected. @default true */
  readonly candidate?: boolean | undefined
}

export interface ElectionCallOptions {
  /** Ends this call with its reason; what was begun is not undone. */
  readonly signal?: AbortSignal | undefined
}

/** Who leads. */
export interface Leader {
  readonly id: string
  /** Undefined when its lease carries none, which no node of an election does. */
  readonly value: string | undefined
  /** Of its term. */
  readonly fencingToken: bigint
}

/** The term of a node that was selected. Its `release()` is that of the node. */
export type Leadership = Held

/** Why a node does not lead any more. */
export type DeselectReason = LossReason | 'resigned' | 'stopped'

/** Events with the arguments of their listeners. */
export interface NodeEvents {
  /** Another leads, or with another value; both undefined: nobody does. */
  change: [value: string | undefined, id: string | undefined]
  /** This node leads from now on. */
  select: [value: string, id: string, term: Leadership]
  /** This node does not lead any more. */
  deselect: [{ readonly reason: DeselectReason }]
  /** This node leads, and its lease was seen to have been renewed: at least once in each `ttl`. */
  refresh: [value: string, id: string]
  /** A leader was seen to be alive: after each change, and at least once in each `ttl` of its. */
  ping: [value: string | undefined, id: string]
  /** The node was stopped: something failed in a way that no repetition can mend. */
  error: [unknown]
}

/** Makes nodes, as `locked` did: with everything in one object, or with the path before it. */
export interface NodeFactory {
  (options: NodeOptions): ElectionNode
  (path: string, options?: Omit<NodeOptions, 'path'>): ElectionNode
}

/**
 * Makes nodes that elect their leaders with this manager:
 *
 *     const locker = election({ manager })
 *     const node = locker({ path: '/master', value: 'http://10.0.0.1' })
 *
 * @throws ErrNotValid with every problem
 */
export function election(options: ElectionOptions): NodeFactory {
  const checks = new Checks(options, ['manager', 'clock'])
  const { manager, clock } = options
  checks.must('manager', hasMethods(manager, 'hold', 'observe', 'token'), 'must be a Manager', manager)
  const isClock = clock === undefined || hasMethods(clock, 'now', 'monotonic', 'setTimer')
  checks.must('clock', isClock, 'must be a Clock', clock)
  checks.finish()
  return (first: string | NodeOptions, others: Omit<NodeOptions, 'path'> = {}) => {
    const isSpread = typeof first === 'string' && typeof others === 'object' && others !== null
    const given = isSpread ? { ...others, path: first } : typeof first === 'string' ? others : first
    return new ElectionNode(manager, clock ?? systemClock, given as NodeOptions)
  }
}

const TTL_MS = 10_000

/** One of those who compete for a path, or watch it. Made by `election()`. */
export class ElectionNode extends Emitter<NodeEvents> implements AsyncDisposable {
  readonly path: string
  /** Who this node is. */
  readonly localId: string
  readonly candidate: boolean
  /** For `token.check(key)` before a guarded write. */
  readonly token: Token
  readonly #manager: ElectionOptions['manager']
  readonly #clock: Clock
  readonly #ttlMs: number
  #localValue: string | undefined
  #run: Run | undefined
  #stopping: Promise<void> = Promise.resolve()
  #hold: Hold | undefined
  #leader: Leader | undefined
  /** What was seen last, whether or not it counted. */
  #seen: Info | undefined
  /** The fencing token of this node's latest term: who had a lower one led before it, whenever that comes to be seen. */
  #latestTerm = -1n
  /** Ends the pause after resign(), when another leads. */
  #rival: (() => void) | undefined

  /** @throws ErrNotValid with every problem */
  constructor(manager: ElectionOptions['manager'], clock: Clock, options: NodeOptions) {
    super()
    const checks = new Checks(options, ['path', 'value', 'id', 'ttl', 'candidate'])
    const { path, value, id, ttl, candidate = true } = options
    checks.name('path', path)
    checks.must('candidate', typeof candidate === 'boolean', 'must be true or false', candidate)
    if (!candidate) checks.must('value', value === undefined, 'is not for a node that only watches', value)
    else if (value === undefined) checks.must('value', false, 'must be given, unless candidate is false', value)
    else checks.value('value', value)
    if (id !== undefined) checks.name('id', id)
    this.#ttlMs = ttl === undefined ? TTL_MS : checks.leaseDuration('ttl', ttl)
    checks.finish()
    this.#manager = manager
    this.#clock = clock
    this.path = path
    this.localId = id ?? randomUUID()
    this.#localValue = value
    this.candidate = candidate
    this.token = manager.token(path, this.localId)
  }

  /** What this node writes when it leads; undefined if it only watches. */
  get localValue(): string | undefined {
    return this.#localValue
  }

  /** Whether this node competes or watches. */
  get started(): boolean {
    return this.#run !== undefined
  }

  /** Who leads, with value and term; undefined: nobody, or not known because this node is not started. */
  get leader(): Leader | undefined {
    this.isSelected() // a term that is over by the clock is so before any timer says it
    return this.#leader
  }

  /** Who leads. */
  id(): string | undefined {
    return this.leader?.id
  }

  /** The value of the one who leads. */
  value(): string | undefined {
    return this.leader?.value
  }

  /** Whether this node leads and may rely on it. Reads the clock; never trusts a timer. */
  isSelected(): boolean {
    return this.#hold?.held === true
  }

  /** Of this node's present term; undefined while it does not lead. */
  get fencingToken(): bigint | undefined {
    return this.isSelected() ? this.#hold?.fencingToken : undefined
  }

  /** This node's present term; undefined while it does not lead. */
  get term(): Leadership | undefined {
    return this.isSelected() ? this.#hold : undefined
  }

  /** Of this node's present term: aborts when it ends, unasked (`ErrLost`) or not. Without a term it is aborted already. */
  get signal(): AbortSignal {
    if (this.isSelected() && this.#hold !== undefined) return this.#hold.signal
    return AbortSignal.abort(new ErrNotHeld(`node "${this.localId}" does not lead "${this.path}"`))
  }

  /**
   * Competes and watches from now on. Resolves when the leader is known; to a node that only watches, that nobody leads
   * is knowledge, too. Not to wait for it is safe. Started already, it only waits.
   *
   * @throws ErrStopped the node or the manager was stopped before
   */
  start(options: ElectionCallOptions = {}): Promise<void> {
    const started = this.#start(options)
    started.catch(() => {})
    return started
  }

  /**
   * Gives the leadership up if this node leads, and neither competes nor watches any more; it can be started again. A
   * lease that could not be given up lapses by itself. Idempotent.
   */
  stop(): Promise<void> {
    const run = this.#run
    if (run === undefined) return this.#stopping
    this.#run = undefined
    const hold = this.#hold
    run.end(new ErrStopped('the node was stopped', { lease: this.path, holder: this.localId }))
    const released = hold?.release().catch(() => {})
    this.#leader = undefined
    this.#seen = undefined
    this.#stopping = Promise.all([this.#stopping, released, run.ended]).then(() => {})
    return this.#stopping
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop()
  }

  /**
   * Gives the leadership up and goes on competing, but only when another has led or nobody wanted to for a `ttl`. Does
   * nothing while this node does not lead.
   *
   * @throws ErrNotHeld another node of the same `id`, which none may have, goes on with it (reason `adopted`)
   * @throws ErrUnknown it may have happened; if not, the lease lapses by itself. This node does not lead in any case
   */
  async release(options: ElectionCallOptions = {}): Promise<void> {
    const signal = checkedSignal(options)
    const released = this.#hold?.release().catch(unlessGone)
    if (released !== undefined) await orAborted(released, signal)
  }

  /** The same as `release()`. */
  resign(options: ElectionCallOptions = {}): Promise<void> {
    return this.release(options)
  }

  /**
   * Changes the value of this node. While it leads, everyone is told; else it is written when it is selected.
   *
   * @throws ErrNotValid the value breaks a rule, or this node only watches
   * @throws ErrUnknown  it may have been written; it is again when this node is next selected
   */
  async update(value: string, options: ElectionCallOptions = {}): Promise<void> {
    const signal = checkedSignal(options)
    const checks = new Checks({ value }, ['value'])
    if (value === undefined) checks.must('value', false, 'must be a string', value)
    checks.value('value', value)
    checks.finish()
    if (!this.candidate) {
      throw notValid([{ argument: 'value', rule: 'is not for a node that only watches', value }])
    }
    this.#localValue = value
    const hold = this.#hold
    if (hold === undefined) return
    await orAborted(this.#write(hold, value), signal)
  }

  /**
   * Yields who leads (undefined: nobody), at once and then whenever that has changed, whether or not this node is
   * started. The latest state counts: one that was over before it was asked for is passed over.
   *
   * @throws ErrStopped the manager was stopped; or the reason of the signal
   */
  async *observe(options: ElectionCallOptions = {}): AsyncGenerator<Leader | undefined, never, void> {
    const signal = checkedSignal(options)
    let told: { readonly leader: Leader | undefined } | undefined
    for await (const info of this.#manager.observe(this.path, { signal })) {
      const leader = leaderOf(info)
      if (told !== undefined && isSame(told.leader, leader)) continue
      told = { leader }
      yield leader
    }
    throw new ErrStopped('the manager does not observe any more', { lease: this.path })
  }

  // ── running ───────────────────────────────────────────────────────────────────────────────────────────────────

  async #start(options: ElectionCallOptions): Promise<void> {
    const signal = checkedSignal(options)
    let run = this.#run
    if (run === undefined) {
      run = new Run()
      this.#run = run
      run.ended = Promise.all([this.#watch(run), this.candidate ? this.#compete(run) : undefined])
    }
    return orAborted(run.known, signal) // a manager that throws has ended it already
  }

  async #watch(run: Run): Promise<void> {
    const { signal } = run
    await this.#persist(run, async () => {
      for await (const info of this.#manager.observe(this.path, { signal, renewals: true })) {
        if (signal.aborted) return
        this.#see(info)
        if (!this.candidate || this.#news(info) !== undefined) run.know()
      }
    })
  }

  #compete(run: Run): Promise<void> {
    const { signal } = run
    return this.#persist(run, async () => {
      let written = this.#localValue ?? ''
      const hold = await this.#manager.hold(this.path, this.localId, {
        duration: this.#ttlMs,
        value: written,
        announce: true,
        wait: true,
        signal,
      })
      try {
        // A node never leads when it is not meant to any more, nor with a value that is not its own.
        for (let value = this.#localValue ?? ''; value !== written && !signal.aborted; value = this.#localValue ?? '') {
          await hold.update(value)
          written = value
        }
      } catch (error) {
        if (error instanceof ErrLost) return
        await giveBack(hold)
        throw error
      }
      if (signal.aborted) return giveBack(hold)
      const reason = await this.#lead(run, hold)
      if (reason === 'resigned') await this.#giveWay(signal)
    })
  }

  /** Does it again and again until the run ends; pauses when it failed. What no repetition can mend ends the run. */
  async #persist(run: Run, attempt: () => Promise<void>): Promise<void> {
    const { signal } = run
    for (let failures = 0; !signal.aborted;) {
      try {
        await attempt()
        failures = 0
      } catch (error) {
        if (isFinal(error)) return this.#fail(run, error)
        await pauseAfter(++failures, { clock: this.#clock, signal })
      }
    }
  }

  /** Resolves when it does not lead any more. */
  #lead(run: Run, hold: Hold): Promise<DeselectReason> {
    this.#hold = hold
    const { fencingToken, signal } = hold
    this.#latestTerm = fencingToken
    const leader = { id: this.localId, value: this.#localValue ?? '', fencingToken }
    this.#tell(leader, () => this.emit('select', leader.value, leader.id, hold))
    run.know()
    return new Promise((resolve) => {
      const onEnd = (): void => {
        const reason =
          signal.reason instanceof ErrLost ? signal.reason.reason : run.signal.aborted ? 'stopped' : 'resigned'
        this.#hold = undefined
        const told = (): void => this.emit('deselect', { reason })
        if (reason === 'stopped') told()
        else this.#tell(this.#news(this.#seen), told)
        resolve(reason)
      }
      whenAborted(signal, onEnd)
    })
  }

  /** Until another leads; when nobody wants to, as long as a lease lasts. */
  async #giveWay(signal: AbortSignal): Promise<void> {
    if (this.#leader !== undefined) return
    const rival = new LinkedSignal(signal)
    this.#rival = () => rival.abort(undefined)
    await sleep(this.#clock, this.#ttlMs, rival.signal).catch(() => {})
    rival.letGo()
    this.#rival = undefined
  }

  #fail(run: Run, error: unknown): void {
    if (run.signal.aborted) return
    run.end(error)
    this.#run = undefined
    const released = this.#hold?.release().catch(() => {})
    this.#leader = undefined
    this.#seen = undefined
    this.#stopping = Promise.all([this.#stopping, released]).then(() => {})
    this.emit('error', error)
  }

  async #write(hold: Hold, value: string): Promise<void> {
    try {
      await hold.update(value)
    } catch (error) {
      if (error instanceof ErrLost) return // told as `deselect`; it is written when this node is next selected
      throw error
    }
    if (this.#hold !== hold || this.#localValue !== value) return
    this.#tell({ id: this.localId, value, fencingToken: hold.fencingToken })
  }

  // ── what is known ─────────────────────────────────────────────────────────────────────────────────────────────

  #see(info: Info | undefined): void {
    const before = this.#seen
    this.#seen = info
    const hold = this.isSelected() ? this.#hold : undefined
    if (hold === undefined) {
      this.#tell(this.#news(info))
      return
    }
    if (info?.fencingToken !== hold.fencingToken) return
    if (info.value !== this.#leader?.value) this.#tell(leaderOf(info)) // an update whose answer was lost
    else if (before?.fencingToken === hold.fencingToken && before.value === info.value) {
      this.emit('refresh', info.value ?? '', info.holder)
      this.emit('ping', info.value, info.holder)
    }
  }

  /** Who leads by this, while this node does not: a lease in its own name is one that it had, or is about to have. */
  #news(info: Info | undefined): Leader | undefined {
    if (info === undefined || info.fencingToken < this.#latestTerm) return undefined
    return this.candidate && info.holder === this.localId ? undefined : leaderOf(info)
  }

  /** Tells what has changed, if anything, and that there is a leader, if there is. */
  #tell(leader: Leader | undefined, andThen: () => void = () => {}): void {
    const before = this.#leader
    this.#leader = leader
    if (leader?.id !== before?.id || leader?.value !== before?.value) this.emit('change', leader?.value, leader?.id)
    andThen()
    if (leader === undefined) return
    this.emit('ping', leader.value, leader.id)
    if (leader.id !== this.localId) this.#rival?.()
  }
}

/** One time between start and stop. */
class Run {
  /** Resolves when the leader is known; rejects when that will not be. */
  readonly known: Promise<void>
  /** Resolves when nothing of it goes on any more. */
  ended: Promise<unknown> = Promise.resolve()
  know: () => void = () => {}
  readonly #ending = new AbortController()
  #giveUp: (reason: unknown) => void = () => {}

  constructor() {
    this.known = new Promise((resolve, reject) => {
      this.know = resolve
      this.#giveUp = reject
    })
  }

  get signal(): AbortSignal {
    return this.#ending.signal
  }

  end(reason: unknown): void {
    this.#ending.abort(reason)
    this.#giveUp(reason)
  }
}

/** A lease that cannot be released lapses. */
function giveBack(hold: Hold): Promise<void> {
  return hold.release().catch(() => {})
}

function leaderOf(info: Info | undefined): Leader | undefined {
  return info === undefined ? undefined : { id: info.holder, value: info.value, fencingToken: info.fencingToken }
}

function isSame(a: Leader | undefined, b: Leader | undefined): boolean {
  return a?.id === b?.id && a?.value === b?.value && a?.fencingToken === b?.fencingToken
}
