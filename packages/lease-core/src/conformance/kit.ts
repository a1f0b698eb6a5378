/**
 * What the clauses work with: two clients, a lease of its own for each clause, time that passes through the harness only,
 * and the few assertions that nearly every clause needs.
 *
 * A clause passes however slow a real store is. Time bounds are one-sided: a clause may demand that something has not
 * happened *before* an instant (the contract), and that it happens at all within `patienceMs`; never that something is fast.
 * Steps that need a live lease go through `whileLive`, and a hold that must survive through `undisturbed`: both repeat what a
 * slow machine has spoilt, with twice the duration. On a test clock nothing is late, and nothing is repeated.
 */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { inspect, isDeepStrictEqual } from 'node:util'
import type { Client, LeaseChange, TermId } from '../client.ts'
import { sleep, systemClock, type Clock } from '../clock.ts'
import { elapsedForObserver, elapsedTimeOf } from '../elapsed-time.ts'
import type { LeaseError, LeaseErrorCode } from '../errors.ts'
import type { Info, TermAware } from '../lease.ts'
import { Manager } from '../manager.ts'
import { trustWindowMs } from '../skew.ts'
import { whileLive } from '../testing/while-live.ts'
import { ClauseQueue, type Pair } from './clause-queue.ts'
import type { FaultyClient, Guard, Harness, Runner } from './harness.ts'

/** What a clause may need beyond the two clients. `alone`: no other clause runs at the same time; implied by `restart`. */
export type Need =
  | 'alone'
  | 'notifications'
  | 'queues'
  | 'addressed'
  | 'shares'
  | 'serverClock'
  | 'exactClock'
  | 'faults'
  | 'repeats'
  | 'restart'
  | 'guard'
  | 'keyOutside'
  | 'noGuard'

/** How long a wait may take on a real clock: a little less than a test may take, so that its own report comes first. */
const REAL_PATIENCE_MS = 55_000
/** The same on a test clock, in units. */
const TEST_PATIENCE_UNITS = 30

export const ALICE = 'alice'
export const BOB = 'bob'
export const CAROL = 'carol'

/** One suite of the contract: a title, and a function that states its clauses. */
export interface Suite {
  readonly title: string
  readonly state: (clause: Clause) => void
}

/** States one clause. The title is a promise; `needs` are checked against the harness. */
export type Clause = (title: string, body: (context: Context) => Promise<void>, ...needs: readonly Need[]) => void

/** Declares a suite's tests with the runner. */
export function declare(runner: Runner, harness: Harness, { title, state }: Suite): void {
  runner.describe(title, () => {
    const namespace = `conformance-${title.replaceAll(' ', '-')}-${randomBytes(6).toString('hex')}`
    const queue = new ClauseQueue(() => harness.open(namespace), { together: harness.clock === undefined })
    runner.before(() => queue.open())
    runner.after(() => queue.close())

    let clauses = 0
    state((promise, body, ...needs) => {
      const lease = `${title.replaceAll(' ', '-')}-${++clauses}`
      const run = async (pair: Pair): Promise<void> => {
        const context = new Context(harness, namespace, lease, pair)
        try {
          await body(context)
        } finally {
          await context.tidy()
        }
      }
      const lacking = needs.map((need) => whyNot(need, harness)).find((reason) => reason !== undefined)
      const alone = needs.includes('alone') || needs.includes('restart')
      if (lacking === undefined) runner.it(promise, queue.add(run, { alone }))
      else skip(runner, `${promise} (skipped: ${lacking})`)
    })
  })
}

function skip(runner: Runner, title: string): void {
  if (runner.it.skip !== undefined) runner.it.skip(title, async () => {})
  else (runner.it as (title: string) => unknown)(title)
}

