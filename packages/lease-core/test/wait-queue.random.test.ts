import { expect } from 'chai'
import type { LeaseChange } from '#src/client.ts'
import { sleep } from '#src/clock.ts'
import { LeaseError } from '#src/errors.ts'
import { Manager } from '#src/manager.ts'
import { MemoryStore, MemorySubstrate } from '#src/memory/index.ts'
import { SubstrateClient } from '#src/substrate-client.ts'
import type { Call, Holding, Op, Verdict } from '#src/substrate.ts'
import { TestClock } from '#src/testing/index.ts'
import { LONGEST_REST_MS, PASS_OVER_MS } from '#src/ticket.ts'

/**
 * Several processes that die now and then, waiters that come and go, requests and hints that take their time: nobody waits for a vacant
 * lease for long. `WAIT_SEEDS=1-1000` runs other seeds; a failure names its own.
 */
const [FIRST_SEED, LAST_SEED] = (process.env['WAIT_SEEDS'] ?? '1-16').split('-').map(Number) as [number, number]
const LEASES = ['x', 'y']
const LONGEST_HINT_MS = 300
const LONGEST_LEG_MS = 30
const STEP_MS = 25
/** Where a wait may last until the next look that nobody causes. */
const LONG_STEP_MS = 400
/** A hint, two claims (one was in flight), twelve slots of three times what a claim takes, and a pause after a refusal. */
const BOUND_MS = LONGEST_HINT_MS + 4 * LONGEST_LEG_MS + 12 * Math.min(100, 6 * LONGEST_LEG_MS) + 150
/** Two tickets of processes that have died, or three waiters that get in each other's way: notified in vain, and passed over. */
const PASSING_MS = PASS_OVER_MS + 2 * LONGEST_LEG_MS
/** Hints were lost, or the process that had woken the queue died: those who wait look by themselves. */
const REST_BOUND_MS = LONGEST_REST_MS + BOUND_MS

type Random = () => number

interface Faults {
  /** Hints overtake each other. */
  readonly overtaking: boolean
  /** Hints arrive twice, each after a time of its own. */
  readonly doubled: boolean
  /** Requests and answers are lost, so often of ten. */
  readonly losses: number
  /** Hints are lost, so often of ten. */
  readonly lostHints: number
  /** Processes die, and others come. */
  readonly dying: boolean
}

/** A way to the store on which everything takes a random time. */
class SlowSubstrate extends MemorySubstrate {
  readonly #clock: TestClock
  readonly #random: Random
  readonly #faults: Faults
  #isDead = false

  constructor(store: MemoryStore, clock: TestClock, random: Random, faults: Faults) {
    super({ store })
    this.#clock = clock
    this.#random = random
    this.#faults = faults
  }

  /** Nothing that is sent arrives any more, here or there. */
  die(): void {
    this.#isDead = true
  }

