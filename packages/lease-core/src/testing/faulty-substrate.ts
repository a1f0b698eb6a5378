/**
 * A `Substrate` between core and a real one, on which everything can go wrong that goes wrong on a network.
 *
 *     const faulty = new FaultySubstrate(new MemorySubstrate({ store }), { clock })
 *     const client = new SubstrateClient({ substrate: faulty, clock })
 *     faulty.loseReply({ kind: 'claim', times: 1 })        // the next claim is executed, its answer lost
 *     const slow = faulty.hang({ lease: 'db' })            // calls about "db" get stuck …
 *     slow.heal()                                          // … until now: they arrive, and are answered
 *
 * A round trip and where each fault befalls it:
 *
 *     core ──▶ request ────────▶ executed ────────▶ reply ──▶ core
 *              delay, hang         contended         delay, hang
 *              holdBack, repeat    failAfterCommit   loseReply
 *              duplicate, executeLate
 *              loseRequest, reject (not executed)
 *
 * `contended` and `failAfterCommit` befall single operations. The others befall the whole round trip as soon as one of
 * its operations fits, as a network would: what travels together is lost together. Of several such faults that fit,
 * the one injected first is taken; delays add up, and go with any.
 *
 * Nobody can call a packet back. What core has given up since is executed all the same, except by `hang` and what is never
 * executed.
 */
import type { DurationLike } from 'luxon'
import { abortController } from '../abort-signal.ts'
import type { LeaseChange } from '../client.ts'
import { sleep, systemClock, type Clock } from '../clock.ts'
import { toMillis, type Trapdoor } from '../lease.ts'
import {
  contended,
  unknown,
  type Call,
  type Counted,
  type Holding,
  type Op,
  type Pins,
  type Substrate,
  type SubstrateWarning,
  type Verdict,
} from '../substrate.ts'
import {
  Fault,
  InjectedFault,
  onGivenUp,
  type CallKind,
  type FaultFilter,
  type FaultPlace,
  type FaultTarget as Target,
  type PlacedFaultFilter,
} from './fault.ts'
import type { TestClock } from './test-clock.ts'

export interface FaultySubstrateOptions {
  /** Measures delays. @default the machine's clocks */
  readonly clock?: Clock | undefined
  /** Overrides parts of the substrate's own limits. */
  readonly limits?: Partial<Substrate['limits']> | undefined
  /** Whether it tells of changes, if the substrate does; false: as a store that cannot. @default true */
  readonly watch?: boolean | undefined
  /** How long each way takes, and a hint; a function is asked each time, so that packets overtake each other. @default no time */
  readonly latency?: DurationLike | (() => number) | undefined
  /** The machine that asks: while its process is stalled, suspended or killed (`SimulatedTime`), nothing is handed to it. */
  readonly receiver?: TestClock | undefined
}

/** Passes everything on, except what is injected. */
export class FaultySubstrate implements Substrate {
  readonly limits: Substrate['limits']
  readonly store: Substrate['store']
  readonly hintDelayMs: Substrate['hintDelayMs']
  declare readonly watch?: (listener: (change: LeaseChange) => void, client?: string) => () => void
  declare readonly inspect?: (call: Call) => Promise<readonly SubstrateWarning[]>
  declare readonly time?: (call: Call) => Promise<number>
  declare readonly counted?: (lease: string, call: Call) => Promise<Counted>
  declare readonly waiting?: (lease: string, call: Call) => Promise<number>
  /** Over a connection of the caller: no fault befalls it. */
  declare readonly readOver?: (
    key: unknown,
    lease: string,
  ) => Promise<ReadonlyMap<string, Holding> | undefined> | undefined
  readonly #inner: Substrate
  readonly #clock: Clock
  readonly #latencyMs: (() => number) | undefined
  readonly #receiver: TestClock | undefined
  readonly #faults = new Set<Fault>()
  readonly #listeners = new Set<(change: LeaseChange) => void>()
  #hints: { drop: (change: LeaseChange) => boolean; copies: number; delayMs: number; connected: boolean } = soundHints()
  #ops: Op[] = []
  #counts = noCounts()
  #inFlight = 0