/** Why the harness does not meet the need, or undefined. */
function whyNot(need: Need, { supports, openFaulty, restart, guard }: Harness): string | undefined {
  const needs: Readonly<Record<Need, readonly [boolean, string]>> = {
    alone: [true, ''],
    notifications: [supports.notifications, 'the substrate has no notifications'],
    queues: [supports.queues === true, 'the store keeps no queues of those who wait'],
    addressed: [supports.addressed === true, 'the store tells everyone of everything'],
    shares: [supports.shares === true, 'the store keeps no counted leases'],
    serverClock: [supports.serverClock, 'the store has no clock of its own'],
    exactClock: [supports.exactClock === true, 'exact instants cannot be met on a real clock'],
    faults: [openFaulty !== undefined, 'the harness has no openFaulty'],
    repeats: [supports.repeats ?? supports.serverClock, 'its requests cannot be copied above the adapter'],
    restart: [restart !== undefined, 'the harness has no restart'],
    guard: [guard !== undefined, 'the substrate has no trapdoor'],
    keyOutside: [guard?.outside !== undefined, 'no key of the substrate needs a transaction'],
    noGuard: [guard === undefined, 'the substrate has a trapdoor'],
  }
  const [met, reason] = needs[need]
  return met ? undefined : reason
}

/** The machine was too slow for an attempt to prove anything. */
export class TooSlow extends assert.AssertionError {}

/** Steps that were taken in time, and the lease and duration that they were taken with. */
export interface Live<T> {
  readonly lease: string
  readonly durationMs: number
  readonly outcome: T
}

/** What one clause has at hand. */
export class Context {
  /** Two clients of the same namespace, as if in two processes. */
  readonly a: Client
  readonly b: Client
  /** A lease that no other clause uses; each attempt of `whileLive` and `undisturbed` replaces it. */
  lease: string
  readonly clock: Clock
  /** Whether time passes by itself: anything may come late. */
  readonly realTime: boolean
  /** A short lease: one that the clause means to outlive. */
  readonly unitMs: number
  /** A lease that certainly does not lapse while the clause runs. */
  readonly longMs: number
  /** How long anything may take before it counts as not happening. */
  readonly patienceMs: number
  /** How many thousands are. */
  readonly thousands: number
  readonly #harness: Harness
  readonly #namespace: string
  readonly #opened: { close(): Promise<void> }[] = []
  #hearers = 0

  constructor(harness: Harness, namespace: string, lease: string, [a, b]: Pair) {
    this.#harness = harness
    this.#namespace = namespace
    this.lease = lease
    this.a = a
    this.b = b
    this.clock = harness.clock ?? systemClock
    this.unitMs = harness.unitMs
    this.longMs = harness.unitMs * 1000
    this.realTime = harness.clock === undefined
    this.patienceMs = this.realTime ? REAL_PATIENCE_MS : harness.unitMs * TEST_PATIENCE_UNITS
    this.thousands = harness.thousands ?? 3000
  }

  get serverClock(): boolean {
    return this.#harness.supports.serverClock
  }

  get guard(): Guard {
    assert(this.#harness.guard !== undefined)
    return this.#harness.guard
  }

  /** Further leases of this clause's own. */
  leases(count: number): readonly string[] {
    return Array.from({ length: count }, (_, index) => `${this.lease}-${index}`)
  }

  /** Another client of the same namespace. */
  async open(namespace: string = this.#namespace): Promise<Client> {
    const client = await this.#harness.open(namespace)
    this.#opened.push(client)
    return client
  }

  /** A client of another namespace. */
  openElsewhere(): Promise<Client> {
    return this.open(`${this.#namespace}-elsewhere`)
  }

  /** @param requestTimeoutMs short only if the store is to hang: whatever else is slow must not count as lost */
  async openFaulty(
    requestTimeoutMs: number = this.realTime ? this.patienceMs / 2 : this.unitMs * 2,
  ): Promise<FaultyClient> {
    assert(this.#harness.openFaulty !== undefined)
    const faulty = await this.#harness.openFaulty(this.#namespace, requestTimeoutMs)
    this.#opened.push({
      close: () => {
        faulty.faults.heal()
        return faulty.client.close()
      },
    })
    return faulty
  }

  /** A manager over this client. */
  manage(client: Client, options: { readonly maxSleep?: number } = {}): Manager {
    const manager = new Manager({ client, clock: this.clock, ...options })
    this.#opened.push({ close: () => manager.stop() })
    return manager
  }

  /** Restarts the store. */
  async restart(): Promise<void> {
    await this.#harness.restart?.()
  }

