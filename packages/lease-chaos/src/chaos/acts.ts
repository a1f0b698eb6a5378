/** What a worker does: rounds of calls of the public API and of the recipes, chosen by a seed. */
import { setTimeout as pass } from 'node:timers/promises'
import { MAX_CAPACITY, type Hold, type HoldOptions, type Manager, type Token } from 'lease-core'
import {
  election,
  FailClosedLock,
  OncePer,
  ReadWriteLock,
  Semaphores,
  type ElectionNode,
  type FencedLock,
} from 'lease-recipes'
import { Weighted, type Random } from 'lease-simulation'
import { UNGUARDED, type Teller } from '../accounts.ts'
import { nowMs, recordReliance } from '../recorder.ts'
import type { WorkerEntry } from '../worker-entry.ts'
import {
  ANY,
  CLOSED_LOCK,
  ELECTION,
  JOBS,
  LEASES,
  LOCK,
  SEMAPHORES,
  unguardedAccount,
  type ChaosEvent,
  LOCAL,
} from './event.ts'
import { call, note, rely } from './journal.ts'

/** How a worker of a run is called. */
export interface ChaosEntry extends WorkerEntry {
  readonly seed: number
  /** When the run began: all workers use the same cold leases at a time. */
  readonly startMs: number
  readonly hot: number
  readonly runners: number
  /** Ways to write that the store has. */
  readonly ways: readonly string[]
  /** The worker breaks promises on purpose, each on a lease of its own: see {@link brokenLease}. */
  readonly broken?: boolean | undefined
}

/** Promises that a negative control breaks. */
export const BROKEN = ['guard-off', 'reply-trust', 'nameless-release'] as const
export type Broken = (typeof BROKEN)[number]

/** The lease on which this promise is broken. */
export function brokenLease(broken: Broken): string {
  return LEASES.hot(BROKEN.indexOf(broken))
}

/** A cold lease is used for so long, beside so many others. */
const COLD = { forMs: 2_000, beside: 6 } as const
const SLOT_MS = 1_000

/** What an actor acts with. */
interface Tools {
  readonly entry: ChaosEntry
  readonly manager: Manager
  readonly random: Random
  readonly teller: Teller
}

/** Acts in a worker, one act after another. The actors of a worker share its clients. */
export class Actor {
  readonly #entry: ChaosEntry
  readonly #manager: Manager
  readonly #random: Random
  readonly #teller: Teller
  readonly #semaphores: Semaphores
  readonly #lock: ReadWriteLock
  readonly #closedLocks: FailClosedLock
  readonly #once: OncePer
  readonly #node: ElectionNode
  readonly #acts: readonly (readonly [weight: number, act: (holder: string) => Promise<void>])[]
  readonly #weighted: Weighted<(holder: string) => Promise<void>>
  /** What one of the worker uses at a time. */
  readonly #busy = new Set<string>()

