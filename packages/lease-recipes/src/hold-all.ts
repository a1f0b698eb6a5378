/**
 * Several leases as one: all of them are held, or none.
 *
 *     holdAll ──all granted──▶ HeldAll ──release()─────▶ over: all are released
 *        │                        └──one is lost──▶ lost: the signal aborts; the others are held until release()
 *        └──denied, aborted, lost, unknown──▶ granted leases are released, then it rejects
 *
 * Promises.
 * - Two calls never deadlock: every process takes the names in one order, that of their UTF-16 code units.
 * - Without `wait` the claims are sent together, in one round trip if the store can do that.
 * - With `wait` the leases are claimed one after the other, each in its queue. The leases that are already held are renewed during the
 *   wait. If one of them is lost, the call ends.
 * - A refusal is reported only if no claim failed for another reason: an unknown outcome is not a refusal.
 *
 * After a loss the other leases stay held, so that the work can stop in an orderly way: then call `release()`.
 */
import { abortController, ErrClaimDenied, MemoryGuard, onAbort, systemClock, throwIfAborted, showAs } from 'lease-core'
import type { Clock, Held, Hold, Info, Manager, Token } from 'lease-core'
import { brokenNameRule, OptionReader } from 'lease-core/adapter'
import { Duration } from 'luxon'
import { HOLD_OPTIONS, readLeaseOptions, type LeaseOptions } from './hold-options.ts'
import { LinkedSignal } from './or-aborted.ts'
import { waitBudget, waitThenTry } from './try-then-wait.ts'

/** Options of a hold, for each of the leases. */
export interface HoldAllOptions extends LeaseOptions {
  /**
   * false: a single try. A duration bounds the wait for others, for all leases together; it does not bound the answer to a claim. true:
   * waits as long as `signal` allows. @default false
   */
  readonly wait?: LeaseOptions['wait']
  /** The clock of the manager, in tests. @default the machine's clocks */
  readonly clock?: Clock | undefined
}

/**
 * Holds all of these leases. Resolves when all of them are held. When it rejects, every granted lease has been released, or its release
 * failed and it expires by itself.
 *
 * @param names at least one, all different
 * @param holder a name for this call alone: the release also ends a term of one of these leases that this holder had before
 * @throws ErrClaimDenied another holds one of them, or still did when `wait` ran out; `lease` says which
 * @throws ErrLost        a lease that was already held was lost before the others were granted; `lease` says which
 * @throws ErrNotValid    an argument breaks a rule; nothing was sent
 * @throws ErrUnknown     a lease may have been granted; the client withdraws that claim as soon as it can
 */
export async function holdAll(
  manager: Pick<Manager, 'hold'>,
  names: readonly string[],
  holder: string,
  options: HoldAllOptions,
): Promise<HeldAll> {
  const reader = new OptionReader(options, [...HOLD_OPTIONS, 'clock'], { arguments: { manager, names, holder } })
  reader.object('manager', 'a Manager', ['hold'])
  const given = namesIn(reader, names)
  reader.name('holder')
  const [{ signal, wait: _, ...others }, waitMs] = readLeaseOptions(reader)
  const clock = reader.clock() ?? systemClock
  reader.finish()
  throwIfAborted(signal)

  const sorted = given.toSorted() // by code units: the same order in every process, whatever its locale
  const until = new LinkedSignal(signal)
  const granted: Granted[] = []
  const claim = async (name: string, wait: number | boolean): Promise<void> => {
    const hold = await manager.hold(name, holder, { ...others, wait, signal: until.signal })
    granted.push({ hold, stopListening: whenOver(hold, () => until.abort(hold.signal.reason)) })
  }
  try {
    if (waitMs > 0) {
      const budget = waitBudget(waitMs, clock)
      for (const name of sorted) await waitThenTry((wait) => claim(name, wait), budget.leftMs())
    } else await allOf(sorted.map((name) => claim(name, false)))
    throwIfAborted(until.signal) // it may have aborted together with the last grant
    const holds = sorted.map((name) => granted.find(({ hold }) => hold.lease === name)?.hold as Hold)
    for (const hold of holds) hold.assertHeld()
    return new HeldAll(holds)
  } catch (error) {
    await Promise.allSettled(granted.map(({ hold }) => hold.release())) // if one fails, its lease expires
    throw error
  } finally {
    until.letGo()
    for (const { stopListening } of granted) stopListening()
  }
}