  /**
   * Takes steps whose outcome means something only while a lease is live. They use the lease that they are given, and claim it
   * for the duration that they are given.
   *
   * @see whileLive of lease-core/testing
   */
  async whileLive<T>(
    firstDurationMs: number,
    attempt: (lease: string, durationMs: number) => Promise<T>,
  ): Promise<Live<T>> {
    let attempts = 0
    const once = async (durationMs: number): Promise<Live<T>> => {
      const lease = this.#leaseOf(++attempts)
      return { lease, durationMs, outcome: await attempt(lease, durationMs) }
    }
    return this.realTime ? whileLive(firstDurationMs, once, this.clock) : once(firstDurationMs)
  }

  /** Claims a short lease, which is still live when the client knows of it. */
  brief(
    client: Client = this.a,
    request: { readonly holder?: string; readonly value?: string } = {},
  ): Promise<Live<Info>> {
    return this.whileLive(this.unitMs, async (lease, duration) => {
      await client.claimLease(lease, { holder: ALICE, duration, ...request })
      return known(client, lease)
    })
  }

  /** Repeats an attempt with another lease and twice the duration for as long as the machine is too slow for it. */
  async undisturbed(
    firstDurationMs: number,
    attempt: (lease: string, durationMs: number) => Promise<void>,
  ): Promise<void> {
    const startedMs = this.clock.monotonic()
    for (let attempts = 1, durationMs = firstDurationMs; ; attempts++, durationMs *= 2) {
      try {
        return await attempt(this.#leaseOf(attempts), durationMs)
      } catch (error) {
        const patient = this.realTime && this.clock.monotonic() - startedMs < this.patienceMs
        if (!patient || !(error instanceof TooSlow || isUnknown(error))) throw error
      }
    }
  }

  /** The outcome of a call that needs a lease of this duration, which the call itself claims. @throws TooSlow */
  async inTime<T>(durationMs: number, call: () => Promise<T>): Promise<T> {
    const startedMs = this.clock.monotonic()
    const [outcome] = await Promise.allSettled([call()])
    const tookMs = this.clock.monotonic() - startedMs
    if (this.realTime && tookMs >= trustWindowMs(durationMs)) {
      throw new TooSlow({ message: `the steps took ${tookMs} ms, the lease was for ${durationMs}` })
    }
    if (outcome.status === 'rejected') throw outcome.reason
    return outcome.value
  }

  /** The holding that a claim has opened whose answer does not come. @throws TooSlow when the lease may have lapsed unseen */
  async sightOf(what: string, lease: string, durationMs: number): Promise<Info> {
    const startedMs = this.clock.monotonic()
    let seen: Info | undefined
    await this.until(`sight of ${what}`, async () => {
      seen = await this.holding(this.b, lease)
      if (seen === undefined && this.realTime && this.clock.monotonic() - startedMs > durationMs) {
        throw new TooSlow({ message: `no sight of ${what} within the ${durationMs} ms that it was for` })
      }
      return seen !== undefined
    })
    assert(seen !== undefined)
    return seen
  }

  /** Each attempt has a lease of its own. */
  #leaseOf(attempt: number): string {
    if (attempt > 1) this.lease = `${this.lease}-again`
    return this.lease
  }

  /** Lets time pass. Never twice at once: on a test clock the two would add up. */
  pass(delayMs: number): Promise<void> {
    return this.#harness.sleep(delayMs)
  }

  /** Lets a lease lapse that was granted for `durationMs`, for each given observer. */
  async lapse(lease: string, durationMs: number, ...observers: readonly Client[]): Promise<void> {
    if (!this.serverClock) for (const observer of observers) await observer.refresh([lease])
    const lapseMs = durationMs * 1.002 + this.unitMs / 10 + 2 + (this.#harness.lateMs ?? 0)
    if (!this.realTime) return this.pass(lapseMs)
    const time = elapsedTimeOf(this.clock)
    const since = time.read()
    // An observer counts less where the wall clock was set meanwhile, or seemed so because the process stood still.
    for (let leftMs = lapseMs; leftMs > 0; leftMs = lapseMs - elapsedForObserver(since, time.read())) {
      await this.pass(leftMs)
    }
  }

  /** The outcome of a call that needs time to pass. */
  async settle<T>(call: Promise<T>, what: string = 'the call'): Promise<T> {
    if (this.realTime) return this.#answer(call, what)
    let settled = false
    void Promise.allSettled([call]).then(() => (settled = true))
    await this.until(`answer to ${what}`, () => settled)
    return call
  }

  /** Time passes by itself: nothing to poll for. */
  async #answer<T>(call: Promise<T>, what: string): Promise<T> {
    const answered = new AbortController()
    const patience = sleep(this.clock, this.patienceMs, answered.signal).then(() =>
      assert.fail(`no answer to ${what} within ${this.patienceMs} ms`),
    )
    try {
      return await Promise.race([call, patience])
    } finally {
      patience.catch(() => {})
      answered.abort()
    }
  }