  constructor({ entry, manager, random, teller }: Tools) {
    this.#entry = entry
    this.#manager = manager
    this.#random = random
    this.#teller = teller
    const { leaseMs, name } = entry
    this.#semaphores = new Semaphores({ manager })
    this.#lock = new ReadWriteLock({ manager, name: LOCK, duration: leaseMs })
    this.#closedLocks = new FailClosedLock({ manager, owner: name, leaseDuration: leaseMs })
    this.#once = new OncePer({ manager, atMost: leaseMs, atLeast: { minutes: 10 } })
    this.#node = election({ manager })(`/${ELECTION}`, { id: name, value: name, ttl: leaseMs })
    this.#node.on('select', (_value, _id, { fencingToken }) => {
      note({ what: 'selected', lease: ELECTION, token: String(fencingToken) })
    })
    this.#node.on('deselect', ({ reason }) => note({ what: 'deselected', lease: ELECTION, detail: reason }))
    this.#node.on('error', (error) => note({ what: 'uncaught', detail: `of the election: ${String(error)}` }))
    this.#acts = [
      [20, (holder) => this.#claim(this.#plainLease(), holder)],
      [20, (holder) => this.#hold(this.#plainLease(), holder)],
      [4, (holder) => this.#holdAny(holder)],
      [10, (holder) => this.#find(this.#plainLease(), holder)],
      [3, (holder) => this.#revoke(holder)],
      [4, (holder) => this.#alone('pin', () => this.#pin(holder))],
      [6, (holder) => this.#permit(holder)],
      [6, (holder) => this.#readOrWrite(holder)],
      [4, (holder) => this.#alone('closed', () => this.#closed(holder))],
      [4, (holder) => this.#alone('lead', () => this.#lead(holder))],
      [4, (holder) => this.#job(holder)],
    ]
    this.#weighted = new Weighted(this.#acts)
  }

  /** One round, by chance. @param holder a name that is used for this round alone */
  act(holder: string): Promise<void> {
    if (this.#entry.broken === true) return this.#break(this.#random.pick(BROKEN), holder)
    return this.#weighted.pick(this.#random)(holder)
  }

  /** The rounds in turn: in few of them every operation is called. */
  actInTurn(holder: string, round: number): Promise<void> {
    const [, act] = this.#acts[round % this.#acts.length] ?? []
    return act === undefined ? this.act(holder) : act(holder)
  }

  async stop(): Promise<void> {
    await this.#node.stop()
    await this.#closedLocks.stop()
    await this.#lock.stop()
    await this.#semaphores.stop()
  }

  #plainLease(): string {
    const kind = this.#random.next()
    if (kind < 0.5) return LEASES.hot(this.#random.int(this.#entry.hot))
    if (kind < 0.6) return LEASES.revocable(this.#random.int(2))
    const epoch = Math.floor((nowMs() - this.#entry.startMs) / COLD.forMs)
    return LEASES.cold(epoch * COLD.beside + this.#random.int(COLD.beside))
  }

  /** Seldom for several renewals. */
  #workMs(): number {
    const { leaseMs } = this.#entry
    return this.#random.chance(0.08) ? this.#random.next() * 2.5 * leaseMs : this.#random.next() * 30
  }

  #durationMs(): number {
    return Math.round(this.#entry.leaseMs * (0.7 + 0.6 * this.#random.next()))
  }

  /** Now and then one that gives up soon. */
  #impatience(): { readonly signal?: AbortSignal } {
    return this.#random.chance(0.06) ? { signal: AbortSignal.timeout(1 + this.#random.int(30)) } : {}
  }

  /** Unless another of this worker does it. */
  async #alone(what: string, act: () => Promise<void>): Promise<void> {
    if (this.#busy.has(what)) return
    this.#busy.add(what)
    try {
      await act()
    } finally {
      this.#busy.delete(what)
    }
  }

  // ── Plain leases ──────────────────────────────────────────────────────────────────────────────────────────────

  async #claim(lease: string, holder: string): Promise<void> {
    const durationMs = this.#durationMs()
    const token = await this.#claimOnce(lease, holder, durationMs)
    if (token === undefined) return
    await this.#useToken(lease, token)
    // The same term again. If the first has lapsed by now, a later one.
    const again = this.#random.chance(0.3) ? await this.#claimOnce(lease, holder, durationMs) : undefined
    await pass(this.#random.next() * 20)
    // Some just stop.
    if (this.#random.chance(0.85)) await this.#release(lease, again ?? token)
  }

  async #claimOnce(lease: string, holder: string, durationMs: number): Promise<Token | undefined> {
    const asked = { operation: 'claim', lease, holder, durationMs } as const
    const options = { ...this.#impatience(), ...(this.#random.chance(0.2) && { value: holder, announce: true }) }
    const body = (): Promise<Token> => this.#manager.claim(lease, holder, durationMs, options)
    const { outcome, value } = await call(asked, body, ({ fencingToken }) => ({ token: fencingToken }))
    if (outcome !== 'unknown' || this.#random.chance(0.5)) return value
    // After an unknown outcome a second claim finds the grant, if there was one.
    return (await call(asked, body, ({ fencingToken }) => ({ token: fencingToken }))).value
  }

  async #release(lease: string, { holder, fencingToken: token }: Token): Promise<void> {
    await call({ operation: 'release', lease, holder, token }, () => this.#manager.release(lease, holder))
  }

  async #find(lease: string, asker: string): Promise<void> {
    await call(
      { operation: 'find', lease, holder: asker },
      () => this.#manager.find(lease),
      (info) => (info === undefined ? {} : { token: info.fencingToken, holder: info.holder }),
    )
  }

  async #hold(lease: string, holder: string): Promise<void> {
    const waits = this.#random.next()
    const wait = waits < 0.4 ? false : 100 + this.#random.int(3_000)
    await this.#holdAndUse(wait === false ? 'hold' : 'hold-wait', lease, holder, { wait }, (options) =>
      this.#manager.hold(lease, holder, options),
    )
  }

  async #holdAny(holder: string): Promise<void> {
    const wait = this.#random.chance(0.5) ? false : 2_000
    await this.#holdAndUse('hold-any', ANY, holder, { wait }, (options) =>
      this.#manager.holdAny([`${ANY}-0`, `${ANY}-1`, `${ANY}-2`], holder, options),
    )
  }

  async #holdAndUse(
    operation: 'hold' | 'hold-wait' | 'hold-any',
    lease: string,
    holder: string,
    more: Pick<HoldOptions, 'wait'>,
    take: (options: HoldOptions) => Promise<Hold>,
  ): Promise<void> {
    const duration = this.#durationMs()
    const renewEvery = this.#random.chance(0.1) ? false : undefined
    const options: HoldOptions = { duration, ...more, ...this.#impatience(), renewEvery }
    const askedMs = nowMs()
    const { value: hold } = await call(
      { operation, lease, holder, durationMs: duration },
      () => take(options),
      (granted) => ({ token: granted.fencingToken, lease: granted.lease }),
    )
    if (hold === undefined) return
    let isUsed = false
    const use = this.#useHold(hold).finally(() => (isUsed = true))
    await Promise.all([use, rely(hold, { lease: hold.lease, askedMs }, this.#workMs(), () => isUsed)])
    const { lease: taken, fencingToken: token } = hold
    let isLocal = false
    await call(
      { operation: 'release', lease: taken, holder, token },
      () => {
        isLocal = !hold.held
        return hold.release()
      },
      () => (isLocal ? { detail: LOCAL } : {}),
    )
  }

  async #useHold(hold: Hold): Promise<void> {
    const { lease, holder, fencingToken: token } = hold
    if (this.#random.chance(0.15)) {
      await call({ operation: 'update', lease, holder, token }, () => hold.update(`by ${holder}`))
    }
    if (this.#random.chance(0.15)) {
      await call({ operation: 'renew', lease, holder, token }, () => hold.renew())
    }
    await this.#useToken(lease, hold.token)
  }

  /** A check, and writes to the account of the lease. A term writes once in each way, so that the log tells whose write it was. */
  async #useToken(lease: string, token: Token): Promise<void> {
    const { holder, fencingToken } = token
    const about = { lease, holder, token: fencingToken }
    if (this.#random.chance(0.4)) {
      await call({ operation: 'check', ...about }, () => token.check())
    }
    if (!lease.startsWith('hot-')) return
    if (this.#random.chance(0.4)) {
      await this.#alone('write', () =>
        this.#write(about, (key) => token.check(key), this.#random.pick(this.#entry.ways)),
      )
    }
    if (this.#random.chance(0.1)) {
      await this.#alone('write', () => this.#write(about, (key) => token.check(key), UNGUARDED))
    }
  }

  async #write(
    {
      lease,
      holder,
      token = 0n,
    }: { readonly lease: string; readonly holder: string; readonly token: bigint | undefined },
    check: (key?: unknown) => Promise<unknown>,
    way: string,
    account: string = way === UNGUARDED ? unguardedAccount(lease) : lease,
  ): Promise<void> {
    const operation = way === UNGUARDED ? 'write-unguarded' : 'write'
    const write = (): Promise<string | void> => this.#teller.write(way, { lease, token, account, check })
    const { outcome, value } = await call({ operation, lease, holder, token }, write, undefined, true)
    const what = outcome === 'granted' ? 'written' : outcome === 'refused' ? 'refused' : undefined
    if (what === undefined) return
    note({ what, lease: account, token: String(token), ...(typeof value === 'string' && { detail: value }) })
  }

  async #revoke(holder: string): Promise<void> {
    const lease = LEASES.revocable(this.#random.int(2))
    const info = await this.#manager.find(lease).catch(() => undefined)
    const token = info?.fencingToken
    await call({ operation: 'revoke', lease, holder, token }, () =>
      this.#manager.revoke(lease, { fencingToken: token }),
    )
  }

  async #pin(holder: string): Promise<void> {
    const lease = LEASES.pinned(this.#entry.name)
    await call({ operation: 'pin', lease, holder }, () => this.#manager.pin(lease, holder))
    await this.#claim(lease, holder)
    // A pin of unknown outcome may be there.
    for (let outcome = 'unknown'; outcome !== 'granted';) {
      outcome = (await call({ operation: 'unpin', lease, holder }, () => this.#manager.unpin(lease, holder))).outcome
      if (outcome === 'failed') return
    }
  }

  // ── Recipes ───────────────────────────────────────────────────────────────────────────────────────────────────

  async #permit(holder: string): Promise<void> {
    const lease = this.#random.pick(Object.keys(SEMAPHORES))
    const n = SEMAPHORES[lease] ?? 1
    const weight = 1 + this.#random.int(n)
    const askedMs = nowMs()
    const options = { n, permits: weight, wait: 3_000, keepAlive: this.#random.chance(0.3), ...this.#impatience() }
    const { value: permit } = await call(
      { operation: 'permit', lease, holder },
      () => this.#semaphores.post(lease, holder, this.#durationMs(), options),
      ({ fencingToken }) => ({ token: fencingToken }),
    )
    if (permit === undefined) return
    await rely(permit, { lease, askedMs, weight }, this.#workMs())
    await permit.close().catch(() => {}) // it ends when its time is over
  }

  async #readOrWrite(holder: string): Promise<void> {
    const writes = this.#random.chance(0.3)
    const askedMs = nowMs()
    const options = { wait: 3_000, ...this.#impatience() }
    const { value: lock } = await call(
      { operation: writes ? 'write-lock' : 'read-lock', lease: LOCK, holder },
      () => (writes ? this.#lock.wlock(holder, options) : this.#lock.rlock(holder, options)),
      ({ fencingToken }) => ({ token: fencingToken }),
    )
    if (lock === undefined) return
    await rely(lock, { lease: LOCK, askedMs, weight: writes ? MAX_CAPACITY : 1 }, this.#workMs())
    await lock.unlock().catch(() => {}) // it lapses
  }

  async #closed(holder: string): Promise<void> {
    const askedMs = nowMs()
    const { value: lock } = await call(
      { operation: 'closed-lock', lease: CLOSED_LOCK, holder },
      () => this.#closedLocks.tryAcquire(CLOSED_LOCK),
      (acquired) => (acquired === undefined ? { isRefusal: true } : { token: acquired.fencingToken }),
    )
    if (lock !== undefined) await this.#useClosed(lock, askedMs)
    // What is left locked in the name of this worker, an operator has to free: an unknown outcome, or a release that the store forgot.
    const cleared = await clearClosedLock(this.#manager, (owner) => owner === this.#entry.name)
    if (cleared !== undefined) note(cleared)
  }

  async #useClosed(lock: FencedLock, askedMs: number): Promise<void> {
    await rely(lock, { lease: CLOSED_LOCK, askedMs }, this.#random.next() * 30)
    await lock.release().catch(() => {}) // cleared afterwards
  }

  async #lead(holder: string): Promise<void> {
    const askedMs = nowMs()
    const patienceMs = askedMs + 3_000
    await call(
      { operation: 'lead', lease: ELECTION, holder },
      async () => {
        void this.#node.start().catch(() => {}) // seen below
        while (!this.#node.isSelected() && nowMs() < patienceMs) await pass(5)
      },
      () => (this.#node.isSelected() ? { token: this.#node.fencingToken } : { isRefusal: true }),
    )
    const { term } = this.#node
    if (term !== undefined) await rely(term, { lease: ELECTION, askedMs }, this.#workMs())
    await this.#node.stop()
  }

  async #job(holder: string): Promise<void> {
    const job = this.#random.pick(JOBS)
    const retry = job === 'job-retry'
    const askedMs = nowMs()
    const slot = new Date((Math.floor(Date.now() / SLOT_MS) + 1) * SLOT_MS)
    const { value: begun } = await call({ operation: 'once-per', lease: job, holder }, () =>
      this.#once.begin(job, slot, { retry }),
    )
    if (begun === undefined || !begun.ran) return
    const { run } = begun
    const named = { lease: job, token: String(run.fencingToken) }
    note({ what: 'begun', ...named, detail: run.slot, askedMs })
    await rely(run, { lease: job, askedMs }, this.#workMs())
    const untilMs = nowMs() + run.remaining().toMillis()
    const isDone = await run.release().then(
      () => true,
      () => false,
    )
    // Otherwise another may have had the turn by then, and what is done may not be recorded.
    if (isDone && nowMs() < untilMs) note({ what: 'done', ...named })
  }

  // ── Negative controls ─────────────────────────────────────────────────────────────────────────────────────────

  /** A round that breaks one promise. */
  async #break(broken: Broken, holder: string): Promise<void> {
    const lease = brokenLease(broken)
    const durationMs = Math.round(this.#entry.leaseMs / 2)
    const dawdle = (): Promise<void> => pass(this.#random.next() * 2 * durationMs)
    const askedMs = nowMs()
    const token = await this.#claimOnce(lease, holder, durationMs)
    if (token?.fencingToken === undefined) return
    const { fencingToken } = token
    if (broken === 'guard-off') {
      // A guard would refuse it when it comes too late.
      await this.#write({ lease, holder, token: fencingToken }, dawdle, UNGUARDED, lease)
      await this.#release(lease, token)
    } else if (broken === 'reply-trust') {
      const untilMs = nowMs() + 1.1 * durationMs
      await recordReliance(
        { fencingToken, lease, askedMs },
        () => nowMs() < untilMs,
        5,
        () => ({ holder }),
      )
    } else {
      await dawdle()
      await call({ operation: 'revoke', lease, holder }, () => this.#manager.revoke(lease))
    }
  }
}

/**
 * Frees the fail-closed lock where its owner is gone, as an operator does. Resolves to what a history says of that, if it was needed: who
 * else had the lock just then may go on relying on it.
 */
export async function clearClosedLock(
  manager: Manager,
  isGone: (owner: string) => boolean,
): Promise<Omit<ChaosEvent, 'worker'> | undefined> {
  const locks = new FailClosedLock({ manager, owner: 'operator' })
  try {
    const left = (await locks.list()).find(({ id, owner = '' }) => id === CLOSED_LOCK && isGone(owner))
    if (left === undefined) return undefined
    const atMs = nowMs()
    await locks.forceRelease(CLOSED_LOCK)
    return { what: 'cleared', lease: CLOSED_LOCK, atMs, sampledMs: nowMs() }
  } catch {
    return undefined // the next look finds it
  } finally {
    await locks.stop()
  }
}