/** Leases of one holder that are held together. `holdAll` makes it. */
export class HeldAll implements Held {
  readonly holder: string
  /** The names, in the order in which they were claimed. */
  readonly leases: readonly string[]
  /** One per lease, in the same order: for `renew()` and `update()`. To release one of them ends the whole. */
  readonly holds: readonly Hold[]
  /** One per lease, in the same order. */
  readonly tokens: readonly Token[]
  /** By lease: comparable with the tokens of all others that hold this lease. */
  readonly fencingTokens: ReadonlyMap<string, bigint>
  /** Passes while every lease is held. */
  readonly token: Token
  readonly #until = abortController()
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
   * The token of the first lease. It rises from holder to holder only if all of them name the same leases. If the sets differ, use
   * `fencingTokens`.
   */
  get fencingToken(): bigint {
    return first(this.holds).fencingToken
  }

  /** Whether the holder may rely on all of them now. */
  get held(): boolean {
    return this.#releasing === undefined && this.holds.every(({ held }) => held)
  }

  /** Aborts when the first of them is lost; the reason is its `ErrLost`. After a release it aborts with an AbortError. */
  get signal(): AbortSignal {
    return this.#until.signal
  }

  /** The shortest of all; zero when one of them is over. */
  remaining(): Duration {
    if (!this.held) return Duration.fromMillis(0)
    return Duration.fromMillis(Math.min(...this.holds.map((hold) => hold.remaining().toMillis())))
  }

  /** @throws ErrLost one of them is over, by loss or by release; `lease` says which */
  assertHeld(): void {
    for (const hold of this.holds) hold.assertHeld() // after a release, a lease that was lost still says why
  }

  /**
   * Releases all of them, even if some releases fail, and also after a loss. A second call sends nothing.
   *
   * @throws ErrNotHeld, ErrUnknown the first error of a Hold's release, in the order of the leases, after all releases have ended
   */
  release(): Promise<void> {
    if (this.#releasing !== undefined) return this.#releasing
    // Set before any listener runs: a listener may call this again.
    let settle: (released: Promise<void>) => void = () => {}
    this.#releasing = new Promise((resolve) => (settle = resolve))
    settle(allOf(this.holds.map((hold) => hold.release())).then(() => {}))
    return this.#releasing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release().catch(() => {}) // the leases expire by themselves; do not hide the outcome of the work
  }

  #end(reason: unknown): void {
    if (this.#until.signal.aborted) return
    this.#until.abort(reason)
    for (const stopListening of this.#stopListening) stopListening()
  }
}

showAs(HeldAll, 'HeldAll', ['leases', 'holder', 'fencingToken', 'held'])

/** The tokens of several leases as one, under the name of the first lease. */
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
   * With a key the tokens are checked one after the other, in the order of the leases: two transactions then lock their guards in the
   * same order. A guard requires every term.
   */
  async check(trapdoorKey?: unknown): Promise<Info> {
    if (trapdoorKey === undefined) return first(await allOf(this.#tokens.map((token) => token.check())))
    if (isMemoryGuard(trapdoorKey)) return this.#checkInMemory(trapdoorKey)
    const infos: Info[] = []
    for (const token of this.#tokens) infos.push(await token.check(trapdoorKey))
    return first(infos)
  }

  /** A `MemoryGuard` runs its body when it is checked: it must run once, and only if all terms stand at that instant. */
  async #checkInMemory(guard: MemoryGuard): Promise<Info> {
    const [token, ...others] = this.#tokens as readonly [Token, ...Token[]]
    const infos = await allOf(others.map((other) => other.check()))
    const opened: Promise<void>[] = []
    // A memory trapdoor checks and runs synchronously: the body of each guard opens the next one, and the last runs the caller's body.
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

showAs(TokenOfAll, 'Token', ['lease', 'holder', 'fencingToken'])

/** Recognised by the symbol on each guard, so that guards of another copy of `lease-core` count too. */
function isMemoryGuard(key: unknown): key is MemoryGuard {
  return typeof key === 'object' && key !== null && Symbol.for('lease-core.MemoryGuard') in key
}

/** A hold that was granted, and how to stop listening to its end. */
interface Granted {
  readonly hold: Hold
  readonly stopListening: () => void
}

/** Calls back once when the hold is over; at once if it is over already. */
function whenOver({ signal }: Hold, listener: () => void): () => void {
  if (signal.aborted) listener()
  return onAbort(signal, listener)
}

/** The names. Notes broken rules. */
function namesIn(options: OptionReader, given: readonly string[]): readonly string[] {
  let names: readonly string[] = []
  try {
    if (Array.isArray(given)) names = Array.from(given)
  } catch {} // a proxy that throws is not an array
  options.must('names', names.length > 0, 'must be an array of at least one name')
  for (const [index, name] of names.entries()) options.fault(`names[${index}]`, brokenNameRule(name), name)
  options.must('names', new Set(names).size === names.length, 'must be different names')
  return names
}

/** The values when all have settled. @throws the first error that is not a refusal, otherwise the first error */
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