  /** Lets time pass until the condition is true; anything else that it returns is what a failure reports as last seen. */
  async until(what: string, condition: () => unknown): Promise<void> {
    const startedMs = this.clock.monotonic()
    // The first steps are short: what needs no time but a round trip should not cost more.
    for (let stepMs = 0; ; stepMs = Math.min(this.unitMs / 10, stepMs * 2 + this.unitMs / 100)) {
      const seen = await condition()
      if (seen === true) return
      const waitedMs = this.clock.monotonic() - startedMs
      if (waitedMs > this.patienceMs) {
        const last = seen === false ? '' : `; last seen: ${shown(seen).replaceAll(/\s+/g, ' ')}`
        assert.fail(`no ${what} within ${Math.round(waitedMs)} ms${last}`)
      }
      await this.pass(stepMs)
    }
  }

  /** Claims as soon as it is granted: a lease about to lapse, or to be released. */
  async claimSoon(client: Client, lease: string, holder: string, durationMs: number): Promise<void> {
    await client.refresh([lease])
    await this.until(`grant of ${lease} to ${holder}`, async () => {
      try {
        await client.claimLease(lease, { holder, duration: durationMs })
        return true
      } catch (error) {
        if (codeOf(error) === 'LEASE_INVALID') return `held by ${client.leases().get(lease)?.holder ?? 'nobody'}`
        throw error
      }
    })
  }

  /** Who holds the lease by a fresh read of this client; undefined when it is vacant or has lapsed. */
  async holding(client: Client, lease: string = this.lease): Promise<Info | undefined> {
    await client.refresh([lease])
    const info = client.leases().get(lease)
    if (info === undefined || info.pinned) return info
    return info.expiry.toMillis() < this.clock.now() ? undefined : info
  }

  /** Asserts by a fresh read that this very holding stands. */
  async stillHeld(client: Client, expected: Info, lease: string = this.lease): Promise<void> {
    const info = await this.holding(client, lease)
    assert(info !== undefined, `${lease} should still be held by ${expected.holder}, but is vacant`)
    assert.equal(info.holder, expected.holder, 'the holder changed')
    assert.equal(info.fencingToken, expected.fencingToken, 'the fencing token changed: another term')
    assert.equal(info.value, expected.value, 'the value changed')
  }

  /** Records what this client hears. */
  listen(client: Client): readonly LeaseChange[] {
    const heard: LeaseChange[] = []
    const stop = client.subscribe((change) => heard.push(change))
    this.#opened.push({
      close: () => {
        stop()
        return Promise.resolve()
      },
    })
    return heard
  }

  /** A new client that is notified already of what it asks for, and what it hears beside `resync`. */
  async hearer(): Promise<Hearer> {
    const client = await this.open()
    const all: LeaseChange[] = []
    const stop = client.subscribe((change) => all.push(change), { own: true })
    this.#opened.push({
      close: () => {
        stop()
        return Promise.resolve()
      },
    })
    const lease = `${this.lease}-of-hearer-${++this.#hearers}`
    const proofs = (): number =>
      all.filter((change) => change.kind === 'vacated' && change.lease === lease && change.to === undefined).length
    /** What is notified in the order in which it happened has arrived, once what was done last has. */
    const proof = async (): Promise<void> => {
      await client.refresh([lease], { watcher: proof })
      const before = proofs()
      await this.until('word of what a client watches', async () => {
        await this.a.claimLease(lease, { holder: ALICE, duration: this.longMs })
        await this.a.releaseLease(lease, ALICE)
        await this.pass(this.unitMs / 10)
        return proofs() > before || all
      })
    }
    await proof()
    const heard: LeaseChange[] = []
    const isOfOthers = (change: LeaseChange): boolean => change.kind !== 'resync' && change.lease !== lease
    client.subscribe((change) => void (isOfOthers(change) && heard.push(change)), { own: true })
    return {
      client,
      heard,
      after: async () => {
        await proof()
        return heard
      },
    }
  }

  /** Closes what the clause opened, the latest first. */
  async tidy(): Promise<void> {
    for (const opened of this.#opened.toReversed()) await this.settle(opened.close(), 'close')
  }
}

