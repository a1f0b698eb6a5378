/**
 * Election: of the nodes at one path one leads, and every node knows which one, and its value.
 *
 *   stopped ──start()──▶ waiting ──granted──▶ leading ──lost, release()─▶ waiting …
 *      ▲                    │                    │
 *      └───────stop()───────┴────────────────────┘
 *
 * Promises.
 * - At most one node is selected at any instant. It renews its lease for as long as its process runs. The next node is selected when
 *   the substrate notifies it, or when the lease expires.
 * - When `start()` resolves, the node knows the leader and its value, also a node that joins late or only watches. It is notified of
 *   later changes; one that was over before the node read it is passed over. Nobody polls.
 * - `select` and `deselect` alternate. `deselect` is reported before another node can be selected. A revocation by an operator is the
 *   exception to both: the revoked node may go on as leader until the news arrives.
 * - After `stop()` no timer, wait or subscription is left.
 *
 * While a node leads, it trusts its own term more than what it reads: a read that was sent before the node was selected may arrive after
 * that. While it does not lead, a lease under its own name is a past term, or one that it is about to be granted.
 *
 * Failure. Failed attempts and reads are retried with growing pauses for as long as the node runs. Only an error that no retry can cure
 * (the manager was stopped) stops the node: `error`.
 *
 * After `locked`; the names are the same.
 */
