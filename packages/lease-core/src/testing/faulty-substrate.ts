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
 *              delay, hang         contended          delay, hang
 *              holdBack, repeat                       failAfterCommit, loseReply
 *              loseRequest, reject (not executed)
 *
 * `contended` and `failAfterCommit` befall single operations. The others befall the whole round trip as soon as one of
 * its operations fits, as a network would: what travels together is lost together. Of several such faults that fit,
 * the one injected first is taken; delays add up, and go with any.
 *
 * What was delayed or held back arrives, also when core has given the call up meanwhile: nobody can call a packet back.
 */
import type { DurationLike } from 'luxon'
import type { LeaseChange } from '../client.ts'
import { sleep, systemClock, type Clock } from '../clock.ts'
import { toMillis, type Trapdoor } from '../lease.ts'
import {
  contended,
  unknown,
  type AnyVerdict,
  type Call,
  type ClaimAnyOp,
  type Holding,
  type Op,
  type Pins,
  type Substrate,
  type SubstrateWarning,
  type Verdict,
} from '../substrate.ts'

/** What a call or operation does, for filters and counts. */
export type CallKind = Op['kind'] | 'claimAny' | 'read' | 'pinned' | 'inspect' | 'time'

/** Which calls a fault befalls; all conditions must hold. */
export interface FaultFilter {
  /** @default every kind */
  readonly kind?: CallKind | readonly CallKind[] | undefined
  /** Calls about one of these leases; a read of the whole namespace is about each. @default every lease */
  readonly lease?: string | readonly string[] | undefined
  /** Spares the first that would have been hit. @default 0 */
  readonly skip?: number | undefined
  /** How many are hit. @default all, until it is healed */
  readonly times?: number | undefined
}

/** On the way there, before the store sees it; or on the way back, after it was executed. */
export type FaultPlace = 'request' | 'reply'

export interface PlacedFaultFilter extends FaultFilter {
  /** @default 'request' */
  readonly at?: FaultPlace | undefined
}

/** What can go wrong: one for each method that injects a fault of a round trip. */
export type FaultName =
  | 'delay'
  | 'hang'
  | 'hold-back'
  | 'repeat'
  | 'lose-request'
  | 'reject'
  | 'lose-reply'
  | 'fail-after-commit'
  | 'contended'

/** What `loseRequest`, `loseReply` and `failAfterCommit` fail with. */
export class InjectedFault extends Error {
  override readonly name = 'InjectedFault'
  readonly fault: string

  constructor(fault: string, message: string) {
    super(message)
    this.fault = fault
  }
}

/** An injected fault: watch it strike, and heal it. */
export class Fault {
  readonly #name: FaultName
  readonly #filter: PlacedFaultFilter
  readonly #held = new Set<() => void>()
  /** For `holdBack` and `repeat`: those on their way, each until the store has worked on it. */
  #packets: (() => Promise<void>)[] = []
  #isLetGo = false
  #spared = 0
  #hits = 0
  #healed = false
  /** For `delay`. */
  readonly delayMs: number
  /** For `reject`. */
  readonly error: unknown

  /** @internal made by the methods of `FaultySubstrate` */
  constructor(name: FaultName, filter: PlacedFaultFilter, details: { delayMs?: number; error?: unknown } = {}) {
    this.#name = name
    this.#filter = filter
    this.delayMs = details.delayMs ?? 0
    this.error = details.error
  }

  get name(): FaultName {
    return this.#name
  }

  get place(): FaultPlace {
    return this.#filter.at ?? 'request'
  }

  /** How often it has struck. */
  get hits(): number {
    return this.#hits
  }

  /** How many calls it holds back now, or copies of calls. */
  get hanging(): number {
    return this.#held.size + this.#packets.length
  }