  override apply(ops: readonly Op[], call: Call): Promise<readonly Verdict[]> {
    return this.#slowly(() => super.apply(ops, call))
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
      if (change.kind !== 'resync' && this.#random() * 10 < this.#faults.lostHints) return
      for (let copy = this.#faults.doubled && this.#random() < 0.3 ? 2 : 1; copy > 0; copy--) {
        const nowMs = this.#clock.monotonic()
        const atMs = nowMs + this.#random() * LONGEST_HINT_MS
        lastMs = this.#faults.overtaking ? atMs : Math.max(lastMs, atMs)
        this.#clock.setTimer(lastMs - nowMs, () => void (this.#isDead || listener(change)))
      }
    }, client)
  }

  async #slowly<T>(work: () => Promise<T>): Promise<T> {
    await this.#leg()
    if (this.#isDead) return new Promise(() => {})
    if (this.#isLost()) throw new Error('the request was lost')
    const answer = await work()
    await this.#leg()
    if (this.#isDead) return new Promise(() => {})
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

/** One process. */
interface Process {
  readonly substrate: SlowSubstrate
  readonly client: SubstrateClient
  readonly manager: Manager
  readonly holders: Set<string>
}

class Life {
  readonly #random: Random
  readonly #clock = new TestClock()
  readonly #store = new MemoryStore({ clock: this.#clock })
  readonly #processes: Process[]
  readonly #waiting = new Set<Waiting>()
  readonly #observing = new Set<AbortController>()
  readonly #work = new Set<Promise<void>>()
  readonly #log: string[] = []
  /** How often something begins. */
  readonly #rate: number
  readonly #faults: Faults
  readonly #stepMs: number
  /** Those who held or waited in a process that died. */
  readonly #dead = new Set<string>()
  readonly #revoked = new Set<string>()
  #names = 0
  #deaths = 0
  #lastDeathMs = Number.NEGATIVE_INFINITY
  grants = 0
  /** The longest waits, by what they are bounded by. */
  readonly longestMs: Record<'hint' | 'passing' | 'rest', number> = { hint: 0, passing: 0, rest: 0 }

  constructor(random: Random) {
    this.#random = random
    const faults = {
      overtaking: random() < 0.3,
      doubled: random() < 0.3,
      losses: random() < 0.3 ? 1 : 0,
      lostHints: random() < 0.3 ? this.#any(1, 3) : 0,
      dying: random() < 0.3,
    }
    // Where waiters are to be left behind there must be many.
    const rates = faults.dying || faults.lostHints > 0 ? [0.3, 0.6] : [0.03, 0.1, 0.3]
    this.#rate = rates[Math.floor(random() * rates.length)] as number
    this.#faults = faults
    this.#stepMs = faults.lostHints > 0 || (faults.dying && random() < 0.5) ? LONG_STEP_MS : STEP_MS
    this.#processes = Array.from({ length: 4 }, () => this.#begun())
  }

  #any(from: number, to: number): number {
    return from + Math.floor(this.#random() * (to - from + 1))
  }

  #begun(): Process {
    const substrate = new SlowSubstrate(this.#store, this.#clock, this.#random, this.#faults)
    const client = new SubstrateClient({ substrate, clock: this.#clock })
    const manager = new Manager({ client, clock: this.#clock, maxSleep: { hours: 1 } })
    return { substrate, client, manager, holders: new Set() }
  }

  /** A process ends without a farewell, and another begins. */
  #die(): void {
    const index = this.#any(0, this.#processes.length - 1)
    const { substrate, client, manager, holders } = this.#processes[index] as Process
    this.#say(`${index} dies`)
    for (const holder of holders) this.#dead.add(holder)
    substrate.die()
    void client.close()
    void manager.stop()
    this.#deaths++
    this.#lastDeathMs = this.#clock.monotonic()
    this.#processes[index] = this.#begun()
  }

  /** Somebody sees to it that leases of processes that died do not stay held. */
  #revoke(held: ReadonlyMap<string, Holding>): void {
    for (const [lease, { holder, fencingToken }] of held) {
      if (!this.#dead.has(holder) || this.#revoked.has(lease)) continue
      const { manager } = this.#pick(this.#processes) as Process
      this.#say(`${lease} is revoked from ${holder}`)
      this.#revoked.add(lease)
      this.#do(() => manager.revoke(lease, { fencingToken }).finally(() => this.#revoked.delete(lease)))
    }
  }

  /** How long a waiter waits at most for a lease that is vacant since then, and why. */
  #bound(sinceMs: number): readonly ['hint' | 'passing' | 'rest', number] {
    const { lostHints, dying, losses } = this.#faults
    if (lostHints > 0 || (dying && losses > 0) || this.#lastDeathMs >= sinceMs - this.#stepMs) {
      return ['rest', REST_BOUND_MS]
    }
    if (this.#deaths === 0) return ['hint', BOUND_MS]
    return ['passing', BOUND_MS + Math.ceil(this.#deaths / 2) * PASSING_MS]
  }

  async run(steps: number): Promise<void> {
    /** By lease and waiter: since when the lease is vacant while this one waits. */
    const since = new Map<string, Map<Waiting, number>>(LEASES.map((lease) => [lease, new Map()]))
    for (let step = 0; step < steps; step++) {
      if (step < steps / 2 && this.#random() < this.#rate) this.#do(() => this.#live())
      if (this.#random() < 0.03) this.#pick([...this.#waiting])?.controller.abort(new Error('no patience'))
      if (this.#faults.dying && this.#random() < 0.04) this.#die()
      await this.#clock.advance(this.#stepMs)
      const held = this.#store.namespace('default').read(LEASES)
      this.#revoke(held)
      for (const [lease, waiters] of since) {
        for (const waiter of waiters.keys()) if (held.has(lease) || !this.#waiting.has(waiter)) waiters.delete(waiter)
        if (held.has(lease)) continue
        for (const waiter of this.#waiting) {
          if (!waiter.leases.includes(lease)) continue
          const sinceMs = waiters.get(waiter) ?? this.#clock.monotonic()
          waiters.set(waiter, sinceMs)
          const waitedMs = this.#clock.monotonic() - sinceMs
          const [what, boundMs] = this.#bound(sinceMs)
          this.longestMs[what] = Math.max(this.longestMs[what], waitedMs)
          if (waitedMs > boundMs) {
            throw new Error(
              `${waiter.what} waits for "${lease}", vacant for ${waitedMs} ms (${what}: ${boundMs}): ${JSON.stringify(this.#faults)}\n${this.#log.slice(-60).join('\n')}`,
            )
          }
        }
      }
    }
    for (const controller of [...this.#observing, ...[...this.#waiting].map((waiting) => waiting.controller)])
      controller.abort(new Error('over'))
    await this.#clock.advance(20 * this.#stepMs + 2_000)
    for (const { manager } of this.#processes) await manager.stop()
    await Promise.all(this.#work)
  }

  #do(run: () => Promise<void>): void {
    const work = run().catch((error: unknown) => {
      if (!(error instanceof LeaseError)) throw error
    })
    this.#work.add(work)
    void work.finally(() => this.#work.delete(work))
  }

  /** Uses one lease, or any of them. */
  async #live(): Promise<void> {
    const process = this.#pick(this.#processes) as Process
    const { manager } = process
    const lease = this.#pick(LEASES) as string
    const holder = `h${this.#names++}`
    const kind = this.#pick(['hold', 'hold', 'hold', 'short', 'any', 'see', 'claim', 'observe']) as string
    process.holders.add(holder)
    const controller = new AbortController()
    const waiting: Waiting = { what: `${kind} ${holder}`, leases: kind === 'any' ? LEASES : [lease], controller }
    const { signal } = controller
    const options = { duration: { hours: 2 }, wait: kind === 'short' ? 20 + this.#random() * 500 : true, signal }
    this.#say(`${waiting.what} begins at ${this.#processes.indexOf(process)} for ${waiting.leases.join()}`)
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
    return sleep(this.#clock, this.#random() < 0.3 ? 0 : this.#random() * 16 * this.#stepMs)
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
  it('claims a vacant lease within the bound, whatever waiters, processes, requests and hints do', async function () {
    this.timeout(60_000 + 2_000 * (LAST_SEED - FIRST_SEED))
    const systems = Math.random
    let grants = 0
    const longestMs = { hint: 0, passing: 0, rest: 0 }
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
        for (const what of ['hint', 'passing', 'rest'] as const) {
          longestMs[what] = Math.max(longestMs[what], life.longestMs[what])
        }
      }
    } finally {
      Math.random = systems
    }
    const { hint, passing, rest } = longestMs
    this.test!.title += ` (${grants} grants; the longest waits: ${hint} ms, past tickets of the dead ${passing} ms, without a hint ${rest} ms)`
    expect(grants).to.be.greaterThan(2 * (LAST_SEED - FIRST_SEED + 1))
  })
})
