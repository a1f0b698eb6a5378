/**
 * Several leases as one: all of them are held, or none.
 *
 *     holdAll ──all granted──▶ HeldAll ──release()─────▶ over: all are given back
 *        │                        └──one is lost──▶ lost: the signal aborts; the others are held until release()
 *        └──denied, aborted, lost, unknown──▶ what was granted is given back, then it rejects
 *
 * Promises.
 * - Two callers never wait for each other: names are taken in one order, that of their UTF-16 code units, in every process.
 * - Without `wait` the claims are sent together: a client makes one round trip of them where its store can.
 * - With `wait` one name is taken after the other, in the queue of each. What is held already is renewed meanwhile; if it is lost,
 *   the wait ends.
 * - A refusal is reported only where no other claim failed for another reason: what is not certain is no refusal.
 *
 * After a loss the other leases stay held, because the work needs a moment to stop: give them back with `release()`.
 */
import { ErrClaimDenied, hasMethods, MemoryGuard, onAbort, systemClock, throwIfAborted } from 'lease-core'
import type { Clock, Held, Hold, Info, Manager, Token } from 'lease-core'
import { Duration } from 'luxon'
import { Checks } from './checks.ts'
import { checkHoldOptions, HOLD_OPTIONS, waitMsOf, type LeaseOptions } from './hold-options.ts'
import { LinkedSignal } from './or-aborted.ts'
import { patienceFor, waitThenTry } from './try-then-wait.ts'

/** Those of a hold, for each of the leases. */
export interface HoldAllOptions extends LeaseOptions {
  /**
   * false: a lease of another is `ErrClaimDenied` at once. A duration bounds the wait for others, for all leases together, and not the
   * answer to a claim; true waits as long as `signal` allows. @default false
   */
  readonly wait?: LeaseOptions['wait']
  /** The manager's. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/**
 * Holds all of these leases. Resolves when all of them are held; when it rejects, those that were granted are given back.
 *
 * @param holder of these leases alone: a term of a lease that it has already ends with this one
 * @throws ErrClaimDenied another holds one of them, or still did when `wait` ran out; `lease` says which
 * @throws ErrLost        one that was held was lost before the others were granted
 * @throws ErrNotValid    nothing was sent
 * @throws ErrUnknown     one may have been granted; the client withdraws it as soon as it can
 */
export async function holdAll(
  manager: Pick<Manager, 'hold'>,
  names: readonly string[],
  holder: string,
  options: HoldAllOptions,
): Promise<HeldAll> {
  const checks = new Checks(options, [...HOLD_OPTIONS, 'clock'])
  checks.must('manager', hasMethods(manager, 'hold'), 'must be a Manager', manager)
  const sorted = sortedNames(checks, names)
  checks.name('holder', holder)
  const { signal, wait, ...others } = checkHoldOptions(checks, options)
  const waitMs = waitMsOf(new Checks({}, []), wait)
  const { clock = systemClock } = options
  checks.must('clock', hasMethods(clock, 'now', 'monotonic', 'setTimer'), 'must be a Clock', clock)
  checks.finish()
  throwIfAborted(signal)

  const until = new LinkedSignal(signal)
  const granted: Granted[] = []
  const claim = async (name: string, wait: number | boolean): Promise<void> => {
    const hold = await manager.hold(name, holder, { ...others, wait, signal: until.signal })
    granted.push({ hold, stopListening: whenOver(hold, () => until.abort(hold.signal.reason)) })
  }
  try {
    if (waitMs > 0) {
      const patience = patienceFor(waitMs, clock)
      for (const name of sorted) await waitThenTry((wait) => claim(name, wait), patience.leftMs())
    } else await allOf(sorted.map((name) => claim(name, false)))
    throwIfAborted(until.signal) // at the last moment
    const holds = sorted.map((name) => granted.find(({ hold }) => hold.lease === name)?.hold as Hold)
    for (const hold of holds) hold.assertHeld()
    return new HeldAll(holds)
  } catch (error) {
    await Promise.allSettled(granted.map(({ hold }) => hold.release())) // one that fails lapses by itself
    throw error
  } finally {
    until.letGo()
    for (const { stopListening } of granted) stopListening()
  }
}

/** Leases of one holder that are held together. `holdAll` makes it. */
export class HeldAll implements Held {
  readonly holder: string
  /** In the order in which they were taken. */
  readonly leases: readonly string[]
  /** One for each lease, in the same order: to `renew()` or `update()` it. One that is released alone ends the whole. */
  readonly holds: readonly Hold[]
  /** One for each lease, in the same order. */
  readonly tokens: readonly Token[]
  /** By lease: to compare with those of others that hold the same lease, alone or among others. */
  readonly fencingTokens: ReadonlyMap<string, bigint>
  /** Passes while every lease is held. */
  readonly token: Token
  readonly #until = new AbortController()
  readonly #stopListening: (() => void)[] = []
  #releasing: Promise<void> | undefined

  /** @param holds at least one, in the order of their leases */
  constructor(holds: readonly Hold[]) {
    this.holder = first(holds).holder
    this.holds = holds
    this.leases = holds.map(({ lease }) => lease)
    this.tokens = holds.map(({ token }) => token)
    this.fencingTokens = new Map(holds.map(({ lease, fencingToken }) => [lease, fencingToken]))
    this.token = new TokenOfAll(this.tokens)
    for (const hold of holds) this.#stopListening.push(whenOver(hold, () => this.#end(hold.signal.reason)))
  }

