/**
 * A `Client` that plays a script: what is expected of it, and what it answers. For tests of what stands on a Client,
 * where the order and the arguments of its calls are the promise, or an answer is needed that no store would give.
 *
 *     const client = new ScriptedClient([
 *       { call: 'claimLease', args: ['db', { holder: 'b', duration: 30_000 }], throws: new ErrInvalid('held'),
 *         leases: { db: infoOf({ holder: 'a', expiry: clock.in(10_000) }) } },
 *     ])
 *     …
 *     client.verify()                    // nothing unexpected happened, nothing expected is missing
 *
 * After the test client of juju's `worker/lease`.
 */
import { inspect, isDeepStrictEqual } from 'node:util'
import type { DurationLike } from 'luxon'
import type { Client, ClientCallOptions, LeaseChange, Renewal } from '../client.ts'
import { toMillis, type Info, type Request } from '../lease.ts'

/** The methods that follow the script. */
export type ScriptedMethod =
  | 'claimLease'
  | 'extendLease'
  | 'renewLease'
  | 'expireLease'
  | 'releaseLease'
  | 'pinLease'
  | 'unpinLease'
  | 'pinned'
  | 'refresh'
  | 'refreshOver'

/** One expected call and its answer. */
export interface ScriptStep {
  readonly call: ScriptedMethod
  /**
   * The arguments, or the first of them; without it any will do. Of an object only the keys given here are compared,
   * durations by their length, and the leases of `refresh` in any order. `renewLease` shows the lease, and an object with
   * `holder`, `fencingToken` and `duration`.
   */
  readonly args?: readonly unknown[] | undefined
  /** How many such calls are expected; `Infinity`: any number, also none, at any time. @default 1 */
  readonly times?: number | undefined
  /** The answer comes when this has resolved. @default at once */
  readonly after?: PromiseLike<unknown> | undefined
  /** No answer comes, unless the call's signal aborts. @default false */
  readonly hangs?: boolean | undefined
  /** What `leases()` shows from the answer on: these change, undefined = vacant, the others stay. */
  readonly leases?: Readonly<Record<string, Info | undefined>> | undefined
  /** Runs just before the answer: emits a hint, moves something. */
  readonly does?: ((client: ScriptedClient) => void) | undefined
  /** The answer is this rejection. */
  readonly throws?: unknown
  /** What `pinned()` resolves to. @default nothing is pinned */
  readonly returns?: ReadonlyMap<string, readonly string[]> | undefined
}

/** The methods that not every client has. */
export type OptionalMethod = 'renewLease' | 'refreshOver'

/** A call as it came in; `refresh` shows its leases as an array. */
export interface RecordedCall {
  readonly call: ScriptedMethod
  readonly args: readonly unknown[]
}

export interface ScriptedClientOptions {
  /** What `leases()` shows at first. @default nothing */
  readonly leases?: Readonly<Record<string, Info>> | undefined
  /** Whether calls must come in the order of the script; false: in any. @default true */
  readonly inOrder?: boolean | undefined
  /** The optional methods that it does not have, as a client of a third party. @default it has all */
  readonly lacks?: readonly OptionalMethod[] | undefined
}

/** A `Client` that does what the script says; anything else rejects, and is remembered for `verify`. */
export class ScriptedClient implements Client {
  readonly #steps: { readonly step: ScriptStep; left: number }[] = []
  readonly #inOrder: boolean
  readonly #leases = new Map<string, Info>()
  readonly #listeners = new Set<(change: LeaseChange) => void>()
  readonly #calls: RecordedCall[] = []
  readonly #unexpected: string[] = []
  /** As the script says: it calls back with what `extendLease` would have come to. undefined if this client lacks it. */
  declare readonly renewLease?: (renewal: Renewal) => void
  /** As the script says; where it has no such step, no key is a connection. undefined if this client lacks it. */
  declare readonly refreshOver?: (lease: string, trapdoorKey: unknown) => Promise<boolean>
  #inFlight = 0
  #closed = false

  constructor(script: readonly ScriptStep[] = [], options: ScriptedClientOptions = {}) {
    this.#inOrder = options.inOrder ?? true
    const { lacks = [] } = options
    if (!lacks.includes('renewLease')) this.renewLease = (renewal) => this.#renew(renewal)
    if (!lacks.includes('refreshOver')) this.refreshOver = (lease, key) => this.#refreshOver(lease, key)
    this.expect(...script)
    this.show(options.leases ?? {})
  }

  /** Adds to the end of the script. */
  expect(...steps: readonly ScriptStep[]): this {
    for (const step of steps) {
      this.#steps.push({ step, left: step.times ?? 1 })
      step.after?.then(undefined, () => {}) // it may reject before its call comes
    }
    return this
  }

  /** Changes what `leases()` shows, now: undefined = vacant, leases that are not named stay. */
  show(leases: Readonly<Record<string, Info | undefined>>): void {
    for (const [lease, info] of Object.entries(leases)) {
      if (info === undefined) this.#leases.delete(lease)
      else this.#leases.set(lease, info)
    }
  }

