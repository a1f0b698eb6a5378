/**
 * One call for claim, work and release.
 *
 *     withLease ──granted──▶ work ──settles──▶ inner calls settle ──▶ release ──▶ settles as the work did
 *                             └─ withLease of the same manager and name: joins, and claims nothing
 *
 * Re-entrant within its asynchronous context, which `AsyncLocalStorage` follows: everything that the work calls, directly or indirectly, is
 * inside. A call joins the innermost work of the same manager and name that has not settled. If all of them have settled, the call is
 * outside, and claims: for instance a call from a promise that outlives its work.
 *
 * The lease is released only when no work uses it: an outer call waits for the inner calls that have joined it.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { uniqueHolder } from 'lease-core'
import type { Hold, Manager, ReleaseOptions, Token, UpdateOptions } from 'lease-core'
import { OptionReader } from 'lease-core/adapter'
import { Duration, type DateTime } from 'luxon'
import { HOLD_OPTIONS, readLeaseOptions, type LeaseOptions } from './hold-options.ts'
import { LinkedSignal } from './or-aborted.ts'
import { released } from './released.ts'
import { using } from './using.ts'

/** The options of a hold, and more. A call that joins an outer one checks all of them, but uses only `signal` and `releaseFailed`. */
export interface WithLeaseOptions extends LeaseOptions {
  /** The holder name; different for concurrent calls. @default a new name for each call (`uniqueHolder()`) */
  readonly holder?: string | undefined
  /** Ends the wait with its reason. Later it aborts the signal of the work; the lease is released when the work has ended. */
  readonly signal?: AbortSignal | undefined
  /** Called with the error of a failed release. @default a warning of the process */
  readonly releaseFailed?: ((error: unknown) => void) | undefined
}

/** What the work is called with. */
export interface LeaseScope {
  /** Aborts when the lease is lost, when this call is over, and with `options.signal`. */
  readonly signal: AbortSignal
  /** For every write to what the lease protects. An inner call has that of its outer call. */
  readonly fencingToken: bigint
  /** The hold of the lease. The work may release it early. In an inner call `release()` ends only the inner call's part. */
  readonly hold: Hold
}

/**
 * Claims the lease, does the work, releases the lease, and settles as the work did. A failed release hides nothing. After a loss the call
 * still waits for the work.
 *
 * @throws ErrClaimDenied another holds the lease, or still did when `wait` ran out: the work did not begin
 * @throws ErrLost        the lease was lost before the work began; or the outer call that this call would join has lost or released it
 * @throws ErrNotValid    an argument breaks a rule; nothing was sent
 * @throws ErrUnknown     the claim may have been granted, and is withdrawn: the work did not begin
 */
export async function withLease<T>(
  manager: Pick<Manager, 'hold'>,
  name: string,
  options: WithLeaseOptions,
  work: (scope: LeaseScope) => T | PromiseLike<T>,
): Promise<Awaited<T>> {
  const known = [...HOLD_OPTIONS, 'holder', 'releaseFailed']
  const reader = new OptionReader(options, known, { arguments: { manager, name, work } })
  const { holder, signal, releaseFailed } = reader.read
  reader.object('manager', 'a Manager', ['hold'])
  reader.name('name')
  if (holder !== undefined) reader.name('holder')
  const [holdOptions] = readLeaseOptions(reader)
  reader.function('releaseFailed')
  reader.must('work', typeof work === 'function', 'must be a function')
  reader.finish()

  // Without the settled works: a chain of contexts that outlive each other must not grow.
  const around = (works.getStore() ?? []).filter(({ isOver }) => !isOver)
  const outer = around.findLast((other) => other.manager === manager && other.name === name)
  const run = (hold: Hold): Promise<Awaited<T>> => {
    const self = new Work(manager, name, hold)
    const body = (scope: LeaseScope): Promise<Awaited<T>> => self.run(() => works.run([...around, self], work, scope))
    return using(hold, ({ signal, fencingToken }) => body({ signal, fencingToken, hold }), { signal, releaseFailed })
  }
  if (outer === undefined) return run(await manager.hold(name, holder ?? uniqueHolder(), holdOptions))
  return outer.join(run)
}

/** The works around the present call, the innermost last. */
const works = new AsyncLocalStorage<readonly Work[]>()

/** A work in progress, and the inner calls that have joined it. */
class Work {
  readonly manager: unknown
  readonly name: string
  /** undefined when the work has settled: the context may be kept for long. */
  #hold: Hold | undefined
  readonly #joined = new Set<Promise<unknown>>()

  constructor(manager: unknown, name: string, hold: Hold) {
    this.manager = manager
    this.name = name
    this.#hold = hold
  }

  /** Whether it has settled: no call joins it any more. */
  get isOver(): boolean {
    return this.#hold === undefined
  }

  /** Settles as the body does, after the joined calls have settled. */
  async run<T>(body: () => T | PromiseLike<T>): Promise<Awaited<T>> {
    try {
      return await body()
    } finally {
      this.#hold = undefined
      await Promise.allSettled(this.#joined)
    }
  }

  /** Makes an inner call, which `run` waits for at the end. */
  join<T>(run: (hold: Hold) => Promise<T>): Promise<T> {
    const call = run(new JoinedHold(this.#hold as Hold))
    const leave = (): void => void this.#joined.delete(call)
    this.#joined.add(call)
    call.then(leave, leave)
    return call
  }
}

/** An outer call's hold, as an inner call uses it: its release ends only the inner call's part. */
class JoinedHold implements Hold {
  readonly #outer: Hold
  readonly #until: LinkedSignal
  #released = false

  constructor(outer: Hold) {
    this.#outer = outer
    this.#until = new LinkedSignal(outer.signal)
  }

  get lease(): string {
    return this.#outer.lease
  }

  get holder(): string {
    return this.#outer.holder
  }

  get fencingToken(): bigint {
    return this.#outer.fencingToken
  }

  get token(): Token {
    return this.#outer.token
  }

  get held(): boolean {
    return !this.#released && this.#outer.held
  }

  get signal(): AbortSignal {
    void this.held // after a pause of the process the timers are late
    return this.#until.signal
  }

  get trustedUntil(): DateTime {
    return this.#outer.trustedUntil
  }

  remaining(): Duration {
    return this.#released ? Duration.fromMillis(0) : this.#outer.remaining()
  }

  assertHeld(): void {
    if (!this.#released) return this.#outer.assertHeld()
    throw released(this)
  }

  async update(value: string, options?: UpdateOptions): Promise<void> {
    this.assertHeld()
    await this.#outer.update(value, options)
  }

  async renew(): Promise<void> {
    this.assertHeld()
    await this.#outer.renew()
  }

  letLapse(): void {
    this.#leave()
  }

  isExclusive(): Promise<boolean> {
    return this.#outer.isExclusive()
  }

  /** Ends the inner call's part. @param options `all: true` ends the outer call's hold too */
  async release(options: ReleaseOptions = {}): Promise<void> {
    const reader = new OptionReader(options, ['all'])
    const all = reader.boolean('all', false)
    reader.finish()
    this.#leave()
    if (all) await this.#outer.release(reader.read)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release()
  }

  #leave(): void {
    this.#released = true
    this.#until.letGo()
    this.#until.abort(new DOMException('the inner call released its part of the lease', 'AbortError'))
  }
}