  /**
   * That of the first lease. It rises from one holder of the same set of leases to the next; compare it with nothing else, and use
   * `fencingTokens` where sets differ.
   */
  get fencingToken(): bigint {
    return first(this.holds).fencingToken
  }

  /** Whether the holder may rely on all of them now. */
  get held(): boolean {
    return this.#releasing === undefined && this.holds.every(({ held }) => held)
  }

  /** Aborts when the first of them is lost; the reason is its `ErrLost`. After a release it aborts with a plain AbortError. */
  get signal(): AbortSignal {
    return this.#until.signal
  }

  /** The least of all. */
  remaining(): Duration {
    if (!this.held) return Duration.fromMillis(0)
    return Duration.fromMillis(Math.min(...this.holds.map((hold) => hold.remaining().toMillis())))
  }

  assertHeld(): void {
    for (const hold of this.holds) hold.assertHeld() // a lease that was lost says why, also after a release
  }

  /**
   * Gives all of them back, also where some of that fails, and also after a loss. A second release sends nothing.
   *
   * @throws ErrNotHeld, ErrUnknown as of a Hold: the first error, in the order of the leases, when all releases have ended
   */
  release(): Promise<void> {
    if (this.#releasing !== undefined) return this.#releasing
    // It is over before anybody hears of it: a listener may call this again.
    let settle: (released: Promise<void>) => void = () => {}
    this.#releasing = new Promise((resolve) => (settle = resolve))
    settle(allOf(this.holds.map((hold) => hold.release())).then(() => {}))
    return this.#releasing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release().catch(() => {}) // the leases lapse by themselves; the work's own outcome must not be masked
  }

  #end(reason: unknown): void {
    if (this.#until.signal.aborted) return
    this.#until.abort(reason)
    for (const stopListening of this.#stopListening) stopListening()
  }
}

/** The tokens of several leases as one, under the name of the first. */
class TokenOfAll implements Token {
  readonly lease: string
  readonly holder: string
  readonly fencingToken: bigint | undefined
  readonly #tokens: readonly Token[]

  constructor(tokens: readonly Token[]) {
    const { lease, holder, fencingToken } = first(tokens)
    this.lease = lease
    this.holder = holder
    this.fencingToken = fencingToken
    this.#tokens = tokens
  }

  /**
   * Checks every token, and resolves with what is known of the first lease.
   *
   * With a key one is checked after the other, in the order of the leases: transactions of two bundles then lock their guards in the
   * same order. A guard demands all of the terms.
   */
  async check(trapdoorKey?: unknown): Promise<Info> {
    if (trapdoorKey === undefined) return first(await allOf(this.#tokens.map((token) => token.check())))
    if (isMemoryGuard(trapdoorKey)) return this.#checkInMemory(trapdoorKey)
    const infos: Info[] = []
    for (const token of this.#tokens) infos.push(await token.check(trapdoorKey))
    return first(infos)
  }

  /** Such a guard runs its body when it is checked: it must run once, and only if all terms stand at that instant. */
  async #checkInMemory(guard: MemoryGuard): Promise<Info> {
    const [token, ...others] = this.#tokens as readonly [Token, ...Token[]]
    const infos = await allOf(others.map((other) => other.check()))
    const opened: Promise<void>[] = []
    // A trapdoor in memory looks and runs within its call: the body of each guard opens the next one, the last runs the caller's.
    let body = (): void => guard.run()
    for (const { trapdoor } of infos) {
      const next = new MemoryGuard(body)
      body = () => void opened.push(trapdoor(next))
    }
    const info = await token.check(new MemoryGuard(body))
    await allOf(opened)
    return info
  }
}

/** By the symbol that guards carry: also those of another copy of `lease-core`. */
function isMemoryGuard(key: unknown): key is MemoryGuard {
  return typeof key === 'object' && key !== null && Symbol.for('lease-core.MemoryGuard') in key
}

/** A hold that was granted, and how to stop listening to its end. */
interface Granted {
  readonly hold: Hold
  readonly stopListening: () => void
}

/** Calls back once when the hold is over, at once if it is already. */
function whenOver({ signal }: Hold, listener: () => void): () => void {
  if (signal.aborted) listener()
  return onAbort(signal, listener)
}

/** The names in the order in which everybody takes them; notes what is wrong with them. */
function sortedNames(checks: Checks, given: readonly string[]): readonly string[] {
  let names: readonly string[] = []
  try {
    if (Array.isArray(given)) names = Array.from(given)
  } catch {} // a proxy that throws: told as no array
  checks.must('names', names.length > 0, 'must be an array of at least one name', given)
  for (const [index, name] of names.entries()) checks.name(`names[${index}]`, name)
  checks.must('names', new Set(names).size === names.length, 'must be different names', given)
  return names.toSorted() // by code units: the same order in every process, whatever its locale
}

/** The values when all have settled. @throws the first error that is no refusal, or else the first */
async function allOf<T>(promises: readonly Promise<T>[]): Promise<T[]> {
  const outcomes = await Promise.allSettled(promises)
  const failed = outcomes.filter((outcome) => outcome.status === 'rejected')
  const failure = failed.find(({ reason }) => !(reason instanceof ErrClaimDenied)) ?? failed[0]
  if (failure !== undefined) throw failure.reason
  return outcomes.map((outcome) => (outcome as PromiseFulfilledResult<T>).value)
}

/** Of a list that has at least one. */
function first<T>(list: readonly T[]): T {
  return list[0] as T
}
