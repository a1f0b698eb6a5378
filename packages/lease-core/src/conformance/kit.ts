/**
 * The stage on which the clauses play: two clients per chapter, a lease of its own for each clause, time that passes
 * through the harness only, and the few assertions that nearly every clause needs.
 *
 * Time bounds are one-sided: a clause may demand that something has not happened *before* an instant (the contract),
 * and that it happens at all within `patienceMs` (any machine manages that); never that something is fast.
 */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { inspect, isDeepStrictEqual } from 'node:util'
import type { Client, LeaseChange } from '../client.ts'
import { systemClock, type Clock } from '../clock.ts'
import type { LeaseError, LeaseErrorCode } from '../errors.ts'
import type { Info } from '../lease.ts'
import { Manager } from '../manager.ts'
import type { FaultyClient, Guard, Harness, Runner } from './harness.ts'

/** What a clause may need beyond the two clients. */
export type Need = 'notifications' | 'lines' | 'serverClock' | 'exactClock' | 'faults' | 'restart' | 'guard' | 'noGuard'

export const ALICE = 'alice'
export const BOB = 'bob'
export const CAROL = 'carol'

/** One chapter of the contract: a title, and a function that states its clauses. */
export interface Chapter {
  readonly title: string
  readonly state: (clause: Clause) => void
}

/** States one clause. The title is a promise; `needs` are checked against the harness. */
export type Clause = (title: string, body: (scene: Scene) => Promise<void>, ...needs: readonly Need[]) => void

/** Declares a chapter's tests with the runner. */
export function declare(runner: Runner, harness: Harness, { title, state }: Chapter): void {
  runner.describe(title, () => {
    const namespace = `conformance-${title.replaceAll(' ', '-')}-${randomBytes(6).toString('hex')}`
    let pair: readonly [Client, Client] | undefined
    runner.before(async () => {
      pair = [await harness.open(namespace), await harness.open(namespace)]
    })
    runner.after(async () => {
      for (const client of pair ?? []) await client.close()
    })

    let clauses = 0
    state((promise, body, ...needs) => {
      const lease = `${title.replaceAll(' ', '-')}-${++clauses}`
      const test = async (): Promise<void> => {
        assert(pair !== undefined, 'the harness opened no clients')
        const scene = new Scene(harness, namespace, lease, pair)
        try {
          await body(scene)
        } finally {
          await scene.tidy()
        }
      }
      const lacking = needs.map((need) => whyNot(need, harness)).find((reason) => reason !== undefined)
      if (lacking === undefined) runner.it(promise, test)
      else skip(runner, `${promise} (skipped: ${lacking})`, test)
    })
  })
}

function skip(runner: Runner, title: string, test: () => Promise<void>): void {
  if (runner.it.skip !== undefined) runner.it.skip(title, test)
  else (runner.it as (title: string) => unknown)(title)
}

/** Why the harness does not meet the need, or undefined. */
function whyNot(need: Need, { supports, openFaulty, restart, guard }: Harness): string | undefined {
  const needs: Readonly<Record<Need, readonly [boolean, string]>> = {
    notifications: [supports.notifications, 'the substrate has no notifications'],
    lines: [supports.lines === true, 'the client keeps no lines of those who wait'],
    serverClock: [supports.serverClock, 'the store has no clock of its own'],
    exactClock: [supports.exactClock === true, 'exact instants cannot be met on a real clock'],
    faults: [openFaulty !== undefined, 'the harness has no openFaulty'],
    restart: [restart !== undefined, 'the harness has no restart'],
    guard: [guard !== undefined, 'the substrate has no trapdoor'],
    noGuard: [guard === undefined, 'the substrate has a trapdoor'],
  }
  const [met, reason] = needs[need]
  return met ? undefined : reason
}

/** What one clause has at hand. */
export class Scene {
  /** Two clients of the same namespace, as if in two processes. */
  readonly a: Client
  readonly b: Client
  /** A lease that no other clause uses. */
  readonly lease: string
  readonly clock: Clock
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

  constructor(harness: Harness, namespace: string, lease: string, [a, b]: readonly [Client, Client]) {
    this.#harness = harness
    this.#namespace = namespace
    this.lease = lease
    this.a = a
    this.b = b
    this.clock = harness.clock ?? systemClock
    this.unitMs = harness.unitMs
    this.longMs = harness.unitMs * 1000
    this.patienceMs = harness.unitMs * 30
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

  async openFaulty(): Promise<FaultyClient> {
    assert(this.#harness.openFaulty !== undefined)
    const faulty = await this.#harness.openFaulty(this.#namespace)
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

  /** Lets time pass. Never twice at once: on a test clock the two would add up. */
  pass(delayMs: number): Promise<void> {
    return this.#harness.sleep(delayMs)
  }

  /** Lets a lease lapse that was granted for `durationMs`, for everybody who is given as an observer. */
  async lapse(lease: string, durationMs: number, ...observers: readonly Client[]): Promise<void> {
    if (!this.serverClock) for (const observer of observers) await observer.refresh([lease])
    await this.pass(durationMs * 1.002 + this.unitMs / 10 + 2 + (this.#harness.lateMs ?? 0))
  }

  /** The outcome of a call that needs time to pass. */
  async settle<T>(call: Promise<T>, what: string = 'the call'): Promise<T> {
    let settled = false
    void Promise.allSettled([call]).then(() => (settled = true))
    await this.until(`answer to ${what}`, () => settled)
    return call
  }

  /** Lets time pass until the condition holds. */
  async until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
    const startedMs = this.clock.monotonic()
    // The first steps are short: what needs no time but a round trip should not cost more.
    for (let stepMs = 0; !(await condition()); stepMs = Math.min(this.unitMs / 10, stepMs * 2 + this.unitMs / 100)) {
      const waitedMs = this.clock.monotonic() - startedMs
      if (waitedMs > this.patienceMs) assert.fail(`no ${what} within ${Math.round(waitedMs)} ms`)
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
        if (codeOf(error) === 'LEASE_INVALID') return false
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

  /** Closes what the clause opened, the latest first. */
  async tidy(): Promise<void> {
    for (const opened of this.#opened.toReversed()) await this.settle(opened.close(), 'close')
  }
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
  throw new assert.AssertionError({ message: `${what}: expected ${code}, but it ${outcome}` })
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
    else assert.fail(`expected a grant or ErrInvalid, but got ${describeError(outcome.reason)}`)
  }
  return { granted, refused }
}