import { randomUUID } from 'node:crypto'
import {
  ErrLost,
  ErrNotHeld,
  ErrStopped,
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
import { OptionReader } from 'lease-core/adapter'
import type { DurationLike } from 'luxon'
import { checkedSignal } from './calls.ts'
import { Emitter } from './emitter.ts'
import { LinkedSignal, orAborted, whenAborted } from './or-aborted.ts'
import { isFinal, pauseAfter } from './retry.ts'
import { unlessGone } from './unless-gone.ts'

/** Options of `election`. */
export interface ElectionOptions {
  /** The recipe does not stop it. */
  readonly manager: Pick<Manager, 'hold' | 'observe' | 'token'>
  /** The clock of the manager, in tests. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/** Options of a node. */
export interface NodeOptions {
  /** The name of the lease; the same for all nodes. */
  readonly path: string
  /** The value of this node, which every node can read while this one leads. At most 4 KiB. Required, unless it only watches. */
  readonly value?: string | undefined
  /** The name of this node; different for each node at one path. @default a random UUID */
  readonly id?: string | undefined
  /** How long a grant lasts. Renewed after a third of it. A number is in milliseconds. @default 10 seconds */
  readonly ttl?: DurationLike | undefined
  /** false: this node only watches and is never selected. @default true */
  readonly candidate?: boolean | undefined
}

/** Options of the calls of a node. */
export interface ElectionCallOptions {
  /** Ends this call with its reason. What was begun is not undone. */
  readonly signal?: AbortSignal | undefined
}

/** Who leads. */
export interface Leader {
  /** The id of the node that leads. */
  readonly id: string
  /** undefined when the lease has no value; nodes of an election always write one. */
  readonly value: string | undefined
  /** Of its term. */
  readonly fencingToken: bigint
}

/** The term of a node that was selected. Its `release()` gives the leadership up, as that of the node does. */
export type Leadership = Held

/** Why a node does not lead any more. */
export type DeselectReason = LossReason | 'resigned' | 'stopped'

/** Events with the arguments of their listeners. */
export interface NodeEvents {
  /** Another node leads, or the leader has another value. Both undefined: nobody leads. */
  change: [value: string | undefined, id: string | undefined]
  /** This node leads from now on. */
  select: [value: string, id: string, term: Leadership]
  /** This node does not lead any more. */
  deselect: [{ readonly reason: DeselectReason }]
  /** This node leads, and its lease was seen to have been renewed: at least once in each `ttl`. */
  refresh: [value: string, id: string]
  /** The leader was seen alive: after each change, and at least once in each `ttl` of the leader. */
  ping: [value: string | undefined, id: string]
  /** The node was stopped: something failed, and no retry can help. */
  error: [unknown]
}

/** Makes nodes, as in `locked`: with all options in one object, or with the path before them. */
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
  const reader = new OptionReader(options, ['manager', 'clock'])
  const { manager } = reader.read
  reader.object('manager', 'a Manager', ['hold', 'observe', 'token'])
  const clock = reader.clock() ?? systemClock
  reader.finish()
  return (first: string | NodeOptions, others: Omit<NodeOptions, 'path'> = {}) => {
    const isSpread = typeof first === 'string' && typeof others === 'object' && others !== null
    const given = isSpread ? { ...others, path: first } : typeof first === 'string' ? others : first
    return new ElectionNode(manager, clock, given as NodeOptions)
  }
}

const TTL_MS = 10_000

/** A node that competes for a path, or watches it. `election()` makes it. */
export class ElectionNode extends Emitter<NodeEvents> implements AsyncDisposable {
  /** The name of the lease. */
  readonly path: string
  /** The name of this node. */
  readonly localId: string
  /** false: this node only watches. */
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
  /** The fencing token of this node's latest term: a leader with a lower one led earlier, whenever it is seen. */
  #latestTerm = -1n
  /** Ends the pause after `release()`, when another node leads. */
  #rival: (() => void) | undefined

  /** @throws ErrNotValid with every problem */
  constructor(manager: ElectionOptions['manager'], clock: Clock, options: NodeOptions) {
    super()
    const reader = new OptionReader(options, ['path', 'value', 'id', 'ttl', 'candidate'])
    const { value } = reader.read
    const path = reader.name('path')
    const candidate = reader.boolean('candidate', true)
    if (!candidate) reader.must('value', value === undefined, 'is not for a node that only watches')
    else if (value === undefined) reader.fault('value', 'must be given, unless candidate is false')
    else reader.value()
    const id = reader.name('id', randomUUID())
    this.#ttlMs = reader.renewedDuration('ttl', TTL_MS)
    reader.finish()
    this.#manager = manager
    this.#clock = clock
    this.path = path
    this.localId = id
    this.#localValue = value
    this.candidate = candidate
    this.token = manager.token(path, this.localId)
  }

  /** The value of this node; undefined if it only watches. */
  get localValue(): string | undefined {
    return this.#localValue
  }

  /** Whether this node competes or watches. */
  get started(): boolean {
    return this.#run !== undefined
  }

  /** Who leads, with value and fencing token. undefined: nobody, or this node is not started. */
  get leader(): Leader | undefined {
    this.isSelected() // reading it ends a term that is over by the clock, before any timer fires
    return this.#leader
  }

  /** The id of the leader; undefined as `leader` is. */
  id(): string | undefined {
    return this.leader?.id
  }

  /** The value of the leader; undefined as `leader` is. */
  value(): string | undefined {
    return this.leader?.value
  }

  /** Whether this node leads and may rely on that now. Reads the clocks when called; does not depend on timers. */
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

  /** Of this node's present term: aborts with an `ErrLost` after a loss, with an AbortError otherwise. Already aborted without a term. */
  get signal(): AbortSignal {
    if (this.isSelected() && this.#hold !== undefined) return this.#hold.signal
    return AbortSignal.abort(new ErrNotHeld(`node "${this.localId}" does not lead "${this.path}"`))
  }

  /**
   * Competes and watches from now on. Resolves when the leader is known; a node that only watches may learn that nobody leads. You need
   * not await it. A second call only waits.
   *
   * @throws ErrStopped the node or the manager was stopped before that
   */
  start(options: ElectionCallOptions = {}): Promise<void> {
    const started = this.#start(options)
    started.catch(() => {})
    return started
  }

  /**
   * Gives the leadership up, if this node leads, and stops competing and watching. The node can be started again. If the release fails,
   * the lease expires by itself. Never rejects; idempotent.
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
   * Gives the leadership up. This node competes again when another node has been seen to lead, or after a `ttl` in which none did. Does
   * nothing while this node does not lead.
   *
   * @throws ErrNotHeld reason `adopted`: another node uses the same `id`, which is not allowed, and goes on as leader
   * @throws ErrUnknown the lease may have been released; if not, it expires by itself. This node does not lead in either case
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
   * Changes the value of this node. While it leads, all nodes are notified. Otherwise the value is written when the node is selected.
   *
   * @throws ErrNotValid the value breaks a rule, or this node only watches
   * @throws ErrUnknown  the value may have been written; it is written again when this node is next selected
   */
  async update(value: string, options: ElectionCallOptions = {}): Promise<void> {
    const signal = checkedSignal(options)
    const reader = new OptionReader({ value }, ['value'])
    if (reader.value() === undefined) reader.must('value', value !== undefined, 'must be a string')
    reader.finish()
    if (!this.candidate) {
      throw notValid([{ argument: 'value', rule: 'is not for a node that only watches', value }])
    }
    this.#localValue = value
    const hold = this.#hold
    if (hold === undefined) return
    await orAborted(this.#write(hold, value), signal)
  }

  /**
   * Yields who leads (undefined: nobody), at once and after each change, whether or not this node is started. Yields the latest
   * state: one that ended before `next()` was called is passed over.
   *
   * @throws ErrStopped the manager was stopped; or throws the reason of the signal
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
    return orAborted(run.known, signal) // if the manager threw, the run has ended already
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
        // A node never leads after it was stopped, nor with an outdated value.
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
      if (!hold.held) return giveBack(hold) // lost before it could lead, for instance in a pause: it competes again
      const reason = await this.#lead(run, hold)
      if (reason === 'resigned') await this.#giveWay(signal)
    })
  }

  /** Repeats the attempt until the run ends; pauses after a failure. An error that no retry can cure ends the run. */
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

  /** Resolves when the node no longer leads. */
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
        hold.release().catch(() => {}) // sends nothing after a loss: nothing relies on it here
        const told = (): void => this.emit('deselect', { reason })
        if (reason === 'stopped') told()
        else this.#tell(this.#news(this.#seen), told)
        resolve(reason)
      }
      whenAborted(signal, onEnd)
    })
  }

  /** Waits until another node leads, at most a `ttl`. */
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
      if (error instanceof ErrLost) return // `deselect` reports it; the value is written at the next selection
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

  /** Who leads by this read, while this node does not: a lease under its own name is a past term, or about to be granted. */
  #news(info: Info | undefined): Leader | undefined {
    if (info === undefined || info.fencingToken < this.#latestTerm) return undefined
    return this.candidate && info.holder === this.localId ? undefined : leaderOf(info)
  }

  /** Reports a change of leader or value, if there is one, and a leader, if there is one. */
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

/** The time from one start to the next stop. */
class Run {
  /** Resolves when the leader is known; rejects when the run ends before that. */
  readonly known: Promise<void>
  /** Resolves when all work of the run has ended. */
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

/** If the release fails, the lease expires. */
function giveBack(hold: Hold): Promise<void> {
  return hold.release().catch(() => {})
}

function leaderOf(info: Info | undefined): Leader | undefined {
  return info === undefined ? undefined : { id: info.holder, value: info.value, fencingToken: info.fencingToken }
}

function isSame(a: Leader | undefined, b: Leader | undefined): boolean {
  return a?.id === b?.id && a?.value === b?.value && a?.fencingToken === b?.fencingToken
}