  /** Tells all subscribers, before it returns. */
  emit(change: LeaseChange): void {
    for (const listener of [...this.#listeners]) listener(change)
  }

  /** Every call of a scripted method so far, the unexpected ones included. */
  get calls(): readonly RecordedCall[] {
    return this.#calls
  }

  /** How many calls have no answer yet. */
  get inFlight(): number {
    return this.#inFlight
  }

  /** How many subscriptions there are now. */
  get subscribers(): number {
    return this.#listeners.size
  }

  get closed(): boolean {
    return this.#closed
  }

  /** Throws if a call was unexpected or an expected one has not come. */
  verify(): void {
    const missing = this.#steps
      .filter(({ left }) => left > 0 && left !== Number.POSITIVE_INFINITY)
      .map(({ step, left }) => `missing ${showStep(step)}${left > 1 ? ` × ${left}` : ''}`)
    const problems = [...this.#unexpected, ...missing]
    if (problems.length > 0) throw new Error(`the script was not followed:\n  ${problems.join('\n  ')}`)
  }

  async claimLease(lease: string, request: Request, options?: ClientCallOptions): Promise<void> {
    await this.#play('claimLease', [lease, request], options)
  }

  async extendLease(lease: string, request: Request, options?: ClientCallOptions): Promise<void> {
    await this.#play('extendLease', [lease, request], options)
  }

  async expireLease(lease: string, options?: ClientCallOptions): Promise<void> {
    await this.#play('expireLease', [lease], options)
  }

  async releaseLease(lease: string, holder: string, options?: ClientCallOptions): Promise<void> {
    await this.#play('releaseLease', [lease, holder], options)
  }

  async pinLease(lease: string, entity: string, options?: ClientCallOptions): Promise<void> {
    await this.#play('pinLease', [lease, entity], options)
  }

  async unpinLease(lease: string, entity: string, options?: ClientCallOptions): Promise<void> {
    await this.#play('unpinLease', [lease, entity], options)
  }

  async pinned(): Promise<ReadonlyMap<string, readonly string[]>> {
    const { returns } = await this.#play('pinned', [])
    return returns ?? new Map()
  }

  async refresh(leases?: Iterable<string>): Promise<void> {
    await this.#play('refresh', leases === undefined ? [] : [[...leases]])
  }

  leases(): ReadonlyMap<string, Info> {
    return this.#leases
  }

  subscribe(listener: (change: LeaseChange) => void): () => void {
    const own = (change: LeaseChange): void => listener(change)
    this.#listeners.add(own)
    return () => void this.#listeners.delete(own)
  }

  async close(): Promise<void> {
    this.#closed = true
  }

  async #refreshOver(lease: string, trapdoorKey: unknown): Promise<boolean> {
    if (!this.#steps.some(({ step, left }) => step.call === 'refreshOver' && left > 0)) return false
    await this.#play('refreshOver', [lease, trapdoorKey])
    return true
  }

  #renew(renewal: Renewal): void {
    const { lease, holder, fencingToken, durationMs } = renewal
    this.#play('renewLease', [lease, { holder, fencingToken, duration: durationMs }]).then(
      () => renewal.granted(),
      (error: unknown) => renewal.failed(error),
    )
  }

  async #play(call: ScriptedMethod, args: readonly unknown[], options?: ClientCallOptions): Promise<ScriptStep> {
    const recorded: RecordedCall = { call, args }
    this.#calls.push(recorded)
    const step = this.#take(recorded)
    const signal = options?.signal
    signal?.throwIfAborted()
    this.#inFlight++
    try {
      await answerDue(step, signal)
    } finally {
      this.#inFlight--
    }
    this.show(step.leases ?? {})
    step.does?.(this)
    if ('throws' in step) throw step.throws
    return step
  }

  #take(recorded: RecordedCall): ScriptStep {
    const due = this.#steps.filter(({ left }) => left > 0)
    const once = due.filter(({ left }) => left !== Number.POSITIVE_INFINITY)
    const candidates = this.#inOrder ? once.slice(0, 1) : once
    const standing = due.filter(({ left }) => left === Number.POSITIVE_INFINITY)
    const found = [...candidates, ...standing].find(({ step }) => fits(step, recorded))
    if (found !== undefined) {
      found.left--
      return found.step
    }
    const expected =
      candidates.length === 0 ? 'no further call' : candidates.map(({ step }) => showStep(step)).join(', or ')
    const problem = `unexpected ${showCall(recorded)}; expected was ${expected}`
    this.#unexpected.push(problem)
    throw new Error(problem)
  }
}

function fits(step: ScriptStep, { call, args }: RecordedCall): boolean {
  if (step.call !== call) return false
  if (step.args === undefined) return true
  if (call === 'refresh') return isDeepStrictEqual(step.args.map(inNoOrder), args.map(inNoOrder))
  return step.args.every((expected, index) => agrees(expected, args[index]))
}

function agrees(expected: unknown, actual: unknown): boolean {
  if (typeof expected !== 'object' || typeof actual !== 'object' || expected === null || actual === null) {
    return Object.is(expected, actual)
  }
  return Object.entries(expected).every(([key, value]) => {
    const other = (actual as Record<string, unknown>)[key]
    if (key === 'duration') return toMillis(value as DurationLike) === toMillis(other as DurationLike)
    return isDeepStrictEqual(value, other)
  })
}

function inNoOrder(leases: unknown): unknown {
  return Array.isArray(leases) ? new Set(leases) : leases
}

function showStep({ call, args }: ScriptStep): string {
  return args === undefined ? `${call}(…)` : showCall({ call, args })
}

function showCall({ call, args }: RecordedCall): string {
  return `${call}(${args.map((arg) => inspect(arg, { breakLength: Number.POSITIVE_INFINITY })).join(', ')})`
}

/** Resolves when the step's answer is due; rejects with the signal's reason if that comes first. */
async function answerDue({ hangs, after }: ScriptStep, signal: AbortSignal | undefined): Promise<void> {
  if (hangs !== true && after === undefined) return
  let onAbort = (): void => {}
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(signal?.reason as Error)
    signal?.addEventListener('abort', onAbort, { once: true })
  })
  try {
    await (hangs === true ? aborted : Promise.race([after, aborted]))
  } finally {
    signal?.removeEventListener('abort', onAbort)
  }
}