export interface Hearer {
  readonly client: Client
  /** What it has heard since it was opened. */
  readonly heard: readonly LeaseChange[]
  /** The same, once it has heard of what happened just now. */
  readonly after: () => Promise<readonly LeaseChange[]>
}

/** What this client knows of a held lease, without a read. */
export function known(client: Client, lease: string): Info {
  const info = client.leases().get(lease)
  assert(info !== undefined, `leases() does not show ${lease}`)
  return info
}

/** The error that the call rejects with, which must have this code. Codes, because they work across package copies. */
export async function rejects(code: LeaseErrorCode, call: Promise<unknown>, what: string): Promise<LeaseError> {
  let error: unknown
  try {
    await call
  } catch (thrown) {
    if (codeOf(thrown) === code) return thrown as LeaseError
    error = thrown
  }
  const outcome = error === undefined ? 'resolved' : `rejected with ${describeError(error)}`
  throw failure(`${what}: expected ${code}, but it ${outcome}`, error)
}

function failure(message: string, cause: unknown): Error {
  return Object.assign(new assert.AssertionError({ message }), { cause })
}

/** Asserts that the two are alike, in one line of words. */
export function same(actual: unknown, expected: unknown, what: string): void {
  if (isDeepStrictEqual(actual, expected)) return
  assert.fail(`${what}: expected ${shown(expected)}, but it is ${shown(actual)}`)
}

function shown(value: unknown): string {
  return inspect(value, { breakLength: Number.POSITIVE_INFINITY, depth: 1, maxStringLength: 60 })
}

/** Asserts that a later term has the larger fencing token. */
export function rises(before: bigint, after: bigint): void {
  assert(after > before, `the fencing token does not rise: ${after} after ${before}`)
}

/** This very term, for operations that name one. */
export function termOf(info: Info & Partial<TermAware>): TermId {
  return { fencingToken: info.fencingToken, nonce: info.nonce }
}

/** A call whose outcome is looked at later. */
export function later<T>(call: Promise<T>): Promise<T> {
  call.catch(() => {})
  return call
}

/** Asserts that the latest state forbids the operation. */
export async function invalid(call: Promise<unknown>, what: string): Promise<LeaseError> {
  return rejects('LEASE_INVALID', call, what)
}

/** Asserts that the guard refused. */
export async function notHeld(call: Promise<unknown>, what: string): Promise<LeaseError> {
  return rejects('LEASE_NOT_HELD', call, what)
}

/** Whether this says, or fails because a call said, that the outcome is unknown: it proves nothing. */
export function isUnknown(error: unknown): boolean {
  const { cause = error } = error instanceof assert.AssertionError ? error : {}
  return codeOf(cause) === 'LEASE_UNKNOWN'
}

export function codeOf(error: unknown): unknown {
  return typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined
}

export function describeError(error: unknown): string {
  return error instanceof Error ? `${error.name}: ${error.message}` : String(error)
}

/** Splits settled calls by whether they were granted; anything but a refusal fails. */
export async function grants<T>(
  calls: readonly (readonly [T, Promise<void>])[],
): Promise<{ granted: T[]; refused: T[] }> {
  const granted: T[] = []
  const refused: T[] = []
  const outcomes = await Promise.allSettled(calls.map(([, call]) => call))
  for (const [index, outcome] of outcomes.entries()) {
    const key = (calls[index] as readonly [T, Promise<void>])[0]
    if (outcome.status === 'fulfilled') granted.push(key)
    else if (codeOf(outcome.reason) === 'LEASE_INVALID') refused.push(key)
    else throw failure(`expected a grant or ErrInvalid, but got ${describeError(outcome.reason)}`, outcome.reason)
  }
  return { granted, refused }
}

/** Releases a lease through a client that is closed at once. So no client passes over those who were notified and do not come. */
export async function releaseAndClose(context: Context, lease: string, holder: string): Promise<void> {
  const client = await context.open()
  await client.releaseLease(lease, holder)
  await client.close()
}