  /** It strikes no more, and the calls that it holds back go on. Idempotent. */
  heal(): void {
    this.#healed = true
    for (const release of this.#held) release()
    this.#held.clear()
  }

  /** It strikes no more, and what it has on its way reaches the store, in order; resolves when the store has worked on the last. */
  async letGo(): Promise<void> {
    this.heal()
    this.#isLetGo = true
    const packets = this.#packets
    this.#packets = []
    for (const arrive of packets) await arrive()
  }

  /** @internal keeps a request on its way until it is let go; resolves with the answer */
  keep<T>(execute: () => Promise<T>): Promise<T> {
    if (this.#isLetGo) return execute() // it was delayed before it got here
    return new Promise((resolve, reject) => {
      this.#packets.push(() => execute().then(resolve, reject))
    })
  }

  /** @internal whether it strikes this one, which is then counted */
  strikes(targets: readonly Target[]): boolean {
    const { skip = 0, times = Number.POSITIVE_INFINITY } = this.#filter
    if (this.#healed || this.#hits >= times || !targets.some((target) => this.#fits(target))) return false
    if (this.#spared < skip) {
      this.#spared++
      return false
    }
    this.#hits++
    return true
  }

  /** @internal resolves when it is healed */
  hold(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason as Error)
      if (this.#healed) return resolve()
      const onAbort = (): void => {
        this.#held.delete(release)
        reject(signal.reason as Error)
      }
      const release = (): void => {
        signal.removeEventListener('abort', onAbort)
        resolve()
      }
      this.#held.add(release)
      signal.addEventListener('abort', onAbort, { once: true })
    })
  }

  #fits({ kind, leases }: Target): boolean {
    const { kind: kinds, lease: names } = this.#filter
    if (kinds !== undefined && ![kinds].flat().includes(kind)) return false
    return names === undefined || leases === 'all' || [names].flat().some((name) => leases.includes(name))
  }
}

interface Target {
  readonly kind: CallKind
  readonly leases: readonly string[] | 'all'
}

export interface FaultySubstrateOptions {
  /** Measures delays. @default the machine's clocks */
  readonly clock?: Clock | undefined
  /** Overrides parts of the substrate's own limits. */
  readonly limits?: Partial<Substrate['limits']> | undefined
  /** Whether it tells of changes, if the substrate does; false: as a store that cannot. @default true */
  readonly watch?: boolean | undefined
  /** Whether it claims one of several leases in one step, if the substrate does. @default true */
  readonly claimAny?: boolean | undefined
}

/** Passes everything on, except what is injected. */
export class FaultySubstrate implements Substrate {
  readonly limits: Substrate['limits']
  declare readonly watch?: (listener: (change: LeaseChange) => void) => () => void
  declare readonly inspect?: (call: Call) => Promise<readonly SubstrateWarning[]>
  declare readonly time?: (call: Call) => Promise<number>
  declare readonly claimAny?: (op: ClaimAnyOp, call: Call) => Promise<AnyVerdict>
  readonly #inner: Substrate
  readonly #clock: Clock
  readonly #faults = new Set<Fault>()
  readonly #listeners = new Set<(change: LeaseChange) => void>()
  #hints: { drop: (change: LeaseChange) => boolean; copies: number; delayMs: number; connected: boolean } = soundHints()
  #ops: Op[] = []
  #counts = noCounts()
  #inFlight = 0

