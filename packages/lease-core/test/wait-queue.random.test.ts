import { expect } from 'chai'
import type { LeaseChange } from '#src/client.ts'
import { sleep } from '#src/clock.ts'
import { LeaseError } from '#src/errors.ts'
import { Manager } from '#src/manager.ts'
import { MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import type { AnyVerdict, Call, ClaimAnyOp, Holding, Op, Verdict } from '#src/substrate.ts'
import { TestClock } from '#src/testing/index.ts'

/**
 * Several processes, waiters that come and go, requests and hints that take their time and get lost never: nobody waits for a
 * vacant lease for long. `WAIT_SEEDS=1-1000` runs other seeds; a failure names its own.
 */
const [FIRST_SEED, LAST_SEED] = (process.env['WAIT_SEEDS'] ?? '1-25').split('-').map(Number) as [number, number]
const LEASES = ['x', 'y']
const LONGEST_HINT_MS = 300
const LONGEST_LEG_MS = 30
const STEP_MS = 25
/** A hint, two claims (one was in flight), twelve slots of three times what a claim takes, and a pause after a refusal. */
const BOUND_MS = LONGEST_HINT_MS + 4 * LONGEST_LEG_MS + 12 * Math.min(100, 6 * LONGEST_LEG_MS) + 150

type Random = () => number

interface Faults {
  /** Hints overtake each other. */
  readonly overtaking: boolean
  /** Hints arrive twice, each after a time of its own. */
  readonly doubled: boolean
  /** Requests and answers are lost, so often of ten. */
  readonly losses: number
}

/** A way to the store on which everything takes a random time. */
class SlowSubstrate extends MemorySubstrate {
  readonly #clock: TestClock
  readonly #random: Random
  readonly #faults: Faults

  constructor(store: MemoryStore, clock: TestClock, random: Random, faults: Faults) {
    super({ store })
    this.#clock = clock
    this.#random = random
    this.#faults = faults
  }

  override apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    return this.#slowly(() => super.apply(ops, call))
  }

  override claimAny(op: ClaimAnyOp, call: Call): Promise<AnyVerdict> {
    return this.#slowly(() => super.claimAny(op, call))
  }

  override read(
    leases: readonly string[] | undefined,
    call: Call,
    watched?: readonly string[],
  ): Promise<ReadonlyMap<string, Holding>> {
    return this.#slowly(() => super.read(leases, call, watched))
  }

  override watch(listener: (change: LeaseChange) => void, client?: string): () => void {
    let lastMs = 0
    return super.watch((change) => {
      for (let copy = this.#faults.doubled && this.#random() < 0.3 ? 2 : 1; copy > 0; copy--) {
        const nowMs = this.#clock.monotonic()
        const atMs = nowMs + this.#random() * LONGEST_HINT_MS
        lastMs = this.#faults.overtaking ? atMs : Math.max(lastMs, atMs)
        this.#clock.setTimer(lastMs - nowMs, () => listener(change))
      }
    }, client)
  }

  async #slowly<T>(work: () => Promise<T>): Promise<T> {
    await this.#leg()
    if (this.#isLost()) throw new Error('the request was lost')
    const answer = await work()
    await this.#leg()
    if (this.#isLost()) throw new Error('the answer was lost')
    return answer
  }

  #isLost(): boolean {
    return this.#random() * 10 < this.#faults.losses
  }

  #leg(): Promise<void> {
    return sleep(this.#clock, this.#random() * LONGEST_LEG_MS)
  }
}

/** One who waits for a vacancy of one of these leases. */
interface Waiting {
  readonly what: string
  readonly leases: readonly string[]
  readonly controller: AbortController
}

class Life {
  readonly #random: Random
  readonly #clock = new TestClock()
  readonly #store = new MemoryStore({ clock: this.#clock })
  readonly #managers: readonly Manager[]
  readonly #waiting = new Set<Waiting>()
  readonly #observing = new Set<AbortController>()
  readonly #work = new Set<Promise<void>>()
  readonly #log: string[] = []
  /** How often something begins. */
  readonly #rate: number
  readonly #faults: Faults
  #names = 0
  grants = 0
  longestMs = 0