  constructor(inner: Substrate, options: FaultySubstrateOptions = {}) {
    this.#inner = inner
    this.#clock = options.clock ?? systemClock
    this.store = inner.store
    this.hintDelayMs = inner.hintDelayMs
    this.limits = { ...inner.limits, ...options.limits }
    const { latency, receiver } = options
    this.#latencyMs = latency === undefined || typeof latency === 'function' ? latency : () => toMillis(latency)
    this.#receiver = receiver
    if (inner.watch !== undefined && options.watch !== false) {
      this.watch = (listener, client) => this.#watch(listener, client)
    }
    if (inner.counted !== undefined) {
      this.counted = (lease, call) =>
        this.#roundTrip([{ kind: 'counted', leases: [lease] }], call, async (inward) => {
          const counted = await inner.counted?.(lease, inward)
          return counted ?? { capacity: undefined, generation: undefined, shares: new Map() }
        })
    }
    if (inner.waiting !== undefined) {
      this.waiting = (lease, call) =>
        this.#roundTrip([{ kind: 'waiting', leases: [lease] }], call, async (inward) => {
          return (await inner.waiting?.(lease, inward)) ?? 0
        })
    }
    if (inner.readOver !== undefined) this.readOver = (key, lease) => inner.readOver?.(key, lease)
    if (inner.time !== undefined) {
      this.time = (call) =>
        this.#roundTrip([{ kind: 'time', leases: [] }], call, async (inward) => (await inner.time?.(inward)) ?? 0)
    }
    if (inner.inspect !== undefined) {
      this.inspect = (call) =>
        this.#roundTrip(
          [{ kind: 'inspect', leases: [] }],
          call,
          async (inward) => (await inner.inspect?.(inward)) ?? [],
        )
    }
  }

  // ── faults of round trips ─────────────────────────────────────────────────────────────────────────────────────

  /** It takes this much longer, on the way there or back. */
  delay(duration: DurationLike, filter: PlacedFaultFilter = {}): Fault {
    return this.#inject(new Fault('delay', filter, { delayMs: toMillis(duration) }))
  }

  /** It gets stuck, on the way there or back, until the fault is healed; given up by core meanwhile, it is gone. */
  hang(filter: PlacedFaultFilter = {}): Fault {
    return this.#inject(new Fault('hang', filter))
  }

  /** It stands still on the way there, beyond recall, until `letGo`: it arrives also when core has given it up by then. */
  holdBack(filter: FaultFilter = {}): Fault {
    return this.#inject(new Fault('hold-back', filter))
  }

  /** It arrives, is executed and answered; a copy of it arrives at `letGo`, as if a driver had sent it twice. */
  repeat(filter: FaultFilter = {}): Fault {
    return this.#inject(new Fault('repeat', filter))
  }

  /** The same by the clock: the copy is answered, and the first arrives so much later. */
  duplicate(duration: DurationLike, filter: FaultFilter = {}): Fault {
    return this.#inject(new Fault('duplicate', filter, { delayMs: toMillis(duration) }))
  }

  /** It rejects at once, as when a connection breaks, and is executed so much later. */
  executeLate(duration: DurationLike, filter: FaultFilter = {}): Fault {
    return this.#inject(new Fault('execute-late', filter, { delayMs: toMillis(duration) }))
  }

  /** It never arrives, and rejects: not executed, which nobody can know. */
  loseRequest(filter: FaultFilter = {}): Fault {
    return this.#inject(new Fault('lose-request', filter))
  }

  /** It is executed, and rejects. */
  loseReply(filter: FaultFilter = {}): Fault {
    return this.#inject(new Fault('lose-reply', filter))
  }

  /** It rejects with this error and is not executed: a server that is away, wrong credentials. */
  reject(error: unknown, filter: FaultFilter = {}): Fault {
    return this.#inject(new Fault('reject', filter, { error }))
  }

  /** The operation is executed and its verdict is `unknown`; others of the batch get theirs. */
  failAfterCommit(filter: FaultFilter = {}): Fault {
    return this.#inject(new Fault('fail-after-commit', filter))
  }

  /** The operation is not executed and its verdict is `contended`; others of the batch get theirs. */
  contended(filter: FaultFilter = {}): Fault {
    return this.#inject(new Fault('contended', filter))
  }

  /** All is well again: faults are healed, what hangs goes on, the watch is connected, with a `resync`. */
  heal(): void {
    for (const fault of this.#faults) fault.heal()
    this.#faults.clear()
    const { connected } = this.#hints
    this.#hints = soundHints()
    if (!connected) this.#tell({ kind: 'resync' })
  }

  // ── faults of the watch ───────────────────────────────────────────────────────────────────────────────────────

  /** Hints get lost, all or those chosen, until `heal`; nobody is notified. */
  dropHints(which: (change: LeaseChange) => boolean = () => true): void {
    this.#hints.drop = which
  }

  /** Every hint arrives so many times, until `heal`. */
  duplicateHints(copies: number = 2): void {
    this.#hints.copies = copies
  }

  /** Hints arrive this much later, until `heal`. */
  delayHints(duration: DurationLike): void {
    this.#hints.delayMs = toMillis(duration)
  }

  /** The connection of the watch is gone: hints are lost until `reconnectWatch` or `heal`. */
  disconnectWatch(): void {
    this.#hints.connected = false
  }

  /** The watch is connected anew, and says so: `resync`. */
  reconnectWatch(): void {
    this.#hints.connected = true
    this.#tell({ kind: 'resync' })
  }

  /** A hint out of nowhere. */
  emit(change: LeaseChange): void {
    this.#tell(change)
  }

  // ── what was seen ─────────────────────────────────────────────────────────────────────────────────────────────

  /** How much core has sent since the start or `resetCounts`, lost or not: operations, and calls, by kind. */
  get counts(): Readonly<Counts> {
    return this.#counts
  }

  /** The operations sent since then, in order, lost or not. */
  get ops(): readonly Op[] {
    return this.#ops
  }

  /** How many round trips core waits for now. */
  get inFlight(): number {
    return this.#inFlight
  }

  /** How many watch now. */
  get watchers(): number {
    return this.#listeners.size
  }

  resetCounts(): void {
    this.#counts = noCounts()
    this.#ops = []
  }

  // ── the port ──────────────────────────────────────────────────────────────────────────────────────────────────

  apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    this.#ops.push(...ops)
    this.#counts.largestBatch = Math.max(this.#counts.largestBatch, ops.length)
    const targets = ops.map(({ kind, lease }): Target => ({ kind, leases: [lease] }))
    return this.#roundTrip(targets, call, (inward) => this.#execute(ops, targets, inward))
  }

  read(
    leases: readonly string[] | undefined,
    call: Call,
    watched?: readonly string[],
  ): Promise<ReadonlyMap<string, Holding>> {
    return this.#roundTrip([{ kind: 'read', leases: leases ?? 'all' }], call, (inward) =>
      this.#inner.read(leases, inward, watched),
    )
  }

  pinned(call: Call, leases?: readonly string[]): Promise<ReadonlyMap<string, Pins>> {
    return this.#roundTrip([{ kind: 'pinned', leases: leases ?? 'all' }], call, (inward) =>
      this.#inner.pinned(inward, leases),
    )
  }

  trapdoor(lease: string, holder: string, fencingToken: bigint): Trapdoor {
    return this.#inner.trapdoor(lease, holder, fencingToken)
  }

  async close(): Promise<void> {
    await this.#inner.close()
  }

  #inject(fault: Fault): Fault {
    this.#faults.add(fault)
    return fault
  }

  async #roundTrip<T>(targets: readonly Target[], call: Call, execute: (call: Call) => Promise<T>): Promise<T> {
    const counts = this.#counts
    if (targets[0]?.kind !== 'time') counts.roundTrips++
    for (const { kind } of targets) counts[kind]++
    this.#inFlight++
    counts.peakInFlight = Math.max(counts.peakInFlight, this.#inFlight)
    try {
      const delays = this.#faults.size === 0 ? NONE : this.#striking(isDelay, targets)
      const fault = this.#faults.size === 0 ? undefined : this.#striking(isOfTheWire, targets, 1)[0]
      const isDirect = this.#latencyMs === undefined && this.#receiver === undefined
      if (isDirect && delays.length === 0 && fault === undefined) return await execute(call)
      const outcome = this.#travel(delays, fault, call, execute)
      return await orGivenUp(this.#receiver === undefined ? outcome : this.#arrived(outcome), call)
    } finally {
      this.#inFlight--
    }
  }

  async #travel<T>(
    delays: readonly Fault[],
    fault: Fault | undefined,
    call: Call,
    execute: (call: Call) => Promise<T>,
  ): Promise<T> {
    const { name, place } = fault ?? {}
    if (fault !== undefined && (name === 'duplicate' || name === 'execute-late')) {
      const first = { ...beyondRecall(call), answered: () => {} } // nobody listens to its answer any more
      this.#clock.setTimer(fault.delayMs, () => void execute(first).catch(() => {}))
      if (name === 'execute-late') throw new InjectedFault(name, 'the connection broke: the request is still under way')
    }
    await this.#underWay(delays, 'request')
    if (name === 'hang' && place === 'request') await fault?.hold(call)
    if (name === 'lose-request') throw new InjectedFault(name, 'the connection broke: request lost')
    if (name === 'reject') throw fault?.error
    if (name === 'hold-back' || name === 'repeat') {
      const kept = fault?.keep(() => execute(beyondRecall(call)))
      if (kept !== undefined && name === 'hold-back') return kept
      kept?.catch(() => {})
    }
    // What is on its way arrives: the store does not learn that core has given it up.
    const answer = await execute(beyondRecall(call))
    if (name === 'hang' && place === 'reply') await fault?.hold(call)
    await this.#underWay(delays, 'reply')
    if (name === 'lose-reply') throw new InjectedFault(name, 'the connection broke: reply lost')
    return answer
  }

  #underWay(delays: readonly Fault[], place: FaultPlace): Promise<void> | undefined {
    let ms = this.#latencyMs?.() ?? 0
    for (const delay of delays) if (delay.place === place) ms += delay.delayMs
    return ms > 0 ? sleep(this.#clock, ms) : undefined
  }

  /** The same outcome, when the process runs. */
  async #arrived<T>(outcome: Promise<T>): Promise<T> {
    try {
      return await outcome
    } finally {
      for (let wait = this.#receiver?.whenReceiving(); wait !== undefined; wait = this.#receiver?.whenReceiving())
        await wait
    }
  }

  async #execute(ops: readonly Op[], targets: readonly Target[], call: Call): Promise<readonly Verdict[]> {
    if (this.#faults.size === 0) return this.#inner.apply(ops, call)
    const struck = targets.map((target) => this.#striking(isOfOneOp, [target], 1)[0]?.name)
    const passed = ops.filter((_, index) => struck[index] !== 'contended')
    const verdicts = passed.length === 0 ? [] : await this.#inner.apply(passed, call)
    let next = 0
    return struck.map((name) => {
      if (name === 'contended') return contended
      const verdict = verdicts[next++] ?? unknown(new Error('the substrate answered too few verdicts'))
      if (name !== 'fail-after-commit') return verdict
      return unknown(new InjectedFault('fail-after-commit', 'it failed after the commit'))
    })
  }

  #striking(isKind: (fault: Fault) => boolean, targets: readonly Target[], atMost = Number.POSITIVE_INFINITY): Fault[] {
    const striking: Fault[] = []
    for (const fault of this.#faults) {
      if (striking.length < atMost && isKind(fault) && fault.strikes(targets)) striking.push(fault)
      else if (fault.isOver) this.#faults.delete(fault)
    }
    return striking
  }

  #watch(listener: (change: LeaseChange) => void, client: string | undefined): () => void {
    const own = (change: LeaseChange): void => listener(change)
    this.#listeners.add(own)
    const stop = this.#inner.watch?.((change) => this.#pass(change, own), client)
    return () => {
      this.#listeners.delete(own)
      stop?.()
    }
  }

  #pass(change: LeaseChange, listener: (change: LeaseChange) => void): void {
    const { connected, drop, copies, delayMs } = this.#hints
    if (!connected || drop(change)) return
    const deliver = (): void => {
      const wait = this.#receiver?.whenReceiving()
      if (wait !== undefined) return void wait.then(deliver)
      for (let copy = 0; copy < copies && this.#listeners.has(listener); copy++) listener(change)
    }
    const ms = delayMs + (this.#latencyMs?.() ?? 0)
    if (ms > 0) this.#clock.setTimer(ms, deliver)
    else deliver()
  }

  #tell(change: LeaseChange): void {
    for (const listener of [...this.#listeners]) listener(change)
  }
}

const NONE: readonly Fault[] = []

type Writable<T> = { -readonly [Name in keyof T]: T[Name] }

/** The same call for a store that does not hear of its end. */
function beyondRecall(call: Call): Call {
  const answered = (storeMs: number): void => call.answered?.(storeMs)
  const passedOn: Partial<Writable<Call>> = { ...call, answered, signal: NEVER }
  delete passedOn.onAbort
  return passedOn as Call
}

/** Does not abort. One for all: a signal costs more than the rest of a call. */
const NEVER = abortController().signal

/** Operations and calls by kind, and what they tell of coalescing. */
export interface Counts extends Record<CallKind, number> {
  /** All but those of kind `time`, which belong to setting up a connection. */
  roundTrips: number
  /** Operations in one round trip, at most so far. */
  largestBatch: number
  /** Round trips out at once, at most so far. */
  peakInFlight: number
}

function noCounts(): Counts {
  const ops = { claim: 0, extend: 0, release: 0, expire: 0, pin: 0, unpin: 0, leave: 0, passOver: 0, define: 0 }
  const calls = { read: 0, counted: 0, waiting: 0, pinned: 0, inspect: 0, time: 0 }
  return { ...ops, ...calls, roundTrips: 0, largestBatch: 0, peakInFlight: 0 }
}

function soundHints(): { drop: (change: LeaseChange) => boolean; copies: number; delayMs: number; connected: boolean } {
  return { drop: () => false, copies: 1, delayMs: 0, connected: true }
}

function isDelay({ name }: Fault): boolean {
  return name === 'delay'
}

function isOfOneOp({ name }: Fault): boolean {
  return name === 'contended' || name === 'fail-after-commit'
}

function isOfTheWire(fault: Fault): boolean {
  return !isDelay(fault) && !isOfOneOp(fault)
}

/** The promise's outcome, or why core has given the call up if that comes first. */
function orGivenUp<T>(promise: Promise<T>, call: Call): Promise<T> {
  return new Promise((resolve, reject) => {
    onGivenUp(call, reject)
    promise.then(resolve, reject)
  })
}