  constructor(inner: Substrate, options: FaultySubstrateOptions = {}) {
    this.#inner = inner
    this.#clock = options.clock ?? systemClock
    this.limits = { ...inner.limits, ...options.limits }
    if (inner.watch !== undefined && options.watch !== false) this.watch = (listener) => this.#watch(listener)
    if (inner.claimAny !== undefined && options.claimAny !== false) {
      this.claimAny = (op, call) => this.#claimAny(op, call)
    }
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

  /** Hints get lost, all or those chosen, until `heal`; nobody is told. */
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

  #claimAny(op: ClaimAnyOp, call: Call): Promise<AnyVerdict> {
    const targets: Target[] = [{ kind: 'claimAny', leases: op.leases }]
    return this.#roundTrip(targets, call, async (inward) => {
      const struck = this.#striking(isOfOneOp, targets, 1)[0]?.name
      if (struck === 'contended') return { outcome: 'contended', lease: undefined, holdings: new Map() }
      const verdict = await this.#inner.claimAny?.(op, inward)
      if (verdict === undefined || struck === 'fail-after-commit') {
        throw new InjectedFault('fail-after-commit', 'it failed after the commit')
      }
      return verdict
    })
  }

  read(leases: readonly string[] | undefined, call: Call): Promise<ReadonlyMap<string, Holding>> {
    return this.#roundTrip([{ kind: 'read', leases: leases ?? 'all' }], call, (inward) =>
      this.#inner.read(leases, inward),
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
      const delays = this.#striking(isDelay, targets)
      const [fault] = this.#striking(isOfTheWire, targets, 1)
      if (delays.length === 0 && fault === undefined) return await execute(call)
      return await orAborted(this.#suffer(delays, fault, call, execute), call.signal)
    } finally {
      this.#inFlight--
    }
  }

  async #suffer<T>(
    delays: readonly Fault[],
    fault: Fault | undefined,
    call: Call,
    execute: (call: Call) => Promise<T>,
  ): Promise<T> {
    await this.#delayed(delays, 'request')
    if (fault?.name === 'hang' && fault.place === 'request') await fault.hold(call.signal)
    if (fault?.name === 'lose-request') throw new InjectedFault('lose-request', 'the connection broke: request lost')
    if (fault?.name === 'reject') throw fault.error
    if (fault?.name === 'hold-back') return fault.keep(() => execute(beyondRecall(call)))
    if (fault?.name === 'repeat') fault.keep(() => execute(beyondRecall(call))).catch(() => {})
    // What is on its way arrives: the store does not learn that core has given it up.
    const answer = await execute(beyondRecall(call))
    if (fault?.name === 'hang' && fault.place === 'reply') await fault.hold(call.signal)
    await this.#delayed(delays, 'reply')
    if (fault?.name === 'lose-reply') throw new InjectedFault('lose-reply', 'the connection broke: reply lost')
    return answer
  }

  async #delayed(delays: readonly Fault[], place: FaultPlace): Promise<void> {
    const ms = delays.filter((delay) => delay.place === place).reduce((sum, { delayMs }) => sum + delayMs, 0)
    if (ms > 0) await sleep(this.#clock, ms)
  }

  async #execute(ops: readonly Op[], targets: readonly Target[], call: Call): Promise<readonly Verdict[]> {
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
    }
    return striking
  }

  #watch(listener: (change: LeaseChange) => void): () => void {
    const own = (change: LeaseChange): void => listener(change)
    this.#listeners.add(own)
    const stop = this.#inner.watch?.((change) => this.#pass(change, own))
    return () => {
      this.#listeners.delete(own)
      stop?.()
    }
  }

  #pass(change: LeaseChange, listener: (change: LeaseChange) => void): void {
    const { connected, drop, copies, delayMs } = this.#hints
    if (!connected || drop(change)) return
    const deliver = (): void => {
      for (let copy = 0; copy < copies && this.#listeners.has(listener); copy++) listener(change)
    }
    if (delayMs > 0) this.#clock.setTimer(delayMs, deliver)
    else deliver()
  }

  #tell(change: LeaseChange): void {
    for (const listener of [...this.#listeners]) listener(change)
  }
}

/** The same call for a store that does not hear of its end. */
function beyondRecall(call: Call): Call {
  const { timeoutMs, client, epoch, sentMs, notAfterMs } = call
  const answered = (storeMs: number): void => call.answered?.(storeMs)
  return { timeoutMs, client, epoch, sentMs, notAfterMs, answered, signal: new AbortController().signal }
}

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
  const ops = { claim: 0, extend: 0, release: 0, expire: 0, pin: 0, unpin: 0 }
  const calls = { claimAny: 0, read: 0, pinned: 0, inspect: 0, time: 0 }
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

/** The promise's outcome, or the signal's reason if that comes first. */
function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason as Error)
    if (signal.aborted) onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}