  constructor(random: Random) {
    this.#random = random
    const faults = { overtaking: random() < 0.3, doubled: random() < 0.3, losses: random() < 0.3 ? 1 : 0 }
    this.#rate = [0.03, 0.1, 0.3][Math.floor(random() * 3)] as number
    this.#faults = faults
    this.#managers = Array.from({ length: 4 }, () => {
      const substrate = new SlowSubstrate(this.#store, this.#clock, random, faults)
      return new Manager({
        client: new SubstrateClient({ substrate, clock: this.#clock }),
        clock: this.#clock,
        maxSleep: { hours: 1 },
      })
    })
  }

  async run(steps: number): Promise<void> {
    /** By lease and waiter: since when the lease is vacant while this one waits. */
    const since = new Map<string, Map<Waiting, number>>(LEASES.map((lease) => [lease, new Map()]))
    for (let step = 0; step < steps; step++) {
      if (step < steps / 2 && this.#random() < this.#rate) this.#begin()
      if (this.#random() < 0.03) this.#pick([...this.#waiting])?.controller.abort(new Error('no patience'))
      await this.#clock.advance(STEP_MS)
      const held = this.#store.namespace('default').read(LEASES)
      for (const [lease, waiters] of since) {
        for (const waiter of waiters.keys()) if (held.has(lease) || !this.#waiting.has(waiter)) waiters.delete(waiter)
        if (held.has(lease)) continue
        for (const waiter of this.#waiting) {
          if (!waiter.leases.includes(lease)) continue
          const sinceMs = waiters.get(waiter) ?? this.#clock.monotonic()
          waiters.set(waiter, sinceMs)
          const waitedMs = this.#clock.monotonic() - sinceMs
          this.longestMs = Math.max(this.longestMs, waitedMs)
          if (waitedMs > BOUND_MS) {
            throw new Error(
              `${waiter.what} waits for "${lease}", vacant for ${waitedMs} ms: ${JSON.stringify(this.#faults)}\n${this.#log.slice(-60).join('\n')}`,
            )
          }
        }
      }
    }
    for (const controller of [...this.#observing, ...[...this.#waiting].map((waiting) => waiting.controller)])
      controller.abort(new Error('over'))
    await this.#clock.advance(2_000)
    for (const manager of this.#managers) await manager.stop()
    await Promise.all(this.#work)
  }

  /** Starts something that uses one lease, or any of them. */
  #begin(): void {
    const work = this.#live().catch((error: unknown) => {
      if (!(error instanceof LeaseError)) throw error
    })
    this.#work.add(work)
    void work.finally(() => this.#work.delete(work))
  }

  async #live(): Promise<void> {
    const manager = this.#pick(this.#managers) as Manager
    const lease = this.#pick(LEASES) as string
    const holder = `h${this.#names++}`
    const kind = this.#pick(['hold', 'hold', 'hold', 'short', 'any', 'see', 'claim', 'observe']) as string
    const controller = new AbortController()
    const waiting: Waiting = { what: `${kind} ${holder}`, leases: kind === 'any' ? LEASES : [lease], controller }
    const { signal } = controller
    const options = { duration: { hours: 2 }, wait: kind === 'short' ? 20 + this.#random() * 500 : true, signal }
    this.#say(`${waiting.what} begins at ${this.#managers.indexOf(manager)} for ${waiting.leases.join()}`)
    try {
      if (kind === 'claim') {
        await manager.claim(lease, holder, { hours: 2 })
        await this.#use()
        await manager.release(lease, holder)
        return
      }
      if (kind === 'observe') {
        this.#observing.add(controller)
        for await (const _ of manager.observe(lease, { signal })) if (this.#random() < 0.1) return
      }
      this.#waiting.add(waiting)
      if (kind === 'see') return await manager.waitUntilExpired(lease, { signal })
      const hold = await (kind === 'any'
        ? manager.holdAny(LEASES, holder, options)
        : manager.hold(lease, holder, options))
      this.grants++
      this.#waiting.delete(waiting)
      this.#say(`${waiting.what} got ${hold.lease}`)
      await this.#use()
      this.#say(`${waiting.what} releases ${hold.lease}`)
      await hold.release()
    } catch (error) {
      if (!signal.aborted) throw error
    } finally {
      this.#waiting.delete(waiting)
      this.#say(`${waiting.what} ends`)
    }
  }

  #use(): Promise<void> {
    return sleep(this.#clock, this.#random() < 0.3 ? 0 : this.#random() * 400)
  }

  #say(what: string): void {
    this.#log.push(`${this.#clock.monotonic().toFixed(0)} ${what}`)
  }

  #pick<T>(list: readonly T[]): T | undefined {
    return list[Math.floor(this.#random() * list.length)]
  }
}

/** After mulberry32. */
function randomOf(seed: number): Random {
  let state = seed * 0x9e3779b1
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

describe('The wait queue, at random', () => {
  it(`claims a vacant lease within ${BOUND_MS} ms, whatever waiters, requests and hints do`, async () => {
    const systems = Math.random
    let grants = 0
    let longestMs = 0
    try {
      for (let seed = FIRST_SEED; seed <= LAST_SEED; seed++) {
        const random = randomOf(seed)
        Math.random = random // of the pauses
        const life = new Life(random)
        try {
          await life.run(400)
        } catch (error) {
          throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error })
        }
        grants += life.grants
        longestMs = Math.max(longestMs, life.longestMs)
      }
    } finally {
      Math.random = systems
    }
    if (process.env['WAIT_SEEDS'] !== undefined) process.stdout.write(`${grants} grants, longest ${longestMs} ms\n`)
    expect(grants).to.be.greaterThan(2 * (LAST_SEED - FIRST_SEED + 1))
  })
})
